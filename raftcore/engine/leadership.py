"""What a node knows only while it leads; thrown away as a whole when it stops leading."""

from __future__ import annotations

from collections import deque

from raftcore.engine.progress import Progress
from raftcore.engine.quorum import Quorum
from raftcore.types import NodeId

ROUNDS_REMEMBERED = 1024
"""Unanswered rounds whose sending time is kept; forgetting an older one only makes a lease look shorter than it is."""


class Transfer:
    """A transfer of leadership under way: to whom, and until when it is tried."""

    __slots__ = ("deadline", "target")

    def __init__(self, target: NodeId, deadline: float) -> None:
        self.target = target
        self.deadline = deadline


class Leadership:
    """The leader's state (paper Figure 2, "volatile state on leaders", and what reads and transfers need).

    `first_index`: the blank entry of this leadership; what is committed from there on is of this leader's own term.
    `match`: each member's durable match, the own node included; `furthest`: the greatest of the others'.
    `rounds`: the newest round each peer has answered. `confirmed_at`: when the newest round that a quorum has
    answered was *sent*. `lease_over`: no lease is relied on any more.
    """

    __slots__ = (
        "acks_changed",
        "confirmed_at",
        "first_index",
        "furthest",
        "heartbeat_at",
        "lease_over",
        "match",
        "notify_at",
        "pending_reads",
        "progress",
        "quorum",
        "round",
        "round_times",
        "rounds",
        "rounds_changed",
        "transfer",
        "uncommitted",
        "uncommitted_bytes",
        "waiting_reads",
    )

    def __init__(self, node: NodeId, quorum: Quorum, first_index: int, durable: int, now: float) -> None:
        self.quorum = quorum
        self.first_index = first_index
        self.progress: dict[NodeId, Progress] = {}
        self.match: dict[NodeId, int] = {node: durable}
        self.furthest = 0
        self.acks_changed = False
        self.uncommitted: deque[tuple[int, int]] = deque()
        self.uncommitted_bytes = 0
        self.notify_at: float | None = None
        self.heartbeat_at = now
        self.round = 0
        self.rounds: dict[NodeId, int] = {node: 0}
        self.rounds_changed = False
        self.round_times: deque[tuple[int, float]] = deque(maxlen=ROUNDS_REMEMBERED)
        self.confirmed_at = now
        self.waiting_reads: list[int] = []
        self.pending_reads: deque[tuple[int, list[int], int]] = deque()
        self.transfer: Transfer | None = None
        self.lease_over = False

    def deadline(self) -> float:
        """When time alone makes the leader do something."""
        deadline = self.heartbeat_at
        if self.notify_at is not None and self.notify_at < deadline:
            deadline = self.notify_at
        if self.transfer is not None and self.transfer.deadline < deadline:
            deadline = self.transfer.deadline
        return deadline

    def acknowledged(self, peer: NodeId, match: int) -> None:
        """A peer's match has grown."""
        self.match[peer] = match
        self.acks_changed = True
        if match > self.furthest:
            self.furthest = match

    def begin_round(self, node: NodeId, now: float) -> None:
        """From here on messages carry a new number; an answer to it proves contact after `now`."""
        self.round += 1
        self.rounds[node] = self.round
        self.round_times.append((self.round, now))

"""The data that everything else speaks in: ids, votes, runs of entries, membership, snapshots.

An *index* is an int; the first entry of a log has index 1, and 0 stands for "before the first". A *term* is an int that
only grows (Raft paper §5.1). Ids and votes are tuples, so they compare in C and order as the text beside them says.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

NodeId = str
"""A node's name, chosen by the operator, such as ``"n1"``; never used again for a different disk."""


class LeaderId(NamedTuple):
    """One leadership: a term and the node that leads it. Totally ordered, term first."""

    term: int
    node: NodeId


class LogId(NamedTuple):
    """A position in the log and the leader that put the entry there.

    Two logs' ends compare directly: the greater `LogId` is the more up-to-date log (paper §5.4.1).
    """

    leader: LeaderId
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants of an id


class Vote(NamedTuple):
    """What a node has promised: the paper's currentTerm, votedFor and "is there a leader" in one value.

    `committed` is True once a quorum has granted it, that is, when `leader` really leads. The node ``""`` in `leader`
    means that the term is known but no vote was cast in it. Every message carries its sender's vote.
    """

    leader: LeaderId
    committed: bool


NO_LEADER = LeaderId(0, "")
NO_LOG = LogId(NO_LEADER, 0)
NO_VOTE = Vote(NO_LEADER, False)


ENTRY_OVERHEAD = 48
"""What an entry weighs in memory beside its payload, in bytes; so that empty payloads are bounded too."""


class EntryKind(enum.IntEnum):
    """What a run's payloads are: the application's, nothing, or a `Membership`."""

    NORMAL = 0
    BLANK = 1
    MEMBERSHIP = 2


class Entry(NamedTuple):
    """One entry, as plugin authors may want to see it. The core never makes one."""

    log_id: LogId
    kind: EntryKind
    payload: bytes


class Entries:
    """A run: consecutive entries of one leader and one kind, stored by column. Never empty, never changed once made.

    `payloads[i]` belongs to index `first_index + i`. `size` is the payloads' total in bytes, `weight` what
    the run counts against limits on memory (`size`, and `ENTRY_OVERHEAD` an entry). `encoded` is filled by
    `raftcore.wire.encode_run` when somebody first needs the bytes; the log and every follower get the same
    ones. A `BLANK` run has one empty payload, a `MEMBERSHIP` run one encoded `Membership`.
    """

    __slots__ = ("encoded", "first_index", "kind", "last_id", "last_index", "leader", "payloads", "size", "weight")

    def __init__(
        self,
        leader: LeaderId,
        first_index: int,
        kind: EntryKind,
        payloads: list[bytes],
        encoded: bytes | None = None,
    ) -> None:
        self.leader = leader
        self.first_index = first_index
        self.kind = kind
        self.payloads = payloads
        last_index = self.last_index = first_index + len(payloads) - 1
        self.last_id = LogId(leader, last_index)
        self.size = sum(map(len, payloads))
        self.weight = self.size + ENTRY_OVERHEAD * len(payloads)
        self.encoded = encoded

    def part(self, first: int, last: int) -> Entries:
        """The run's entries with first <= index <= last; the run itself when that is all of them."""
        first, last = max(first, self.first_index), min(last, self.last_index)
        if first == self.first_index and last == self.last_index:
            return self
        start = first - self.first_index
        return Entries(self.leader, first, self.kind, self.payloads[start : start + last - first + 1])

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[Entry]:
        leader, kind = self.leader, self.kind
        for index, payload in enumerate(self.payloads, self.first_index):
            yield Entry(LogId(leader, index), kind, payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entries):
            return NotImplemented
        return (self.leader, self.first_index, self.kind, self.payloads) == (
            other.leader,
            other.first_index,
            other.kind,
            other.payloads,
        )

    __hash__ = None  # type: ignore[assignment]  # mutable cache inside: not a key

    def __repr__(self) -> str:
        return (
            f"Entries(term {self.leader.term} by {self.leader.node}, {self.kind.name}, "
            f"{self.first_index}..{self.last_index}, {self.size} B)"
        )


class NodeInfo(msgspec.Struct, frozen=True, array_like=True):
    """What the cluster knows of a member. `incarnation` names its disk: "" until the member first showed it."""

    address: str
    incarnation: str = ""


class Membership(msgspec.Struct, frozen=True, array_like=True):
    """Who votes, who only listens, and where they are.

    `voters` has one set while the configuration is uniform and two while it is joint (paper §6, thesis 4.3); each set
    is a sorted tuple. `learners` receive the log and do not count. `nodes` holds an entry for every voter and learner.
    """

    voters: tuple[tuple[NodeId, ...], ...]
    learners: tuple[NodeId, ...] = ()
    nodes: dict[NodeId, NodeInfo] = {}

    @property
    def is_joint(self) -> bool:
        return len(self.voters) > 1

    @property
    def all_voters(self) -> tuple[NodeId, ...]:
        """Every node that votes in at least one of the sets, sorted."""
        if len(self.voters) == 1:
            return self.voters[0]
        return tuple(sorted({node for group in self.voters for node in group}))

    def is_voter(self, node: NodeId) -> bool:
        return any(node in group for group in self.voters)

    @property
    def members(self) -> tuple[NodeId, ...]:
        """Voters and learners, sorted: everyone who receives the log."""
        return tuple(sorted({*self.all_voters, *self.learners}))


NO_MEMBERSHIP = Membership(voters=((),))


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot stands for: the state after every entry up to and including `last`.

    `membership` is the whole configuration in force at `last` and `membership_at` the entry that set it. `size` (bytes)
    and `digest` (SHA-256 of the whole stream, hex) describe the state machine's bytes; both are unset while a
    snapshot is being written. `id` names one stream of bytes for ever: a node never gives it to two.
    """

    id: str
    last: LogId
    membership: Membership
    membership_at: LogId
    size: int = 0
    digest: str = ""
    format: int = 1

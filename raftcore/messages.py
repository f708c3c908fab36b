"""What nodes say to each other. One-way, at most once, in any order; every message carries its sender's vote.

A reply is a message like any other. `round` is the leader's own growing number: a reply repeats the one that it
answers, which is how the leader knows when a quorum was last in touch (check-quorum, leases, read index), with no name
in it that a caller chose. Records are array-like on the wire: new fields go to the end and have a default.
The garbage collector need not look at them (`gc=False`): they hold plain data, which can't form cycles.
"""

from __future__ import annotations

import enum

import msgspec

from raftcore.types import Entries, LogId, SnapshotMeta, Vote


class RequestVote(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """A candidate asks for a vote (paper §5.2); with `pre`, only whether it would be granted (thesis 9.6).

    `vote` is the vote asked for; `last` the end of the candidate's log. `transfer` says that the leader itself asked
    for this election, so that leases do not hold it up (thesis 3.10).
    """

    vote: Vote
    last: LogId
    pre: bool = False
    transfer: bool = False


class VoteReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """`vote` is the voter's own; `request` repeats the vote that was asked for."""

    vote: Vote
    request: Vote
    granted: bool
    pre: bool = False


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Entries that follow `prev` (paper §5.3). Without runs it is a heartbeat and a probe.

    `commit` is the leader's commit index. `runs` are consecutive and start at `prev.index + 1`.
    """

    vote: Vote
    round: int
    prev: LogId
    commit: int
    runs: tuple[Entries, ...] = ()

    @property
    def last_index(self) -> int:
        """The index of the last entry that this message covers."""
        return self.runs[-1].last_index if self.runs else self.prev.index


class AppendReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """`match`: up to this index the follower's *durable* log is the leader's, as far as the answered message covers.

    When the entry before the message's was missing or another leader's, `rejected` is its index and `hint` the last
    position of the follower's log that can still agree with the leader's (at most one rejection a diverging term).
    """

    vote: Vote
    round: int
    match: int
    rejected: int | None = None
    hint: LogId | None = None


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Bytes `offset ..` of the snapshot's stream; `done` on the last one (paper §7)."""

    vote: Vote
    round: int
    meta: SnapshotMeta
    offset: int
    data: bytes
    done: bool


class SnapshotStatus(enum.IntEnum):
    """How a follower stands with a snapshot: wants the byte at `offset` next, has it all, or can't take it."""

    WANT = 0
    INSTALLED = 1
    FAILED = 2


class SnapshotReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """`match` as in `AppendReply`: what of the leader's log the follower now holds durably."""

    vote: Vote
    round: int
    snapshot: str
    status: SnapshotStatus
    offset: int
    match: int = 0


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """The leader asks the receiver to start an election at once (thesis 3.10). `round` shows a stale one for
    what it is."""

    vote: Vote
    round: int


class Forward(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """A command from another member for the leader. `kind` is one of `raftcore.node.forwarding`'s names."""

    vote: Vote
    request: int
    kind: str
    payloads: list[bytes]


class ForwardReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """The leader's answer: `results` in the payloads' order, or `error` (an error's class name and text)."""

    vote: Vote
    request: int
    results: list[bytes | None]
    error: tuple[str, str] | None = None


Message = (
    RequestVote
    | VoteReply
    | AppendEntries
    | AppendReply
    | SnapshotChunk
    | SnapshotReply
    | TimeoutNow
    | Forward
    | ForwardReply
)


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The first thing that two peers exchange. `address` is where the sender can be reached; `versions` of the wire;
    `vote_order` must be the same on all members."""

    cluster: str
    node: str
    incarnation: str
    address: str
    versions: tuple[int, int]
    vote_order: str = "standard"

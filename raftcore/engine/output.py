"""What the engine wants done: messages to send, and rarer things as events. All data, no behaviour."""

from __future__ import annotations

import enum

import msgspec

from raftcore.messages import Message, SnapshotChunk, SnapshotReply
from raftcore.types import Membership, NodeId


class Role(enum.Enum):
    """What a node is at the moment. A learner receives the log, and neither votes in counts nor campaigns."""

    LEARNER = "learner"
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class RoleChanged(msgspec.Struct, frozen=True):
    """The role, the term, or the leader that this node knows of has changed."""

    role: Role
    term: int
    leader: NodeId | None


class MembershipChanged(msgspec.Struct, frozen=True):
    """`membership` is in force on this node now, or has become committed. One for each, in order: who was removed and
    added again between two turns is seen to leave. `jumped`: it came with a snapshot, and those before it were not
    seen."""

    membership: Membership
    jumped: bool = False


class ReadReady(msgspec.Struct, frozen=True):
    """The reads with these ids may be served once everything up to `index` is applied."""

    ids: list[int]
    index: int


class ReadsRefused(msgspec.Struct, frozen=True):
    """These reads can't be confirmed here any more: this node does not lead."""

    ids: list[int]


class EntriesWanted(msgspec.Struct, frozen=True):
    """A follower needs entries that memory no longer holds: read first <= index < stop and hand them to
    `entries_read`."""

    peer: NodeId
    first: int
    stop: int


class SnapshotWanted(msgspec.Struct, frozen=True):
    """A follower needs a snapshot: send the newest until it is installed or this node no longer leads."""

    peer: NodeId


class ChunkArrived(msgspec.Struct, frozen=True):
    """The leader sends a snapshot that this node needs."""

    sender: NodeId
    chunk: SnapshotChunk


class SnapshotAnswered(msgspec.Struct, frozen=True):
    """A follower reports on the snapshot that it is being sent."""

    sender: NodeId
    reply: SnapshotReply


class TransferEnded(msgspec.Struct, frozen=True):
    """A transfer of leadership is over; `done` says that this node leads no more."""

    done: bool


Event = (
    RoleChanged
    | MembershipChanged
    | ReadReady
    | ReadsRefused
    | EntriesWanted
    | SnapshotWanted
    | ChunkArrived
    | SnapshotAnswered
    | TransferEnded
)


class Output(msgspec.Struct, gc=False):
    """Everything that a turn decided. Messages in `send` promise nothing that is not durable."""

    send: list[tuple[NodeId, Message]]
    events: list[Event]

"""Every exception that raftcore raises on purpose.

    RaftCoreError
    ├── ConfigError                 a setting is unknown, of the wrong type, or contradicts another
    ├── PluginError                 a plugin is missing, broken, disabled, or claims a name twice
    ├── IdentityError               the data directory belongs to another node or another cluster
    ├── StorageError                a log store, state machine or snapshot sink failed: the node stops
    │   ├── CorruptData             what is stored can't be what was written
    │   └── StorageInUse            another process has the same data open
    ├── ProposalError               a proposal, or another command, did not succeed
    │   ├── NotAppended             it is not in the log and never will be: safe to retry
    │   │   ├── NotLeader           this node does not lead, and there is no one to forward to
    │   │   ├── Overloaded          a queue is at its limit
    │   │   ├── PayloadTooLarge     one payload is over the limit
    │   │   ├── TransferUnderWay    leadership is being handed over
    │   │   └── MembershipRefused   the change of membership is not allowed (now, or ever)
    │   └── OutcomeUnknown          it may be in the log and may yet be committed
    ├── ReadUnavailable             a read could not be shown to be fresh enough
    ├── WaitTimeout                 a condition that was waited for did not come true in time
    ├── NodeStopped                 the node is closed, or stopped after a failure
    ├── PeerRefused                 a handshake with another node failed
    ├── WireError                   bytes that are not a raftcore message
    └── InvariantViolation          a safety rule of Raft does not hold: the node stops at once

A command that failed says which of two things is true in its type: `NotAppended` (it did not happen and will not) or
`OutcomeUnknown` (it may have happened, or may happen yet; retry only what may be done twice).
"""

from __future__ import annotations

from typing import ClassVar, Literal


class RaftCoreError(Exception):
    """The root of every error that raftcore raises on purpose."""


class ConfigError(RaftCoreError):
    """A setting is unknown, of the wrong type or value, or contradicts another one."""


class PluginError(RaftCoreError):
    """A plugin is missing, failed to load, is disabled, or shares a name with another."""


class IdentityError(RaftCoreError):
    """A data directory belongs to another node or another cluster."""


class StorageError(RaftCoreError):
    """A log store, state machine or snapshot sink failed.

    The node stops: after a failed write it is not known what the disk holds, so nothing is retried.
    """


class CorruptData(StorageError):
    """Stored data is damaged in a place where damage could hide an acknowledged entry."""


class StorageInUse(StorageError):
    """Another process has the same data open."""


class ProposalError(RaftCoreError):
    """A proposal, or another command to the cluster, did not succeed."""

    outcome: ClassVar[Literal["not_appended", "unknown"]]


class NotAppended(ProposalError):
    """The command is not in the log and never will be: it is safe to try again."""

    outcome = "not_appended"


class NotLeader(NotAppended):
    """This node does not lead, and the command was not forwarded."""

    def __init__(self, message: str, leader: str | None = None, address: str | None = None) -> None:
        super().__init__(message)
        self.leader = leader
        self.address = address


class Overloaded(NotAppended):
    """A bounded queue is at its limit; try again when some of it has drained."""


class PayloadTooLarge(NotAppended):
    """One payload is larger than the limit for a payload."""


class TransferUnderWay(NotAppended):
    """Leadership is being handed over; the next leader will take the command."""


class MembershipRefused(NotAppended):
    """A change of membership is not allowed: another is under way, or it makes no sense."""


class OutcomeUnknown(ProposalError):
    """The command may be in the log and may yet be committed.

    Only a command that may safely happen twice should be sent again.
    """

    outcome = "unknown"


class ReadUnavailable(RaftCoreError):
    """A read could not be shown to be as fresh as its policy asks."""


class WaitTimeout(RaftCoreError):
    """A condition did not come true in time."""


class NodeStopped(RaftCoreError):
    """The node is closed, or stopped after a failure; the cause is chained."""


class PeerRefused(RaftCoreError):
    """A handshake with another node failed: wrong cluster, node, incarnation or version."""


class WireError(RaftCoreError):
    """Bytes from a peer or a file are not what raftcore writes."""


class InvariantViolation(RaftCoreError):
    """A safety rule of Raft does not hold. The node stops at once; nothing catches this."""

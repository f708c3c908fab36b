"""Commands between members: a follower passes what it was asked to the leader, and the leader answers.

A forwarded command is sent once. No answer means that its outcome is not known; an answer that names a
`NotAppended` error means that nothing happened, so it may be sent again. A command that arrives twice is served once.

The numbers of a process's requests begin at random: an answer to what its member asked before it restarted must not be
taken for the answer to something else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from raftcore import errors
from raftcore.errors import NotAppended, OutcomeUnknown, RaftCoreError, ReadUnavailable, WaitTimeout
from raftcore.messages import Forward, ForwardReply
from raftcore.node.batch import Batch
from raftcore.types import NodeId, NodeInfo

if TYPE_CHECKING:
    import random

    from raftcore.contracts import Transport
    from raftcore.engine import Engine

PROPOSE: Final = "propose"
READ: Final = "read"
CHANGE: Final = "change"
TRANSFER: Final = "transfer"


REMEMBERED: Final = 1024
"""The newest requests of each member that are remembered as served. Twins on the network arrive closer together."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """The members that are wanted. `voters` None: those that vote now. `learners` None: those that are learners now,
    and the new `nodes`, less the voters. `based_on`: only if this entry still sets the membership in force."""

    voters: list[NodeId] | None
    learners: list[NodeId] | None
    nodes: dict[NodeId, NodeInfo]
    based_on: int | None = None


class Handover(msgspec.Struct, frozen=True, array_like=True):
    """A transfer of leadership, to `target` or to whom the leader chooses."""

    target: NodeId | None


class ReadRequest(msgspec.Struct, frozen=True, array_like=True):
    """A read index is wanted; with `lease`, the leader may answer from its lease."""

    lease: bool


class Reply:
    """Where the answer to a forwarded command goes."""

    __slots__ = ("_engine", "_peer", "_request", "_transport")

    def __init__(self, transport: Transport, engine: Engine, peer: NodeId, request: int) -> None:
        self._transport = transport
        self._engine = engine
        self._peer = peer
        self._request = request

    def results(self, results: Sequence[bytes | None]) -> None:
        """It was done."""
        self._transport.send(self._peer, ForwardReply(self._engine.vote, self._request, list(results)))

    def error(self, error: RaftCoreError) -> None:
        """It was not done, or nobody knows."""
        name = type(error).__name__
        self._transport.send(self._peer, ForwardReply(self._engine.vote, self._request, [], (name, str(error))))


class ForwardedBatch(Batch):
    """A batch that came from another member: the answers go back to it."""

    __slots__ = ("_reply",)

    def __init__(self, payloads: list[bytes], size: int, deadline: float, reply: Reply) -> None:
        super().__init__(payloads, (), False, size, deadline)
        self._reply = reply

    def resolve(self, results: Sequence[bytes | None]) -> None:
        self._reply.results(results)

    def fail(self, error: RaftCoreError) -> None:
        self._reply.error(error)


Answered = Callable[[ForwardReply | OutcomeUnknown], None]


class Forwarding:
    """Commands that were sent to a leader and have no answer yet; and which ones of others were served here."""

    def __init__(self, transport: Transport, engine: Engine, rng: random.Random) -> None:
        self._transport = transport
        self._engine = engine
        self._last_request = rng.getrandbits(62)
        self._served: dict[NodeId, dict[int, None]] = {}
        self._open: dict[int, tuple[NodeId, Answered]] = {}

    def send(self, leader: NodeId, kind: str, payloads: list[bytes], answered: Answered) -> int:
        """Send a command; `answered` is called once, with the reply or with why there will be none. Returns
        the request's number."""
        self._last_request += 1
        self._open[self._last_request] = (leader, answered)
        self._transport.send(leader, Forward(self._engine.vote, self._last_request, kind, payloads))
        return self._last_request

    def forget(self, request: int) -> None:
        """Nobody waits for this one any more."""
        self._open.pop(request, None)

    def answered(self, sender: NodeId, reply: ForwardReply) -> None:
        """The leader has answered; an answer that nobody waits for is dropped."""
        leader, answered = self._open.get(reply.request, (None, None))
        if answered is not None and leader == sender:
            del self._open[reply.request]
            answered(reply)

    def is_new(self, sender: NodeId, request: int) -> bool:
        """Whether this request of another member has not been served before."""
        served = self._served.setdefault(sender, {})
        if request in served:
            return False
        served[request] = None
        if len(served) > REMEMBERED:
            del served[next(iter(served))]
        return True

    def removed(self, peer: NodeId) -> None:
        """`peer` is no member any more."""
        self._served.pop(peer, None)

    def lost(self, peer: NodeId) -> None:
        """The connection to `peer` is gone, and with it the answers that it owed."""
        for request in [request for request, (leader, _) in self._open.items() if leader == peer]:
            _, answered = self._open.pop(request)
            answered(
                OutcomeUnknown(
                    f"the connection to leader {peer} was lost before it answered; the command may yet take effect"
                )
            )

    def end(self, reason: OutcomeUnknown) -> None:
        """The node stops: no answer is taken any more."""
        for request in list(self._open):
            _, answered = self._open.pop(request)
            answered(reason)


def error_of(reply: ForwardReply) -> RaftCoreError | None:
    """The error in a reply, as the exception that it was on the leader; an unknown one leaves the outcome unknown."""
    if reply.error is None:
        return None
    name, text = reply.error
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, NotAppended | OutcomeUnknown | ReadUnavailable | WaitTimeout):
        return kind(text)
    return OutcomeUnknown(f"the leader answered {name}: {text}")

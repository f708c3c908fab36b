"""Proposals that wait for an answer, in batches.

A batch is in exactly one place: *held* (there is no leader to be reached), *appended* (in this leader's log),
or *forwarded* (sent to the leader). Which place it is in when it fails decides the outcome: a held one was
never appended; of the others nobody knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from raftcore.errors import (
    NodeStopped,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    ProposalError,
    RaftCoreError,
    TransferUnderWay,
)
from raftcore.messages import ForwardReply
from raftcore.node.batch import Batch, Waiter, copy_of
from raftcore.node.forwarding import PROPOSE, ForwardedBatch, Forwarding, Reply, error_of

if TYPE_CHECKING:
    from raftcore.engine import Engine
    from raftcore.node.settings import Limits
    from raftcore.types import Entries, NodeId


class Proposals:
    """All proposals of one node, and how much waits: `count` of them, with `bytes` of payload.

    `new`: the payloads that callers have proposed since the last turn. `forwards`: whether a follower passes
    proposals on. `no_use` holds the nodes that nothing is sent to for the moment. `arm` has a turn taken at a
    given time.
    """

    def __init__(
        self,
        engine: Engine,
        forwarding: Forwarding,
        limits: Limits,
        no_use: set[NodeId],
        wake: Callable[[], None],
        arm: Callable[[float], None],
    ) -> None:
        self.count = 0
        self.bytes = 0
        self.forwards = True
        self.held: deque[Batch] = deque()
        self.appended: deque[Batch] = deque()
        self.forwarded: dict[int, Batch] = {}
        self._engine = engine
        self._forwarding = forwarding
        self._no_use = no_use
        self._wake = wake
        self._arm = arm
        self._timeout = limits.proposal_timeout_ms / 1000
        self._max_payload = limits.max_payload_bytes
        self._max_batch = max(limits.max_batch_bytes, limits.max_payload_bytes)
        self._max_count = limits.max_pending_proposals
        self._max_bytes = limits.max_pending_bytes
        self._create_future = asyncio.get_running_loop().create_future
        self._ended: NodeStopped | None = None
        self.new: list[bytes] = []
        self._waiters: list[Waiter] = []
        self._size = 0
        self._has_many = False

    # -- from this node's callers -------------------------------------------------------------------------------------

    def propose(self, payload: bytes) -> asyncio.Future[bytes | None]:
        """See `Node.propose`."""
        size = len(payload)
        if (
            type(payload) is not bytes
            or size > self._max_payload
            or self.count >= self._max_count
            or self.bytes + size > self._max_bytes
            or self._ended is not None
        ):
            self._refuse((payload,), size)
        self.count += 1
        self.bytes += size
        self._size += size
        if not self.new:
            self._wake()
        self.new.append(payload)
        future: asyncio.Future[bytes | None] = self._create_future()
        self._waiters.append(future)
        return future

    def propose_many(self, payloads: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """See `Node.propose_many`."""
        future: asyncio.Future[list[bytes | None]] = self._create_future()
        if not payloads:
            future.set_result([])
            return future
        self._size += self._make_room(payloads)
        self.new.extend(payloads)
        self._waiters.append((future, len(payloads)))
        self._has_many = True
        self._wake()
        return future

    def _make_room(self, payloads: Sequence[bytes]) -> int:
        """Count proposals as pending; their size in bytes. Raises what `_refuse` does."""
        size = sum(map(len, payloads))
        if (
            self._ended is not None
            or size > self._max_batch
            or any(type(payload) is not bytes or len(payload) > self._max_payload for payload in payloads)
            or self.count + len(payloads) > self._max_count
            or self.bytes + size > self._max_bytes
        ):
            self._refuse(payloads, size)
        self.count += len(payloads)
        self.bytes += size
        return size

    def _refuse(self, payloads: Sequence[bytes], size: int) -> NoReturn:
        """Say why these can't be proposed."""
        if self._ended is not None:
            raise copy_of(self._ended)
        for payload in payloads:
            if type(payload) is not bytes:
                raise TypeError(f"a payload must be bytes, not {type(payload).__name__}; encode it first")
            if len(payload) > self._max_payload:
                raise PayloadTooLarge(
                    f"a payload of {len(payload)} bytes is over limits.max_payload_bytes ({self._max_payload}); split "
                    "it, or raise the limit on every member"
                )
        if size > self._max_batch:
            raise PayloadTooLarge(
                f"{len(payloads)} payloads of {size} bytes together are over limits.max_batch_bytes "
                f"({self._max_batch}); make several calls of them"
            )
        raise Overloaded(
            f"{self.count} proposals ({self.bytes} bytes) wait already and {len(payloads)} ({size} bytes) more do not "
            f"fit (limits.max_pending_proposals is {self._max_count}, limits.max_pending_bytes {self._max_bytes}); "
            "try again when some are answered"
        )

    def collect(self, now: float) -> None:
        """What callers have proposed since the last turn becomes a batch, and goes where it can."""
        batch = Batch(self.new, self._waiters, self._has_many, self._size, now + self._timeout)
        self.new, self._waiters, self._has_many, self._size = [], [], False, 0
        self._arm(batch.deadline)
        if batch.size <= self._max_batch:
            self._hand_over(batch)
            return
        for part in batch.parts(self._max_batch):
            self._hand_over(part)

    def serve(self, payloads: list[bytes], reply: Reply, now: float) -> None:
        """Another member passes its callers' proposals on."""
        try:
            size = self._make_room(payloads)
        except RaftCoreError as error:
            reply.error(error)
            return
        batch = ForwardedBatch(payloads, size, now + self._timeout, reply)
        self._arm(batch.deadline)
        self._hand_over(batch)

    # -- to where they are appended -----------------------------------------------------------------------------------

    def _hand_over(self, batch: Batch) -> None:
        """To the engine when this node leads, to the leader when one can be reached, else wait for one."""
        engine, leader = self._engine, self._engine.leader
        if engine.leadership is not None:
            self._append(batch)
        elif isinstance(batch, ForwardedBatch):
            self._fail(batch, NotLeader(f"node {engine.node} does not lead", leader))
        elif leader is None or leader in self._no_use:
            self.held.append(batch)  # sent now it would be lost, and its outcome unknown
        elif self.forwards:
            self._forward(leader, batch)
        else:
            self._fail(batch, NotLeader(f"node {engine.node} does not lead; {leader} does", leader))

    def _append(self, batch: Batch) -> None:
        try:
            runs = self._engine.propose(batch.payloads)
        except TransferUnderWay:
            self.held.append(batch)
        except Overloaded as error:
            self._fail(batch, error)
        else:
            batch.first, batch.last = runs[0].first_index, runs[-1].last_index
            self.appended.append(batch)

    def _forward(self, leader: NodeId, batch: Batch) -> None:
        request, asked = 0, self._engine.vote

        def answered(reply: ForwardReply | OutcomeUnknown) -> None:
            if self.forwarded.pop(request, None) is None:
                return
            error = reply if isinstance(reply, OutcomeUnknown) else error_of(reply)
            if isinstance(error, NotLeader):
                self.held.append(batch)  # it was not appended there, so it may go elsewhere
                if self._engine.vote == asked:
                    self._no_use.add(leader)
                else:  # the news of another leadership went by while this batch was away
                    self.retry()
            elif isinstance(error, ProposalError):
                self._fail(batch, error)
            elif isinstance(reply, ForwardReply) and len(reply.results) == len(batch.payloads):
                self._done(batch)
                batch.resolve(reply.results)
            else:
                self._fail(batch, OutcomeUnknown(f"leader {leader} gave an answer that does not fit"))

        request = self._forwarding.send(leader, PROPOSE, batch.payloads, answered)
        self.forwarded[request] = batch

    def retry(self) -> None:
        """There is a leader to be reached: hand over what was held."""
        for _ in range(len(self.held)):
            self._hand_over(self.held.popleft())

    # -- their ends ---------------------------------------------------------------------------------------------------

    def applied(self, run: Entries, results: Sequence[bytes | None]) -> None:
        """Entries have been applied: answer those of this leader's callers who wait for them."""
        appended = self.appended
        while appended and appended[0].first <= run.last_index:
            if not appended[0].answered(run, results):
                return
            self._done(appended.popleft())

    def leadership_lost(self) -> None:
        """This node does not lead any more: what it appended is in other hands."""
        error = OutcomeUnknown(
            f"node {self._engine.node} lost leadership before the proposal was committed; the next leader may yet "
            "commit it: send it again only if it may happen twice"
        )
        while self.appended:
            self._fail(self.appended.popleft(), error)
        for batch in [batch for batch in self.held if isinstance(batch, ForwardedBatch)]:
            self.held.remove(batch)
            self._hand_over(batch)  # back to whom it came from, who may know a leader

    def next_deadline(self) -> float:
        """When the oldest batch runs out of time."""
        oldest = [batches[0].deadline for batches in (self.held, self.appended) if batches]
        oldest += [batch.deadline for batch in self.forwarded.values()]
        return min(oldest, default=float("inf"))

    def expire(self, now: float) -> None:
        """End batches that have waited too long; what is known of each decides how."""
        name, limit = self._engine.node, f"{self._timeout:g} s (limits.proposal_timeout_ms)"
        never = NotAppended(f"node {name}: no leader took the proposal within {limit}; it was not appended: try again")
        unknown = OutcomeUnknown(
            f"node {name}: no answer within {limit}; the proposal may yet be committed: send it again only if it may "
            "happen twice"
        )
        for batch in [batch for batch in self.held if batch.deadline <= now]:
            self.held.remove(batch)
            self._fail(batch, never)
        while self.appended and self.appended[0].deadline <= now:
            self._fail(self.appended.popleft(), unknown)
        for request in [request for request, batch in self.forwarded.items() if batch.deadline <= now]:
            self._forwarding.forget(request)
            self._fail(self.forwarded.pop(request), unknown)

    def end(self, ended: NodeStopped) -> None:
        """The node stops: nothing is taken any more, and everybody who waits is told what is known."""
        self._ended = ended
        if self.new:
            self.held.append(Batch(self.new, self._waiters, self._has_many, self._size, 0.0))
            self.new, self._waiters = [], []
        name = self._engine.node
        never = NotAppended(f"node {name} stopped before the proposal was appended: ask another member")
        unknown = OutcomeUnknown(f"node {name} stopped; the proposal may be committed by the others, now or later")
        while self.held:
            self._fail(self.held.popleft(), never)
        while self.appended:
            self._fail(self.appended.popleft(), unknown)
        for request in list(self.forwarded):
            self._fail(self.forwarded.pop(request), unknown)

    def _done(self, batch: Batch) -> None:
        """A batch has its answer and no longer counts."""
        self.count -= len(batch.payloads)
        self.bytes -= batch.size

    def _fail(self, batch: Batch, error: ProposalError) -> None:
        self._done(batch)
        batch.fail(error)

"""The loop: everything that arrived goes into the engine in one turn, and what comes out is carried out.

A turn never waits for network, disk or plugin. Writes to the log go one at a time; what is decided while one
is under way becomes one write too, so a slow disk makes batches larger, not queues longer. Time is
`loop.time()` and `call_at`, chance is the `rng` that was handed in, so all of this runs unchanged on a
simulated loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, NoReturn

import msgspec

from raftcore.contracts import Event, LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.engine import Engine
from raftcore.engine import output as engine_output
from raftcore.errors import (
    NodeStopped,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    PeerRefused,
    ProposalError,
    RaftCoreError,
    StorageError,
    TransferUnderWay,
    WireError,
)
from raftcore.messages import Forward, ForwardReply, Hello, Message
from raftcore.node.apply import Applier
from raftcore.node.commands import Commands
from raftcore.node.forwarding import CHANGE, PROPOSE, READ, TRANSFER, ForwardedBatch, Forwarding, Reply, error_of
from raftcore.node.proposals import Batch, Proposals, Waiter
from raftcore.node.reading import Reading
from raftcore.node.snapshots import Snapshots
from raftcore.node.storage import Worker
from raftcore.types import Entries, LogId, NodeId

if TYPE_CHECKING:
    from raftcore.node.recovery import Recovered
    from raftcore.node.settings import Limits, SnapshotPolicy

logger = logging.getLogger("raftcore.node")

FOREVER = float("inf")


class Parts(msgspec.Struct, frozen=True):
    """The plugins of one node, opened, and the threads that call them."""

    log_store: LogStore
    state_machine: StateMachine
    transport: Transport
    sink: SnapshotSink
    observers: tuple[Observer, ...]
    store_worker: Worker
    machine_worker: Worker
    sink_worker: Worker


class Member:
    """One member at work. Fulfils `Endpoint` for its transport."""

    def __init__(
        self, hello: Hello, engine: Engine, parts: Parts, recovered: Recovered, limits: Limits, policy: SnapshotPolicy
    ) -> None:
        self.hello = hello
        self.engine = engine
        self.parts = parts
        self.limits = limits
        self.failure: BaseException | None = None
        self.stopped = False
        self.forwards = True
        self.ticks = True
        self.refused_messages = 0
        self.no_use: set[NodeId] = set()
        """Nodes that can't be reached, or said that they do not lead: nothing is sent to them until there is news."""
        self.proposals = Proposals()
        self._loop = asyncio.get_running_loop()
        self._send = parts.transport.send
        self._inbox: list[tuple[NodeId, Message]] = []
        self._max_payload = limits.max_payload_bytes
        self._max_pending = limits.max_pending_proposals
        self._max_pending_bytes = limits.max_pending_bytes
        self._payloads: list[bytes] = []
        self._waiters: list[Waiter] = []
        self._new_bytes = 0
        self._has_many = False
        self._scheduled = False
        self._writing = False
        self._write_started = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = FOREVER
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes: list[asyncio.Future[None]] = []
        self._incarnations = {hello.node: hello.incarnation}
        self.on_failure: Callable[[], None] = lambda: None
        self.applier = Applier(
            parts.state_machine,
            parts.machine_worker,
            engine,
            recovered.applied,
            recovered.membership_at(recovered.applied.index),
            limits.apply_batch_bytes,
            self._read_log,
            self.proposals.applied,
            self.wake,
            self.fail,
        )
        self.forwarding = Forwarding(parts.transport, engine)
        self.reading = Reading(
            engine,
            self.forwarding,
            limits.read_timeout_ms / 1000,
            limits.max_pending_reads,
            lambda: self.applier.applied.index,
            self.no_use,
        )
        self.commands = Commands(engine, self.forwarding, self.until, self.wake, limits.proposal_timeout_ms / 1000)
        self.snapshots = Snapshots(
            parts.sink,
            parts.sink_worker,
            policy,
            engine,
            self.applier,
            parts.transport,
            recovered.snapshots,
            self.spawn,
            self._purge,
            self.wake,
            self.notify,
        )

    # -- what callers put in ------------------------------------------------------------------------------------------

    def propose(self, payload: bytes) -> asyncio.Future[bytes | None]:
        """See `Node.propose`."""
        proposals, size = self.proposals, len(payload)
        if (
            type(payload) is not bytes
            or size > self._max_payload
            or proposals.count >= self._max_pending
            or proposals.bytes + size > self._max_pending_bytes
            or self.stopped
        ):
            self._refuse((payload,), size)
        proposals.count += 1
        proposals.bytes += size
        self._new_bytes += size
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        self._payloads.append(payload)
        self._waiters.append(future)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        return future

    def propose_many(self, payloads: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """See `Node.propose_many`."""
        future: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        if not payloads:
            future.set_result([])
            return future
        self._new_bytes += self._make_room(payloads)
        self._payloads.extend(payloads)
        self._waiters.append((future, len(payloads)))
        self._has_many = True
        self.wake()
        return future

    def _make_room(self, payloads: Sequence[bytes]) -> int:
        """Count proposals as pending; their size in bytes. Raises what `_refuse` does."""
        proposals, size = self.proposals, sum(map(len, payloads))
        if (
            self.stopped
            or any(type(payload) is not bytes or len(payload) > self._max_payload for payload in payloads)
            or proposals.count + len(payloads) > self._max_pending
            or proposals.bytes + size > self._max_pending_bytes
        ):
            self._refuse(payloads, size)
        proposals.count += len(payloads)
        proposals.bytes += size
        return size

    def _refuse(self, payloads: Sequence[bytes], size: int) -> NoReturn:
        """Say why these can't be proposed."""
        if self.stopped:
            raise self.stopped_error()
        for payload in payloads:
            if type(payload) is not bytes:
                raise TypeError(f"a payload must be bytes, not {type(payload).__name__}; encode it first")
            if len(payload) > self._max_payload:
                raise PayloadTooLarge(
                    f"a payload of {len(payload)} bytes is over limits.max_payload_bytes "
                    f"({self._max_payload}); split it, or "
                    "raise the limit on every member"
                )
        raise Overloaded(
            f"{self.proposals.count} proposals ({self.proposals.bytes} bytes) wait already and "
            f"{len(payloads)} ({size} bytes) "
            f"more do not fit (limits.max_pending_proposals is {self._max_pending}, limits.max_pending_bytes "
            f"{self._max_pending_bytes}); try again when some are answered"
        )

    def read(self, lease: bool) -> asyncio.Future[int]:
        """See `Node.read`."""
        if self.stopped:
            raise self.stopped_error()
        future = self.reading.add(lease, self._loop.time())
        self.wake()
        return future

    def stopped_error(self) -> NodeStopped:
        """Why nothing can be asked of this node any more."""
        if self.failure is None:
            return NodeStopped(f"node {self.hello.node} is closed")
        error = NodeStopped(f"node {self.hello.node} has stopped: {self.failure}")
        error.__cause__ = self.failure
        return error

    # -- what the transport puts in (Endpoint) ------------------------------------------------------------------------

    def deliver(self, sender: NodeId, message: Message) -> None:
        """A message has arrived; the next turn takes it."""
        self._inbox.append((sender, message))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def admit(self, hello: Hello) -> None:
        """Check who it is that wants to talk. Raises `PeerRefused`."""
        mine = self.hello
        if hello.cluster != mine.cluster:
            raise PeerRefused(
                f"node {hello.node!r} belongs to cluster {hello.cluster!r}, this node ({mine.node}) to "
                f"{mine.cluster!r}; "
                "correct the address or cluster.name"
            )
        if hello.node == mine.node:
            raise PeerRefused(
                f"another process at {hello.address} calls itself {hello.node!r} too; every node needs an id of its own"
            )
        if hello.versions[0] > mine.versions[1] or hello.versions[1] < mine.versions[0]:
            raise PeerRefused(
                f"node {hello.node!r} speaks versions {hello.versions[0]}..{hello.versions[1]} of the "
                "protocol, this node "
                f"({mine.node}) {mine.versions[0]}..{mine.versions[1]}; upgrade the older one"
            )
        known = self.engine.membership.nodes.get(hello.node)
        if known is not None and known.incarnation and known.incarnation != hello.incarnation:
            raise PeerRefused(
                f"node {hello.node!r} has come back with another disk (incarnation {hello.incarnation}, the "
                "cluster knows "
                f"{known.incarnation}): it has forgotten what it promised; remove it from the cluster and add "
                "it anew"
            )
        if self._incarnations.get(hello.node) != hello.incarnation:
            self._incarnations[hello.node] = hello.incarnation
            self.engine.learn_incarnations(self._incarnations)
            self.wake()

    def peer_up(self, peer: NodeId) -> None:
        """The peer can be reached."""
        self.no_use.discard(peer)
        if peer == self.engine.leader:
            self._retry()
        self.notify("peer_up", {"peer": peer})

    def peer_down(self, peer: NodeId, reason: str) -> None:
        """The peer can't be reached; what it owed us will not come."""
        self.no_use.add(peer)
        self.forwarding.lost(peer)
        self.notify("peer_down", {"peer": peer, "reason": reason})

    # -- the turn -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Take a turn soon."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        try:
            if not self.stopped:
                self._step(self._loop.time())
        except Exception as error:  # the boundary of the loop: a failure stops the node, it never goes on half-way
            self.fail(error)

    def _step(self, now: float) -> None:
        engine = self.engine
        if self._inbox:
            self._take_messages(now)
        if now >= self._timer_at:
            self._timer_at = FOREVER
            engine.deadline_moved = True
            self._when_due(now)
        if self._payloads:
            self._collect(now)
        if self.reading.count:
            self.reading.hand_over(now)
            if self.reading.timeout_at(now) < self._timer_at:
                self._arm_for(self.reading.timeout_at(now))
        log = engine.log
        while True:
            if (log.dirty or not engine.vote_is_written) and not self._writing:
                self._write(now)
            output = engine.take(now)
            if output is None:
                break
            for peer, message in output.send:
                self._send(peer, message)
            for event in output.events:
                self._handle(event, now)
            if not output.events and not log.dirty:
                break  # sending changes nothing, so there is nothing more to take
        applicable = engine.applicable
        if self.applier.applied.index < applicable:
            self.applier.advance(applicable)
            self.snapshots.after_apply()
        if self.reading.count:
            self.reading.settle()
        if engine.deadline_moved:
            self._arm()
        if self._changes:
            changes, self._changes = self._changes, []
            for future in changes:
                if not future.done():
                    future.set_result(None)

    def _take_messages(self, now: float) -> None:
        inbox, self._inbox = self._inbox, []
        receive = self.engine.receive
        for sender, message in inbox:
            try:
                kind = type(message)
                if kind is not Forward and kind is not ForwardReply:
                    receive(sender, message, now)
                elif isinstance(message, Forward):
                    self._serve(sender, message, now)
                elif isinstance(message, ForwardReply):
                    self.forwarding.answered(sender, message)
            except (WireError, msgspec.MsgspecError) as error:
                self.refused_messages += 1
                logger.warning("node %s: message from %s refused: %s", self.hello.node, sender, error)

    def _when_due(self, now: float) -> None:
        if self.ticks and now >= self.engine.deadline():
            self.engine.tick(now)
        self._expire(now)
        self.reading.expire(now)

    def _arm(self) -> None:
        """Have a timer for the earliest deadline. One that fires too early costs less than moving it at every turn."""
        self.engine.deadline_moved = False
        deadline = self.engine.deadline() if self.ticks else FOREVER
        if self.proposals.count:
            deadline = min(deadline, self.proposals.next_deadline())
        if self.reading.count:
            deadline = min(deadline, self.reading.next_deadline())
        if deadline < self._timer_at:
            self._arm_for(deadline)

    def _arm_for(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self.wake)

    def _write(self, now: float) -> None:
        write = self.engine.take_write()
        if write is None:
            return
        ticket, batch = write
        if not self.parts.log_store.blocking:
            self.parts.log_store.write(batch)
            self.engine.written(ticket, now)
            return
        self._writing = True
        self._write_started = now
        future = self.parts.store_worker.submit(self.parts.log_store.write, batch)
        future.add_done_callback(lambda future: self._when_written(ticket, future))

    def _when_written(self, ticket: int, future: asyncio.Future[None]) -> None:
        self._writing = False
        if self.stopped or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self.fail(error)
            return
        now = self._loop.time()
        if now - self._write_started > self.limits.storage_stall_ms / 1000:
            self.notify("storage_stalled", {"seconds": now - self._write_started})
        self.engine.written(ticket, now)
        self._turn()

    # -- proposals ----------------------------------------------------------------------------------------------------

    def _collect(self, now: float) -> None:
        """What callers have proposed since the last turn becomes a batch."""
        deadline = now + self.limits.proposal_timeout_ms / 1000
        batch = Batch(self._payloads, self._waiters, self._has_many, self._new_bytes, deadline)
        self._payloads, self._waiters, self._has_many, self._new_bytes = [], [], False, 0
        if deadline < self._timer_at:
            self._arm_for(deadline)
        self._hand_over(batch)

    def _hand_over(self, batch: Batch) -> None:
        """To the engine when this node leads, to the leader when one is known, else wait for one."""
        engine, leader = self.engine, self.engine.leader
        if engine.leadership is not None:
            try:
                runs = engine.propose(batch.payloads)
            except TransferUnderWay:
                self.proposals.held.append(batch)
            except Overloaded as error:
                self.proposals.fail(batch, error)
            else:
                batch.first, batch.last = runs[0].first_index, runs[-1].last_index
                self.proposals.appended.append(batch)
        elif isinstance(batch, ForwardedBatch):
            self.proposals.fail(batch, NotLeader(f"node {engine.node} does not lead", leader))
        elif leader in self.no_use:
            self.proposals.held.append(batch)  # sent now it would be lost, and its outcome unknown
        elif leader is not None and not self.forwards:
            self.proposals.fail(batch, NotLeader(f"node {engine.node} does not lead; {leader} does", leader))
        elif leader is not None:
            self._forward(leader, batch)
        else:
            self.proposals.held.append(batch)

    def _forward(self, leader: NodeId, batch: Batch) -> None:
        request = 0

        def answered(reply: ForwardReply | OutcomeUnknown) -> None:
            if self.proposals.forwarded.pop(request, None) is None:
                return
            error = reply if isinstance(reply, OutcomeUnknown) else error_of(reply)
            if isinstance(error, NotLeader):
                self.no_use.add(leader)
                self.proposals.held.append(batch)  # it was not appended there, so it may go elsewhere
            elif isinstance(error, ProposalError):
                self.proposals.fail(batch, error)
            elif isinstance(reply, ForwardReply) and len(reply.results) == len(batch.payloads):
                self.proposals.done(batch)
                batch.resolve(reply.results)
            else:
                self.proposals.fail(batch, OutcomeUnknown(f"leader {leader} gave an answer that does not fit"))

        request = self.forwarding.send(leader, PROPOSE, batch.payloads, answered)
        self.proposals.forwarded[request] = batch

    def _retry(self) -> None:
        """There is a leader to be reached: hand over what was held."""
        self.wake()
        held = self.proposals.held
        for _ in range(len(held)):
            self._hand_over(held.popleft())

    def _expire(self, now: float) -> None:
        """End batches that have waited too long; what is known of each decides how."""
        seconds, proposals = self.limits.proposal_timeout_ms / 1000, self.proposals
        while proposals.held and proposals.held[0].deadline <= now:
            message = (
                f"node {self.hello.node}: no leader took the proposal within {seconds:g} s (limits.proposal_timeout_ms)"
            )
            proposals.fail(proposals.held.popleft(), NotAppended(f"{message}; it was not appended: try again"))
        unknown = OutcomeUnknown(
            f"node {self.hello.node}: no answer within {seconds:g} s (limits.proposal_timeout_ms); the "
            "proposal may yet be "
            "committed: send it again only if it may happen twice"
        )
        # A batch in the log keeps its place, so that answers still find theirs; who waited has been told.
        while proposals.appended and proposals.appended[0].deadline <= now:
            proposals.fail(proposals.appended.popleft(), unknown)
        for request, batch in list(proposals.forwarded.items()):
            if batch.deadline > now:
                break
            del proposals.forwarded[request]
            self.forwarding.forget(request)
            proposals.fail(batch, unknown)

    # -- for other members --------------------------------------------------------------------------------------------

    def _serve(self, sender: NodeId, forward: Forward, now: float) -> None:
        reply = Reply(self.parts.transport, self.engine, sender, forward.request)
        if forward.kind == READ:
            self.reading.serve(forward.payloads[0], reply, now)
        elif forward.kind in (CHANGE, TRANSFER):
            self.spawn(self.commands.serve(forward, reply))
        elif forward.kind == PROPOSE:
            self._serve_proposals(forward.payloads, reply, now)
        else:
            raise WireError(f"a command of kind {forward.kind!r} is not known here")

    def _serve_proposals(self, payloads: list[bytes], reply: Reply, now: float) -> None:
        try:
            size = self._make_room(payloads)
        except RaftCoreError as error:
            reply.error(error)
            return
        deadline = now + self.limits.proposal_timeout_ms / 1000
        if deadline < self._timer_at:
            self._arm_for(deadline)
        self._hand_over(ForwardedBatch(payloads, size, deadline, reply))

    # -- events of the engine -----------------------------------------------------------------------------------------

    def _handle(self, event: engine_output.Event, now: float) -> None:
        match event:
            case engine_output.ReadReady():
                self.reading.confirmed(event.ids, event.index)
            case engine_output.ReadsRefused():
                self.reading.refused(event.ids)
            case engine_output.RoleChanged():
                self._role_changed(event)
            case engine_output.MembershipChanged():
                self._membership_changed()
            case engine_output.EntriesWanted():
                self._fetch(event)
            case engine_output.SnapshotWanted():
                self.snapshots.send_to(event.peer)
            case engine_output.ChunkArrived():
                self.snapshots.arrived(event.sender, event.chunk)
            case engine_output.SnapshotAnswered():
                self.snapshots.answered(event.sender, event.reply)
            case engine_output.TransferEnded():
                self._retry()

    def _role_changed(self, event: engine_output.RoleChanged) -> None:
        if event.role is not engine_output.Role.LEADER and self.proposals.appended:
            self.proposals.fail_appended(
                OutcomeUnknown(
                    f"node {self.hello.node} lost leadership before the proposal was committed; the next "
                    "leader may yet commit it: "
                    "send it again only if it may happen twice"
                )
            )
        if event.leader is not None:
            self.no_use.discard(event.leader)
            self.reading.leader_changed(event.leader)
            self._retry()
        self.notify("role", {"role": event.role.value, "term": event.term, "leader": event.leader})

    def _membership_changed(self) -> None:
        nodes = self.engine.history.nodes()
        nodes.pop(self.hello.node, None)
        self.parts.transport.set_peers(nodes)
        self.engine.learn_incarnations(self._incarnations)
        membership = self.engine.membership
        self.notify(
            "membership",
            {"voters": [list(group) for group in membership.voters], "learners": list(membership.learners)},
        )

    def _fetch(self, wanted: engine_output.EntriesWanted) -> None:
        """Read for a follower what memory no longer holds."""

        def read(future: asyncio.Future[list[Entries]]) -> None:
            if self.stopped or future.cancelled():
                return
            error = future.exception()
            # A read behind what has been purged meanwhile is no failure: the follower gets a snapshot then.
            if error is not None and wanted.first > self.engine.log.base.index:
                self.fail(error)
                return
            self.engine.entries_read(wanted.peer, wanted.first, [] if error is not None else future.result())
            self.wake()

        limit = self.engine.settings.max_message_bytes
        self._read_log(wanted.first, wanted.stop, limit).add_done_callback(read)

    # -- storage, tasks, observers ------------------------------------------------------------------------------------

    def _read_log(self, first: int, stop: int, max_bytes: int) -> asyncio.Future[list[Entries]]:
        return self.parts.store_worker.submit(self.parts.log_store.read, first, stop, max_bytes)

    def _purge(self, upto: LogId) -> None:
        self.engine.purge(upto)
        self.parts.store_worker.submit(self.parts.log_store.purge, upto).add_done_callback(self._when_purged)

    def _when_purged(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self.fail(error)

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run a task of this member's; a failure in it stops the node."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._when_task_done)

    def _when_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

    def notify(self, name: str, detail: dict[str, object]) -> None:
        """Tell the observers; one that raises is logged and does no harm."""
        event = Event(self.hello.node, name, detail)
        for observer in self.parts.observers:
            try:
                observer.notify(event)
            except Exception:  # an observer is never worth a node
                logger.exception("node %s: observer %s failed on %s", self.hello.node, type(observer).__name__, name)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate` holds; looked at after every turn. Raises `NodeStopped`."""
        while not predicate():
            if self.stopped:
                raise self.stopped_error()
            future: asyncio.Future[None] = self._loop.create_future()
            self._changes.append(future)
            await future

    # -- the end ------------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Something is wrong that must not be worked around: say nothing more to anyone, and end."""
        if self.stopped:
            return
        self.failure = error
        if not isinstance(error, StorageError):
            logger.error("node %s stops: %s", self.hello.node, error, exc_info=error)
        else:
            logger.error("node %s stops: %s", self.hello.node, error)
        self.notify("stopped", {"error": str(error)})
        self.stop()
        self.on_failure()

    def stop(self) -> None:
        """Take no more turns, and resolve everything that waits."""
        if self.stopped:
            return
        self.stopped = True
        if self._payloads:
            self._collect_for_the_end()
        if self._timer is not None:
            self._timer.cancel()
        name, proposals = self.hello.node, self.proposals
        while proposals.held:
            proposals.fail(
                proposals.held.popleft(),
                NotAppended(f"node {name} stopped before the proposal was appended: ask another member"),
            )
        unknown = OutcomeUnknown(f"node {name} stopped; the proposal may be committed by the others, now or later")
        proposals.fail_appended(unknown)
        for request in list(proposals.forwarded):
            proposals.fail(proposals.forwarded.pop(request), unknown)
        self.reading.fail_all(self.stopped_error())
        for future in self._changes:
            if not future.done():
                future.set_result(None)
        self._changes = []

    def _collect_for_the_end(self) -> None:
        batch = Batch(self._payloads, self._waiters, self._has_many, self._new_bytes, 0.0)
        self._payloads, self._waiters = [], []
        self.proposals.held.append(batch)

    async def end_tasks(self) -> None:
        """Cancel this member's tasks and wait until they are gone."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def flushed(self) -> None:
        """Wait for the write that is under way."""
        await self.parts.store_worker.run(lambda: None)

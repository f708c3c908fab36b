"""The loop: everything that arrived goes into the engine in one turn, and what comes out is carried out.

A turn never waits for network, disk or plugin. Writes to the log go one at a time; what is decided while one
is under way becomes one write too, so a slow disk makes batches larger, not queues longer. Time is
`loop.time()` and `call_at`, chance is the `rng` that was handed in, so all of this runs unchanged on a
simulated loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, ParamSpec

import msgspec

from raftcore.contracts import Event, LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.engine import Engine
from raftcore.engine import output as engine_output
from raftcore.errors import (
    NodeStopped,
    OutcomeUnknown,
    PeerRefused,
    StorageError,
    WireError,
)
from raftcore.messages import (
    AppendReply,
    Forward,
    ForwardReply,
    Hello,
    Message,
    RequestVote,
    SnapshotReply,
    VoteReply,
)
from raftcore.node.admission import UnknownDisk, check_hello
from raftcore.node.apply import Applier
from raftcore.node.commands import Commands
from raftcore.node.forwarding import CHANGE, PROPOSE, READ, TRANSFER, Change, Forwarding, Handover, Reply
from raftcore.node.proposals import Proposals
from raftcore.node.reading import Reading
from raftcore.node.snapshots import Snapshots
from raftcore.node.storage import Worker
from raftcore.types import Entries, LogId, NodeId
from raftcore.wire import encode_run

if TYPE_CHECKING:
    import random

    from raftcore.node.recovery import Recovered
    from raftcore.node.settings import Limits, SnapshotPolicy

logger = logging.getLogger("raftcore.node")

FOREVER = float("inf")
COUNTED = frozenset((RequestVote, VoteReply, AppendReply, SnapshotReply))
"""What makes a member count: it stands for election, votes, and acknowledges."""
P = ParamSpec("P")


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
        self,
        hello: Hello,
        engine: Engine,
        parts: Parts,
        recovered: Recovered,
        limits: Limits,
        policy: SnapshotPolicy,
        rng: random.Random,
    ) -> None:
        self.hello = hello
        self.engine = engine
        self.parts = parts
        self.limits = limits
        self.failure: BaseException | None = None
        self.stopped = False
        self.ticks = True
        self.refused_messages = 0
        self.no_use: set[NodeId] = set()
        """Nodes that can't be reached, or said that they do not lead: nothing is sent to them until there is news."""
        self._loop = asyncio.get_running_loop()
        self._send = parts.transport.send
        self._log_store = parts.log_store
        self._store_blocks = parts.log_store.blocking
        self._inbox: list[tuple[NodeId, Message]] = []
        self._scheduled = False
        self._writing = False
        self._write_started = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = FOREVER
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes: list[asyncio.Future[None]] = []
        self._leader: NodeId | None = None
        self._incarnations = {hello.node: hello.incarnation}
        self._doubted: dict[NodeId, str] = {}
        """Members that talk to this node with another disk than the one that it knows, and which."""
        self._members = set(engine.membership.nodes)
        self.on_failure: Callable[[], None] = lambda: None
        self.forwarding = Forwarding(parts.transport, engine, rng)
        self.proposals = Proposals(engine, self.forwarding, limits, self.no_use, self.wake, self._arm_for)
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
        self.reading = Reading(
            engine,
            self.forwarding,
            limits.read_timeout_ms / 1000,
            limits.max_pending_reads,
            lambda: self.applier.applied.index,
            self.no_use,
            self._arm_for,
        )
        self.commands = Commands(
            engine, self.forwarding, self.no_use, self.until, self.wake, limits.proposal_timeout_ms / 1000
        )
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
        """Check who it is that wants to talk. Raises `PeerRefused`.

        A member with another disk than the one that is known here is refused by a leader. Who does not lead may be
        the one that is behind: the member may have been removed and added anew, and lead by now. So it is heard out,
        but what would make it count is dropped, until the membership here knows its disk.
        """
        known = self._known_incarnation(hello.node)
        self._doubted.pop(hello.node, None)
        try:
            check_hello(self.hello, hello, known)
        except PeerRefused as refusal:
            self.notify("peer_refused", {"peer": hello.node, "reason": str(refusal)})
            if self.engine.leadership is not None or not isinstance(refusal, UnknownDisk):
                raise
            self._doubted[hello.node] = hello.incarnation
            return
        self._learn_incarnation(hello.node, hello.incarnation)

    def _learn_incarnation(self, node: NodeId, incarnation: str) -> None:
        if self._incarnations.get(node) != incarnation:
            self._incarnations[node] = incarnation
            self.engine.learn_incarnations(self._incarnations)
            self.wake()

    def _known_incarnation(self, node: NodeId) -> str:
        """The disk that the cluster has written down for a node; else the one that a member showed here first."""
        info = self.engine.membership.nodes.get(node)
        if info is not None and info.incarnation:
            return info.incarnation
        return self._incarnations.get(node, "") if node in self._members else ""

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
            else:
                self._inbox.clear()
        except Exception as error:  # noqa: BLE001  # the loop's boundary: a failure stops the node, nothing goes on half-way
            self.fail(error)

    def _step(self, now: float) -> None:  # noqa: C901, PLR0912  # the hot path: a branch is cheaper than a call
        engine = self.engine
        if self._inbox:
            self._take_messages(now)
        if now >= self._timer_at:
            self._timer_at = FOREVER
            engine.deadline_moved = True
            self._when_due(now)
        if self.proposals.new:
            self.proposals.collect(now)
        if self.reading.count:
            self.reading.hand_over(now)
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
        applicable = engine.commit if engine.commit < log.durable else log.durable
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
                if self._doubted and sender in self._doubted and kind in COUNTED:
                    self.refused_messages += 1
                    continue
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
        self.proposals.expire(now)
        self.reading.expire(now)

    def _arm(self) -> None:
        """Have a timer for the earliest deadline. One that fires too early costs less than moving it at every turn."""
        self.engine.deadline_moved = False
        deadline = self.engine.deadline() if self.ticks else FOREVER
        if self.proposals.count:
            deadline = min(deadline, self.proposals.next_deadline())
        if self.reading.count:
            deadline = min(deadline, self.reading.next_deadline())
        self._arm_for(deadline)

    def _arm_for(self, deadline: float) -> None:
        """Have a turn taken at `deadline` at the latest."""
        if deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._timer_fired)

    def _timer_fired(self) -> None:
        # Some loops (uvloop) count in milliseconds and fire a little early: the turn that comes must arm the timer anew
        # then, and not wait for a moment that it takes to be in the future still.
        self._timer_at = 0.0
        self.wake()

    def _write(self, now: float) -> None:
        write = self.engine.take_write()
        if write is None:
            return
        ticket, batch = write
        if not self._store_blocks:
            self._log_store.write(batch)
            self.engine.written(ticket, now)
            return
        self._writing = True
        self._write_started = now
        for run in batch.runs:
            encode_run(
                run
            )  # here, where followers' messages need it too, and not beside the loop in the store's thread
        future = self.parts.store_worker.submit(self.parts.log_store.write, batch)
        future.add_done_callback(lambda future: self._when_written(ticket, future))

    def _when_written(self, ticket: int, future: asyncio.Future[None]) -> None:
        self._writing = False
        error = None if future.cancelled() else future.exception()  # looked at in any case, or asyncio complains of it
        if self.stopped or future.cancelled():
            return
        if error is not None:
            self.fail(error)
            return
        now = self._loop.time()
        if now - self._write_started > self.limits.storage_stall_ms / 1000:
            self.notify("storage_stalled", {"seconds": now - self._write_started})
        self._guarded(self.engine.written, ticket, now)
        self._turn()

    def _guarded(self, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """For callbacks outside of a turn: asyncio would log a failure and go on, but it has to stop the node."""
        try:
            call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # the boundary of the loop, as in `_turn`
            self.fail(error)

    # -- for other members --------------------------------------------------------------------------------------------

    def _serve(self, sender: NodeId, forward: Forward, now: float) -> None:
        if not self.forwarding.is_new(sender, forward.request):
            return
        reply = Reply(self.parts.transport, self.engine, sender, forward.request)
        if not forward.payloads:
            raise WireError(f"a command of kind {forward.kind!r} without a payload")
        if forward.kind == READ:
            self.reading.serve(forward.payloads[0], reply, now)
        elif forward.kind == CHANGE:
            self.spawn(self.commands.serve(CHANGE, msgspec.msgpack.decode(forward.payloads[0], type=Change), reply))
        elif forward.kind == TRANSFER:
            self.spawn(self.commands.serve(TRANSFER, msgspec.msgpack.decode(forward.payloads[0], type=Handover), reply))
        elif forward.kind == PROPOSE:
            self.proposals.serve(forward.payloads, reply, now)
        else:
            raise WireError(f"a command of kind {forward.kind!r} is not known here")

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
                self._membership_changed(event)
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
        if event.role is not engine_output.Role.LEADER:
            self.proposals.leadership_lost()
        if event.leader is not None:
            self.no_use.discard(event.leader)
            self.reading.leader_changed()
            self._retry()
        if event.leader != self._leader:
            self._leader = event.leader
            self.notify("leader", {"leader": event.leader, "term": event.term})
        self.notify("role", {"role": event.role.value, "term": event.term, "leader": event.leader})

    def _retry(self) -> None:
        """There is a leader to be reached: hand over what was held."""
        self.wake()
        self.proposals.retry()

    def _membership_changed(self, event: engine_output.MembershipChanged) -> None:
        members = event.membership.nodes
        # Who has left may come back with another disk, which is the one to know then.
        for gone in self._members - members.keys():
            self.forwarding.removed(gone)
            self._incarnations.pop(gone, None)
        if event.jumped:
            self._incarnations = {self.hello.node: self.hello.incarnation}
        self._members = set(members)
        for doubted, incarnation in list(self._doubted.items()):
            if self._known_incarnation(doubted) in ("", incarnation):
                del self._doubted[doubted]
                self._learn_incarnation(doubted, incarnation)
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
            error = None if future.cancelled() else future.exception()
            if self.stopped or future.cancelled():
                return
            # A read behind what has been purged meanwhile is no failure: the follower gets a snapshot then.
            if error is not None and wanted.first > self.engine.log.base.index:
                self.fail(error)
                return
            runs = [] if error is not None else future.result()
            self._guarded(self.engine.entries_read, wanted.peer, wanted.first, runs)
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
        if self._timer is not None:
            self._timer.cancel()
        self.proposals.end(self.stopped_error())
        self.reading.fail_all(self.stopped_error())
        self.forwarding.end(
            OutcomeUnknown(f"node {self.hello.node} stopped before the leader answered; look at the status")
        )
        self.snapshots.end(self.stopped_error())
        for future in self._changes:
            if not future.done():
                future.set_result(None)
        self._changes = []

    async def end_tasks(self) -> None:
        """Cancel this member's tasks and wait until they are gone."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

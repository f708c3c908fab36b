"""The node as its user sees it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from raftcore.contracts import LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.engine import Engine, RaftSettings
from raftcore.errors import MembershipRefused, NodeStopped, RaftCoreError, WaitTimeout
from raftcore.messages import Hello
from raftcore.node.forwarding import Change, Handover
from raftcore.node.identity import DataDirectory
from raftcore.node.member import Member, Parts
from raftcore.node.proposals import Proposals
from raftcore.node.reading import Consistency
from raftcore.node.recovery import recover
from raftcore.node.settings import Limits, SnapshotPolicy
from raftcore.node.status import Status, status_of
from raftcore.node.storage import Worker
from raftcore.types import NO_VOTE, LogId, Membership, NodeId, NodeInfo, SnapshotMeta
from raftcore.wire import VERSIONS

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("raftcore.node")

M = TypeVar("M")
T = TypeVar("T")


class Node:
    """One member of a cluster: ``async with Node(...) as node``. Everything runs on the event loop that it is
    started on.

    `data_dir` is where the node keeps whose disk this is. Without it, `incarnation` names the disk, or whatever
    else the plugins keep the node's vote and log on: a name that is drawn once and never used for another disk.
    Without both (everything in memory) it is a new member at each start. `address` is where other members reach
    it. `members` (id → address) are those that the cluster begins with: a node that is one of them and has never
    been part of a cluster bootstraps itself at its start; afterwards they mean nothing. `rng` decides election
    timeouts; give a seeded one for a repeatable run.
    """

    def __init__(
        self,
        id: NodeId,
        *,
        cluster: str,
        log_store: LogStore,
        state_machine: StateMachine,
        transport: Transport,
        snapshots: SnapshotSink,
        address: str = "",
        members: Mapping[NodeId, str] | None = None,
        data_dir: Path | None = None,
        incarnation: str = "",
        raft: RaftSettings | None = None,
        limits: Limits | None = None,
        snapshot_policy: SnapshotPolicy | None = None,
        observers: Iterable[Observer] = (),
        rng: random.Random | None = None,
    ) -> None:
        self.id = id
        self.cluster = cluster
        self.address = address
        self._incarnation = incarnation
        self._members = dict(members or {})
        self.limits = limits or Limits()
        self._raft = raft or RaftSettings()
        self._policy = snapshot_policy or SnapshotPolicy()
        self._rng = rng or random.Random()
        self._directory = DataDirectory(data_dir) if data_dir is not None else None
        self._parts = Parts(
            log_store,
            state_machine,
            transport,
            snapshots,
            tuple(observers),
            Worker(f"raftcore-log-{id}", blocking=log_store.blocking),
            Worker(f"raftcore-machine-{id}", blocking=True),
            Worker(f"raftcore-snapshots-{id}", blocking=True, threads=2),
        )
        self._member: Member | None = None
        self._proposals: Proposals | None = None
        self._closed = False
        self._transport_end: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self.trigger = Trigger(self)
        self.runtime = Runtime(self)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything, check that it fits together, and take part.

        Raises `IdentityError`, `StorageInUse`, `CorruptData` or another `StorageError` about what is on disk, and
        `ConfigError` when the address can't be used. A node is started once.
        """
        if self._member is not None or self._closed:
            raise RaftCoreError(f"node {self.id} was started before; make a new Node of it to start it again")
        loop, parts = asyncio.get_running_loop(), self._parts
        incarnation = self._incarnation or f"{self._rng.getrandbits(64):016x}"
        try:
            if self._directory is not None:
                open_directory = self._directory.open
                identity = await parts.sink_worker.run(open_directory, self.cluster, self.id, self._rng)
                incarnation = identity.incarnation
            recovered = await recover(
                parts.log_store,
                parts.store_worker,
                parts.state_machine,
                parts.machine_worker,
                parts.sink,
                parts.sink_worker,
                self._raft.cache_bytes,
            )
            engine = Engine(
                self.id,
                self._raft,
                self._rng,
                vote=recovered.vote,
                log=recovered.log,
                memberships=recovered.memberships,
                commit=recovered.commit,
                snapshot_last=recovered.snapshots[0].last if recovered.snapshots else LogId(NO_VOTE.leader, 0),
                now=loop.time(),
            )
            hello = Hello(self.cluster, self.id, incarnation, self.address, VERSIONS, self._raft.vote_order)
            member = Member(hello, engine, parts, recovered, self.limits, self._policy, self._rng)
            member.on_failure = self._failed
            self._member, self._proposals = member, member.proposals
            await parts.transport.start(member)
        except BaseException:
            self._closed = True
            await self._release()
            raise
        if self.is_pristine and self.id in self._members:
            await self.bootstrap(self._members)
        nodes = engine.history.nodes()
        nodes.pop(self.id, None)
        parts.transport.set_peers(nodes)
        member.wake()

    async def close(self, *, transfer: bool = True) -> None:
        """Hand leadership over if this node has it (unless told not to), finish the write under way, and let
        go of everything.

        In this order: leadership, new commands refused and all that waits resolved, tasks, transport, log,
        state machine, snapshots, data directory. Calling it again does nothing.
        """
        member = self._member
        if self._closed:
            return
        self._closed = True
        if member is not None and transfer and not member.stopped:
            await self._hand_over(member)
        await self._release()
        self._stopped.set()

    async def _hand_over(self, member: Member) -> None:
        others = set(member.engine.membership.all_voters) - {self.id} - member.no_use
        if member.engine.leadership is None or not others:
            return
        try:
            async with asyncio.timeout(self.limits.shutdown_ms / 1000):
                await member.commands.transfer(Handover(None))
        except (RaftCoreError, TimeoutError) as error:
            logger.warning("node %s: leadership was not handed over before closing: %s", self.id, error)

    async def _release(self) -> None:
        """Let go of everything, in the order of `close`; what fails on the way keeps nothing else open."""
        parts = self._parts
        async with AsyncExitStack() as stack:
            if self._directory is not None:
                stack.callback(self._directory.close)
            for worker, close in (
                (parts.sink_worker, parts.sink.close),
                (parts.machine_worker, parts.state_machine.close),
                (parts.store_worker, parts.log_store.close),
            ):
                stack.callback(worker.close)
                stack.push_async_callback(worker.run, close)
            stack.push_async_callback(self._stop_transport)
            if self._member is not None:
                self._member.stop()
                await self._member.end_tasks()

    def _failed(self) -> None:
        """The node stopped by itself: its connections end, so that the others need not wait to find out."""
        self._stopped.set()
        self._transport_end = asyncio.get_running_loop().create_task(self._parts.transport.stop())

    async def _stop_transport(self) -> None:
        await (self._transport_end or self._parts.transport.stop())

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close(transfer=error is None)

    async def wait_stopped(self) -> None:
        """Wait until the node is closed. Raises `NodeStopped`, with the cause, when it stopped by itself."""
        await self._stopped.wait()
        if self._member is not None and self._member.failure is not None:
            raise self._member.stopped_error()

    @property
    def member(self) -> Member:
        """The part that does the work; for this package and for tests. Raises `NodeStopped` before `start`."""
        if self._member is None:
            raise NodeStopped(f"node {self.id} is not started: use `async with node` or `await node.start()`")
        return self._member

    @property
    def _at_work(self) -> Member:
        """As `member`; raises `NodeStopped` too when it has stopped."""
        member = self.member
        if member.stopped:
            raise member.stopped_error()
        return member

    # -- writing and reading ------------------------------------------------------------------------------------------

    async def bootstrap(self, members: Mapping[NodeId, str]) -> None:
        """Begin a cluster with these voters (id → address). Every one of them does so, each with the same
        members; on a node that has been part of a cluster before it raises `MembershipRefused`."""
        if self.id not in members:
            raise MembershipRefused(
                f"node {self.id!r} is not among the members {sorted(members)} that it is to begin with"
            )
        nodes = {node: NodeInfo(members[node]) for node in sorted(members)}
        first = Membership((tuple(nodes),), (), nodes)
        self.member.engine.bootstrap(first)
        self.member.wake()

    @property
    def is_pristine(self) -> bool:
        """This node has never been part of a cluster: it has no log and has cast no vote."""
        engine = self.member.engine
        return engine.vote == NO_VOTE and engine.log.last.index == 0

    def propose(self, payload: bytes) -> asyncio.Future[bytes | None]:
        """Have one command committed and applied; awaiting it gives the state machine's answer.

        Works on any member: a follower passes it to the leader. Raises `Overloaded`, `PayloadTooLarge` or
        `NodeStopped` at once; awaiting it raises `NotAppended` (it did not happen: try again) or
        `OutcomeUnknown` (it may have, or may yet). Cancelling the wait does not take the command back.
        """
        return (self._proposals or self.member.proposals).propose(payload)

    def propose_many(self, payloads: Sequence[bytes]) -> asyncio.Future[list[bytes | None]]:
        """As `propose`, for several commands that enter the log together, in order, and share one outcome
        (they are not atomic: other commands may come between them, and the state machine answers each)."""
        return self.member.proposals.propose_many(payloads)

    async def read(self, consistency: Consistency = "linearizable") -> int:
        """Make sure that this node's state is fresh enough to be read; the index up to which it is applied.

        What is read from the state machine right after it, without another `await` between, has that
        consistency. Raises `ReadUnavailable`, `Overloaded`, `NodeStopped`.
        """
        if consistency == "stale":
            return self._at_work.applier.applied.index
        return await self.member.read(consistency == "lease")

    async def query(self, ask: Callable[[M], T], consistency: Consistency = "linearizable") -> T:
        """`ask(state_machine)` with the given consistency, never beside an apply. Raises as `read`."""
        await self.read(consistency)
        applier = self.member.applier

        def answer() -> T:
            machine: M = self._at_work.applier.machine  # type: ignore[assignment]  # the caller knows its machine
            return ask(machine)

        return await applier.exclusive(answer)

    # -- watching -----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """The node at this moment; see `Status`."""
        return status_of(self.member, self.cluster)

    async def watch(self) -> AsyncIterator[Status]:
        """The status now and after every change, until the node stops. Changes in quick succession may be
        seen as one."""
        while not self.member.stopped:
            status = self.status()
            yield status
            try:
                await self.member.until(lambda seen=status: self.status() != seen)  # type: ignore[misc]  # bound default
            except NodeStopped:
                return

    async def wait_for(
        self, condition: Callable[[Status], bool], timeout: float | None = 30.0, what: str = "the condition"
    ) -> Status:
        """Wait until `condition` holds of the status. Raises `WaitTimeout` after `timeout` seconds, `NodeStopped`."""
        try:
            async with asyncio.timeout(timeout):
                await self.member.until(lambda: condition(self.status()))
        except TimeoutError:
            status = self.status()
            raise WaitTimeout(
                f"node {self.id}: {what} did not come true within {timeout:g} s; it is {status.role} of term "
                f"{status.term}, leader {status.leader}, commit {status.commit}, applied {status.applied}"
            ) from None
        return self.status()

    # -- the cluster --------------------------------------------------------------------------------------------------

    async def add_learner(self, id: NodeId, address: str, *, wait: bool = True) -> None:
        """Add a member that receives the log and does not vote; with `wait`, return when it has caught up.

        Promote it with `change_membership`. Raises `MembershipRefused`, `OutcomeUnknown`, `WaitTimeout`.
        """
        membership = self.member.engine.membership
        known = membership.nodes.get(id)
        if known is not None:
            raise MembershipRefused(
                f"node {id!r} is a member already, at {known.address}; remove it first to give it another place"
            )
        # The leader adds it to the learners that it knows of, which may be more than this node's.
        await self._at_work.commands.change(Change(None, None, {id: NodeInfo(address)}))
        if wait:
            await self.caught_up(id)

    async def caught_up(self, id: NodeId, timeout: float = 60.0) -> None:
        """Wait until member `id` holds what is committed now. Only the leader can tell; elsewhere it returns
        at once."""
        goal = self.member.engine.commit

        def has_caught_up(status: Status) -> bool:
            return status.role != "leader" or (id in status.peers and status.peers[id].match >= goal)

        await self.wait_for(has_caught_up, timeout, f"that member {id} has caught up to entry {goal}")

    async def change_membership(
        self, voters: Iterable[NodeId], learners: Iterable[NodeId] | None = None, *, based_on: int | None = None
    ) -> None:
        """Make these the voters, through joint consensus; returns when it is committed.

        Every voter must be a member already (add it as a learner first). Voters that are left out leave the
        cluster, unless `learners` names them; without `learners`, those who are learners stay so. Who makes the
        lists from those of a `Status` passes its `membership_index` as `based_on`: then nobody is left out who
        joined meanwhile, since the change is refused. Raises `MembershipRefused`, `OutcomeUnknown`.
        """
        wanted = None if learners is None else list(learners)
        await self._at_work.commands.change(Change(list(voters), wanted, {}, based_on))

    async def transfer_leadership(self, target: NodeId | None = None) -> None:
        """Hand leadership to `target`, or to the voter whose log is furthest. Raises `MembershipRefused`,
        `WaitTimeout`."""
        await self._at_work.commands.transfer(Handover(target))


class Trigger:
    """Things that otherwise happen by themselves, now."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def election(self) -> None:
        """Campaign now (with a pre-vote if that is on). Nothing on a leader, or on one that does not vote."""
        member = self._node._at_work
        member.engine.campaign(asyncio.get_running_loop().time())
        member.wake()

    def heartbeat(self) -> None:
        """Show every member now that the leader lives. Nothing on others."""
        member = self._node._at_work
        member.engine.heartbeat(asyncio.get_running_loop().time())
        member.wake()

    async def snapshot(self) -> SnapshotMeta:
        """Take a snapshot of what is applied now."""
        return await self._node._at_work.snapshots.trigger()

    async def purge(self) -> None:
        """Remove from the log, and of the snapshots, what the settings do not ask to keep."""
        await self._node._at_work.snapshots.prune()


class Runtime:
    """Switches for what happens by itself; all on at the start."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def heartbeat(self, on: bool) -> None:
        """Whether this node, when it leads, sends heartbeats."""
        self._node.member.engine.heartbeats_enabled = on

    def election(self, on: bool) -> None:
        """Whether this node campaigns when it hears no leader."""
        self._node.member.engine.elections_enabled = on
        self._node.member.engine.deadline_moved = True
        self._node.member.wake()

    def tick(self, on: bool) -> None:
        """Whether time makes this node do anything at all; without, use `trigger`."""
        self._node.member.ticks = on
        self._node.member.engine.deadline_moved = True
        self._node.member.wake()

    def forwarding(self, on: bool) -> None:
        """Whether a follower passes proposals to the leader; without, they end as `NotLeader`."""
        self._node.member.proposals.forwards = on

"""One machine of a simulated cluster: its disk outlives the node that runs on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raftcore.contracts import Event, StateMachine, WriteBatch
from raftcore.errors import CorruptData, RaftCoreError, StorageError
from raftcore.node import Node
from raftcore.sim.disk import Disk, Rot
from raftcore.sim.loop import Process
from raftcore.sim.network import SimTransport
from raftcore.sim.watched import Ledger, WatchedLog, WatchedMachine, WatchedSink
from raftcore.types import Entries, EntryKind, LogId, Membership, SnapshotMeta
from raftcore.wire import decode_membership

if TYPE_CHECKING:
    from raftcore.node.member import Member
    from raftcore.sim.world import World


POWER_SHARE = 0.75
"""How many of the crashes in the middle of a call are losses of power."""


class Host:
    """A machine. `node` runs in `process` while `up`; `ledger` and `snapshots` are what the disk has promised to hold.

    `failure`: why the node stopped by itself or could not start. `wiped`: its disk was emptied while it was a member.
    `retired`: it was removed, and is not started again. `crash_in`: the kind of call in which it is to crash next.
    `faulty`: its disk is made to fail; `troubled`: it was, since the node started.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.rng = world.stream(name)
        self.process = Process(name)
        self.node: Node | None = None
        self.member: Member | None = None
        self.closing = False
        self.up = False
        self.paused = False
        self.retired = False
        self.wiped = False
        self.failure: BaseException | None = None
        self.crash_in = ""
        self.faulty = self.troubled = False
        self.rot: Rot | None = None
        self.slowness = 1.0
        self.stalled_until = 0.0
        self.counts: Counter[str] = world.counts
        self.starts = 0
        self.ledger = Ledger()
        self.snapshots: dict[str, SnapshotMeta] = {}
        self.wipe()
        self.wiped = False

    # -- its life -----------------------------------------------------------------------------------------------------

    def wipe(self) -> None:
        """An empty disk, with a name of its own."""
        self.disk = Disk(self.world.stream(f"{self.name}/disk/{self.starts}"))
        self.world.disks.append(self.disk)
        self.incarnation = f"{self.rng.getrandbits(64):016x}"
        self.held_before = self.ledger, self.snapshots
        self.ledger = Ledger()
        self.in_flight: list[WriteBatch | LogId] = []
        self.snapshots = {}
        self.wiped = True

    def start(self) -> None:
        """Start a node on this machine."""
        world, plan = self.world, self.world.plan
        now = world.loop.now
        self.starts += 1
        self.troubled = self.faulty
        rate = 1 + self.rng.uniform(-plan.drift, plan.drift)
        process = self.process = Process(
            self.name, now=now, started_at=self.rng.uniform(0, 1000), rate=rate if plan.drift else 1.0
        )
        process.disk, process.latency = self.disk, self._latency
        self.failure, self.member, self.up, self.paused, self.crash_in = None, None, True, False, ""
        # Its first members are those of the plan for a machine that was there at the beginning, and never again.
        first = self.name in plan.voters and not self.wiped
        self.node = Node(
            self.name,
            cluster="simulated",
            log_store=WatchedLog(world.plugins.log_store(self.disk), self),
            state_machine=WatchedMachine(world.plugins.state_machine(), self),
            transport=SimTransport(world.network, self.name),
            snapshots=WatchedSink(world.plugins.snapshots(self.disk), self),
            address=self.name,
            members={name: name for name in plan.voters} if first else None,
            incarnation=self.incarnation,
            raft=plan.raft,
            limits=plan.limits,
            snapshot_policy=plan.snapshots,
            observers=[self],
            rng=world.stream(f"{self.name}/{self.starts}"),
        )
        world.loop.spawn(process, self._start(self.node))
        world.note("up", node=self.name)

    async def _start(self, node: Node) -> None:
        try:
            await node.start()
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends the run or was brought about by a fault
            self._stopped(error)
            return
        self.member = node.member
        self.process.after = self.world.invariants.started(self, self.member)

    def kill(self, *, silently: bool = False) -> None:
        """SIGKILL, or (silently) the power goes; what the disk has not made durable is lost in both."""
        self.world.loop.kill(self.process)
        self.disk.crash(power=silently)
        self._down(silently=silently, reason="power lost" if silently else "killed")

    def close(self) -> None:
        """Stop the node in order, as with SIGTERM."""
        if self.member is None:
            self.kill()
        elif self.node is not None and not self.closing:
            self.closing = True
            self.world.loop.spawn(self.process, self._close(self.node))

    async def _close(self, node: Node) -> None:
        await node.close()
        for _ in range(5):  # those who waited learn of it
            await asyncio.sleep(0)
        left = [task for task in self.process.tasks if task is not asyncio.current_task()]
        if left:
            self.violate("closing resolves everything", f"tasks are left behind a closed node: {left}")
        self.world.loop.kill(self.process)
        self.disk.crash(power=False)
        self._down(silently=False, reason="closed")

    def _stopped(self, error: BaseException) -> None:
        """The node has stopped by itself: the process exits."""
        if self.up:
            self.failure = error
            if isinstance(error, CorruptData) and not self.troubled:
                self.violate(
                    "log store contract: what write() has returned for is durable",
                    f"nothing was wrong with the disk, but after a crash its content is refused ({error}): a store "
                    "acknowledges a write before it is durable, or can't read what a crash leaves behind",
                )
            elif not (isinstance(error, StorageError) and self.troubled):
                self.violate("no node stops by itself", f"{type(error).__name__}: {error}")
            self.counts["nodes stopped by a failure"] += 1
            self.world.loop.kill(self.process)
            self.disk.crash(power=False)
            self._down(silently=False, reason=str(error))

    def _down(self, *, silently: bool, reason: str) -> None:
        self.up, self.member, self.closing = False, None, False
        self.world.network.crashed(self.name, silently)
        self.world.clients.host_down(self)
        self.world.invariants.ended(self)
        self.world.note("down", node=self.name, reason=reason)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        self.world.loop.pause(self.process)
        self.world.note("pause", node=self.name)

    def resume(self) -> None:
        """SIGCONT."""
        if self.paused:
            self.paused = False
            self.world.loop.resume(self.process)
            self.world.note("resume", node=self.name)

    @property
    def term(self) -> int:
        """Of the node that runs here; 0 when none does."""
        return self.member.engine.vote.leader.term if self.member is not None else 0

    @property
    def leads(self) -> bool:
        """As far as the node that runs here knows."""
        return self.member is not None and self.member.engine.leadership is not None

    @property
    def machine(self) -> StateMachine | None:
        """The state machine under test, as it is now."""
        if self.member is None:
            return None
        watched: WatchedMachine = self.member.applier.machine  # type: ignore[assignment]  # what `start` gave it
        return watched.machine

    def memberships(self) -> list[Membership]:
        """Those that its disk holds, the newest last: of the newest snapshot and of the log's entries."""
        runs = self.ledger.runs
        newest = max(self.snapshots.values(), key=lambda meta: meta.last, default=None)
        return [
            *([newest.membership] if newest is not None else []),
            *(decode_membership(run.payloads[0]) for run in runs if run.kind is EntryKind.MEMBERSHIP),
        ]

    @property
    def is_voter(self) -> bool:
        """As far as its disk says."""
        known = self.memberships()
        return bool(known) and known[-1].is_voter(self.name)

    @property
    def serves(self) -> bool:
        """A node runs here that has started and has not stopped."""
        return self.up and self.member is not None and not self.member.stopped and not self.closing

    @property
    def durable_index(self) -> int:
        """As far as the disk's log and snapshots go for certain."""
        return max([self.ledger.last_index, *(meta.last.index for meta in self.snapshots.values())])

    def holds(self, log_id: LogId) -> bool:
        """The entry, or a snapshot that covers it, is on the disk for certain."""
        return _holds(log_id, self.ledger, self.snapshots)

    def held(self, log_id: LogId) -> bool:
        """As `holds`; of a disk that was wiped, what it held until then counts as well: it was acknowledged once."""
        return self.holds(log_id) or (self.wiped and _holds(log_id, *self.held_before))

    # -- what the watched plugins report ------------------------------------------------------------------------------

    def told(self) -> str:
        """How the node is, in a few words."""
        if not self.up:
            return f"{self.name} does not run ({self.failure or 'stopped'})"
        if self.member is None:
            return f"{self.name} starts"
        engine = self.member.engine
        return (
            f"{self.name} {engine.role.value} of term {engine.vote.leader.term}, last {engine.log.last.index}, "
            f"commit {engine.commit}, applied {self.member.applier.applied.index}"
        )

    def _latency(self) -> float:
        latency = self.rng.expovariate(2000) * self.slowness
        return max(latency, self.stalled_until - self.world.loop.now)

    def calling(self, kind: str) -> None:
        """A plugin is about to do something to the disk: the moment to crash in the middle of it, when told to."""
        if self.crash_in == kind:
            self.crash_in = ""
            self.world.later(0, self._crash_now, self.process, kind)

    def _crash_now(self, process: Process, kind: str) -> None:
        if process is self.process and self.up:
            self.counts[f"crash in a {kind}"] += 1
            self.world.note("fault", node=self.name, fault="crash", text=f"in a {kind}")
            # A killed process leaves what it had handed to the operating system; only a loss of power tears a write.
            self.kill(silently=self.rng.random() < POWER_SHARE)
            self.world.later(self.rng.expovariate(1), self.world.restart, self)

    def when_finished(self, call: Callable[[], None]) -> None:
        self.world.loop.when_finished(call)

    def violate(self, invariant: str, text: str) -> None:
        self.world.violate(invariant, text, self.name)

    def note_durable(self) -> None:
        self.world.note("durable", node=self.name, index=self.ledger.last_index)

    def applied(self, run: Entries, results: Sequence[bytes | None], after: int) -> None:
        self.world.invariants.applied(self, run, results, after)

    def committed_snapshot(self, meta: SnapshotMeta) -> None:
        self.snapshots[meta.id] = meta
        self.world.invariants.snapshot_committed(self, meta)

    # -- Observer -----------------------------------------------------------------------------------------------------

    def notify(self, event: Event) -> None:
        """What the node tells its observers."""
        detail: dict[str, Any] = event.detail
        match event.name:
            case "role":
                self.world.note("role", node=self.name, **detail)
                if detail["role"] == "leader":
                    self.counts["elections"] += 1
            case "snapshot_saved" | "snapshot_sent" | "snapshot_installed":
                self.counts[f"snapshots {event.name[9:]}"] += 1
                self.world.note("snapshot", node=self.name, what=event.name[9:], index=detail["index"])
            case "membership":
                self.world.note("membership", node=self.name, **detail)
            case "peer_refused":
                self.counts["peers refused"] += 1
            case "stopped":
                failure = self.member.failure if self.member is not None else None
                self.world.later(0, self._exit, self.process, failure or RaftCoreError(str(detail["error"])))

    def _exit(self, process: Process, failure: BaseException) -> None:
        if process is self.process:
            self._stopped(failure)


def _holds(log_id: LogId, ledger: Ledger, snapshots: dict[str, SnapshotMeta]) -> bool:
    return ledger.holds(log_id) or any(meta.last.index >= log_id.index for meta in snapshots.values())

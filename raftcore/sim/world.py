"""One run: a cluster of hosts on one virtual loop, first under load and faults, then left in peace to recover.

Phase one takes the plan's steps. Phase two ends every fault, starts every host, and demands that the cluster elects,
converges and serves within `RECOVERY_SECONDS`; then the nodes are closed in order and the histories are checked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from raftcore.contracts import LogStore, SnapshotSink, StateMachine
from raftcore.sim import checkers
from raftcore.sim.actions import ACTIONS, Action
from raftcore.sim.clients import Clients
from raftcore.sim.disk import Disk
from raftcore.sim.disk_log import DiskLog
from raftcore.sim.disk_snapshots import DiskSnapshots
from raftcore.sim.host import Host
from raftcore.sim.invariants import Invariants, Violation
from raftcore.sim.loop import Livelock, Process, SimLoop
from raftcore.sim.machine import Book
from raftcore.sim.network import Network
from raftcore.sim.plan import Plan, Step
from raftcore.sim.trace import Trace
from raftcore.types import Membership

RECOVERY_SECONDS = 60.0
"""How long a cluster without faults may take to elect, to converge and to answer every member's clients."""

CLOSING_SECONDS = 20.0
LOOKS_EVERY = 0.25
LEADER_SHARE = 0.4
"""How often what strikes anybody strikes the leader."""


class Plugins(msgspec.Struct, frozen=True):
    """What is under test: how a host's plugins are made, from nothing and from its disk.

    `commands`: makes a payload for a state machine other than `Book`, which understands the clients' own commands.
    """

    state_machine: Callable[[], StateMachine] = Book
    log_store: Callable[[Disk], LogStore] = DiskLog
    snapshots: Callable[[Disk], SnapshotSink] = DiskSnapshots
    commands: Callable[[random.Random], bytes] | None = None
    compare_snapshots: bool = True


class World:
    """A run under way. `counts` says what really happened; `violation` is the first rule that was broken."""

    def __init__(self, plan: Plan, plugins: Plugins | None = None, *, traced: bool = False) -> None:
        self.plan = plan
        self.plugins = plugins or Plugins()
        self.counts: Counter[str] = Counter()
        self.violation: Violation | None = None
        self.loop = SimLoop(self.stream("schedule"))  # type: ignore[abstract]  # what asyncio asks for in a simulation is there
        self.trace = Trace(lambda: self.loop.now) if traced else None
        self.nemesis = Process("nemesis")
        self.recovering = self.closing = self.ended = False
        self.disks: list[Disk] = []
        self._cuts: list[str] = []
        self._struck, self._detail, self._until_healed = "", "", False
        self.network = Network(
            self.stream("network"), self._schedule, lambda: self.loop.now, plan.network, self.note if traced else None
        )
        self.invariants = Invariants(self)
        self.network.on_send = self.invariants.sent
        self.clients = Clients(self, plan.clients)
        self.hosts: dict[str, Host] = {name: Host(self, name) for name in (*plan.voters, *plan.spares)}

    def stream(self, name: str) -> random.Random:
        """A random source of its own for each part, so that a change in one does not shift the draws of all others."""
        return random.Random(f"{self.plan.seed}/{name}")

    def _schedule(self, delay: float, node: str, call: Callable[..., object], *args: object) -> None:
        self.loop.call(delay, self.hosts[node].process, call, *args)

    def later(self, delay: float, call: Callable[..., object], *args: object) -> None:
        """Do something to the world after a while."""
        self.loop.call(delay, self.nemesis, call, *args)

    def note(self, kind: str, /, **fields: Any) -> None:
        """For the trace, if there is one."""
        if self.trace is not None and not self.ended:
            self.trace.add(kind, **fields)

    def violate(self, invariant: str, text: str, node: str = "") -> None:
        """A rule is broken; the first one ends the run."""
        if self.violation is None and not self.ended:
            self.violation = Violation(invariant, text, node)
            self.note("violation", invariant=invariant, node=node, text=text)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> Violation | None:
        """Run the plan to its end; the first violation, or None."""
        try:
            self.note("phase", text="faults and load")
            for host in self.hosts.values():
                host.start()
            actions = {action.name: action for action in ACTIONS}
            for step in self.plan.steps:
                self._advance(step.gap)
                self._take(step, actions[step.action])
            self._advance(0.5)
            self._recover()
            self._close()
            self._check_histories()
        except Violation:
            pass
        except Livelock as error:
            self.violate("the cluster comes to rest", str(error))
        finally:
            self.ended = True
            self.loop.close()
        return self.violation

    def _take(self, step: Step, action: Action) -> None:
        rng = random.Random(step.seed)
        if action.group == "operation" and self.plugins.commands is not None:
            done = self._propose(self.plugins.commands, rng)
        else:
            done = action.do(self, rng)
        if done:
            self.counts[action.name] += 1
            if action.group not in ("operation", "cluster", "membership"):
                self.note("fault", fault=action.name, node=self._struck, text=self._detail)
                if self._until_healed:
                    self._cuts.append(action.name)
        self._struck, self._detail, self._until_healed = "", "", False

    def _propose(self, commands: Callable[[random.Random], bytes], rng: random.Random) -> bool:
        host, count = self.anyone(rng), rng.choice([1, 1, 1, 5])
        return host is not None and self.clients.propose_raw(host, [commands(rng) for _ in range(count)])

    def _advance(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)
        if self.violation is None and self.loop.errors:
            self.violate("no failure goes unseen", self.loop.errors[0])
        if self.violation is not None:
            raise self.violation

    def disk_counters(self) -> dict[str, int]:
        """What happened on all disks."""
        total: Counter[str] = Counter()
        for disk in self.disks:
            total.update(disk.counts)
        return dict(total)

    # -- who ----------------------------------------------------------------------------------------------------------

    def serving(self) -> list[Host]:
        """Those that run, have started, and do not stand still."""
        return [host for host in self.hosts.values() if host.serves and not host.paused]

    def anyone(self, rng: random.Random) -> Host | None:
        """One of those that serve."""
        hosts = self.serving()
        return rng.choice(hosts) if hosts else None

    def leader(self) -> Host | None:
        """The leader of the newest term, if it runs."""
        leaders = [host for host in self.serving() if host.leads]
        return max(leaders, key=lambda host: host.term, default=None)

    def victim(self, rng: random.Random) -> Host | None:
        """Anyone, and often the leader."""
        leader = self.leader()
        return leader if leader is not None and rng.random() < LEADER_SHARE else self.anyone(rng)

    # -- what is done to it -------------------------------------------------------------------------------------------

    def crash(self, host: Host, *, silently: bool) -> None:
        """The process, or the machine's power, is gone."""
        if host.up:
            host.kill(silently=silently)

    def restart(self, host: Host) -> None:
        """Start the node again, if it does not run."""
        if not (host.up or host.closing or host.retired or self.closing):
            host.start()

    def heal_network(self) -> None:
        """Every cut ends."""
        self.network.heal()
        for name in self._cuts:
            self.note("fault", fault=f"end of {name}", node="", text="")
        self._cuts.clear()

    def detail(self, text: str, node: str = "") -> None:
        """What the fault that is being brought about strikes, for the trace."""
        self._struck, self._detail = node, text

    def heal_later(self, delay: float) -> None:
        """The fault that is being brought about lasts until the network is healed, and that is soon."""
        self._until_healed = True
        self.later(delay, self.heal_network)

    def trouble(self, field: str, chance: float) -> None:
        """From now on messages meet this fate with this probability."""
        if not chance:
            self.note("fault", fault=f"end of {field}", node="", text="")
        if not self.recovering or not chance:
            self.network.settings = msgspec.structs.replace(self.network.settings, **{field: chance})

    def mend_disk(self, host: Host) -> None:
        """The disk works again, the rotten bit is as it was; a node that has stopped is started."""
        host.disk.fail_next_sync = host.disk.read_error = False
        host.disk.free_bytes = None
        if host.rot is not None:
            host.rot.unrot()
            host.rot = None
        if host.faulty and not host.up:
            host.faulty = False
            self.restart(host)
        host.faulty = False

    # -- the end ------------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Phase two: nothing fails any more."""
        self.note("phase", text="faults end; the cluster has to recover")
        self.recovering = True
        self.network.settings = self.plan.network
        self.heal_network()
        for host in self.hosts.values():
            host.slowness, host.stalled_until, host.crash_in = 1.0, 0.0, ""
            host.resume()
            self.mend_disk(host)
            self.restart(host)
        until = self.loop.now + RECOVERY_SECONDS
        probes: set[str] = set()
        while True:
            self._advance(LOOKS_EVERY)
            for host in self.hosts.values():
                self.restart(host)  # one that was closing, or found its disk mended too late
            reason = self._unrest(probes)
            if not reason:
                break
            if self.loop.now > until:
                self.violate(
                    "a cluster without faults recovers", f"{RECOVERY_SECONDS:g} s after the last fault {reason}"
                )
            self._advance(0)
        self._read_everything()
        if self.plugins.compare_snapshots:
            self._compare_snapshots()

    def _unrest(self, probes: set[str]) -> str:
        """Why the cluster has not recovered yet; empty when it has."""
        membership = self.membership()
        if membership is None:
            return f"no membership is committed; {self._told()}"
        voters = {name for name in membership.all_voters if not self.hosts[name].wiped}
        if any(2 * len(voters & set(group)) <= len(group) for group in membership.voters):
            self.counts["runs without a quorum of disks"] += 1
            return ""
        self._quiet_the_removed(membership)
        leaders = [host for host in self.serving() if host.leads]
        current = [host for host in leaders if host.name in membership.all_voters]
        if len(current) != 1:
            return f"{len(current)} members lead; {self._told()}"
        (leader,) = current
        engine = leader.member.engine  # type: ignore[union-attr]  # it leads
        if engine.membership.is_joint or engine.history.effective_id.index > engine.commit:
            return f"the membership is {engine.membership.voters}, which is not the last of its change; {self._told()}"
        members = [name for name in engine.membership.members if not self.hosts[name].wiped]
        behind = [name for name in members if self.hosts[name].member is None
                  or self.hosts[name].member.applier.applied.index < engine.commit]  # type: ignore[union-attr]  # just seen  # fmt: skip
        if behind:
            return f"members {behind} have not applied what is committed ({engine.commit}); {self._told()}"
        for name in members:
            if name not in probes and self._probe(self.hosts[name]):
                probes.add(name)
                return f"{name}'s client waits"
        if self.clients.waiting:
            return f"{self.clients.waiting} clients wait for an answer; {self._told()}"
        refused = {name for name in members if self.clients.last_outcome.get(name) != "ok"}
        probes -= refused  # they are asked again
        return f"clients of {sorted(refused)} are refused; {self._told()}" if refused else ""

    def _probe(self, host: Host) -> bool:
        """Every member has to serve a write."""
        rng = random.Random(host.name)
        if self.plugins.commands is not None:
            return self.clients.propose_raw(host, [self.plugins.commands(rng)])
        return self.clients.write(host, rng)

    def membership(self) -> Membership | None:
        """The newest committed one."""
        known = self.invariants.memberships
        committed = [
            at
            for at in known
            if at.index < len(self.invariants.committed) and self.invariants.committed[at.index] == at
        ]
        return known[max(committed, key=lambda at: at.index)] if committed else None

    def _quiet_the_removed(self, membership: Membership) -> None:
        """Without check-quorum a node that was removed and does not know it may disturb for ever: it is stopped."""
        if not self.plan.raft.check_quorum:
            for host in self.hosts.values():
                if host.up and host.name not in membership.members and not host.closing:
                    host.retired = True
                    host.close()

    def _told(self) -> str:
        return "; ".join(host.told() for host in self.hosts.values())

    def _read_everything(self) -> None:
        """Every key once more, so that nothing that was acknowledged can be missing unseen."""
        if self.plugins.commands is None:
            for key in self.clients.keys:
                host = self.leader()
                if host is not None and self.clients.read(host, key, "linearizable"):
                    self._advance(LOOKS_EVERY)
        applied = Counter(payload for payload in self.invariants.payloads if payload is not None)
        for payload, count in self.clients.acknowledged.items():
            if applied[payload] < count:
                self.violate(
                    "what was acknowledged is applied",
                    f"{payload[:60]!r} was acknowledged {count} times and applied {applied[payload]} times",
                )

    def _compare_snapshots(self) -> None:
        """At one index every state machine writes the same snapshot."""
        found: dict[int, tuple[bytes, str]] = {}
        for host in self.hosts.values():
            if host.member is None or host.machine is None or not host.serves:
                continue
            data = b"".join(host.machine.snapshot())
            applied = host.member.applier.applied.index
            first = found.setdefault(applied, (data, host.name))
            if first[0] != data:
                self.violate(
                    "snapshots of one state are alike",
                    f"after entry {applied} the state machine writes {len(data)} bytes here and {len(first[0])} other "
                    f"bytes on {first[1]}: apply is not deterministic, or snapshot() writes one state in different "
                    "ways (sort it), or restore() does not bring back all of it",
                    host.name,
                )

    def _close(self) -> None:
        """Stop every node in order; everything that waits is told."""
        self.note("phase", text="the nodes are closed")
        self.closing = True
        for host in self.hosts.values():
            if host.up:
                host.close()
        until = self.loop.now + CLOSING_SECONDS
        while any(host.up for host in self.hosts.values()):
            self._advance(LOOKS_EVERY)
            if self.loop.now > until:
                left = [host.name for host in self.hosts.values() if host.up]
                self.violate("a node closes in time", f"{left} are not closed after {CLOSING_SECONDS:g} s")
        self._advance(0)

    def _check_histories(self) -> None:
        for anomaly in checkers.check(self.clients.history):
            self.violate(f"history: {anomaly.checker}", f"{anomaly.key}: {anomaly.text}")

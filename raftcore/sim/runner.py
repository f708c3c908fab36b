"""Many seeds on all cores, what they add up to, and how a failing one is made shorter."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import msgspec

from raftcore.contracts import LogStore, SnapshotSink, StateMachine
from raftcore.errors import ConfigError
from raftcore.sim.actions import ACTIONS
from raftcore.sim.disk import Disk
from raftcore.sim.disk_log import DiskLog
from raftcore.sim.disk_snapshots import DiskSnapshots
from raftcore.sim.machine import Book
from raftcore.sim.plan import DEFAULT_STEPS, Plan, Step, draw
from raftcore.sim.world import Plugins, World

BATCH = 8
OPERATORS = ("operation", "cluster", "membership")


class Failure(msgspec.Struct, frozen=True):
    """A seed that broke a rule."""

    seed: int
    invariant: str
    node: str
    text: str


class SimulationFailed(AssertionError):
    """A seed broke a rule. The message names the rule, what was seen, and the seed that shows it again."""


class Report(msgspec.Struct):
    """What runs add up to. `events` counts the callbacks that ran; `cluster_seconds` is virtual time."""

    runs: int = 0
    failures: list[Failure] = []
    cluster_seconds: float = 0.0
    events: int = 0
    counts: dict[str, int] = {}
    network: dict[str, int] = {}
    disks: dict[str, int] = {}

    def add(self, other: Report) -> None:
        """Add what other runs amount to."""
        self.runs += other.runs
        self.failures = [*self.failures, *other.failures]
        self.cluster_seconds += other.cluster_seconds
        self.events += other.events
        self.counts = dict(Counter(self.counts) + Counter(other.counts))
        self.network = dict(Counter(self.network) + Counter(other.network))
        self.disks = dict(Counter(self.disks) + Counter(other.disks))

    @property
    def operations(self) -> dict[str, int]:
        """How often each operation was done."""
        return {action.name: self.counts.get(action.name, 0) for action in ACTIONS if action.group in OPERATORS}

    @property
    def answers(self) -> dict[str, int]:
        """How clients' calls ended: ok, fail (it did not happen), info (nobody knows)."""
        return {outcome: self.counts.get(f"answers {outcome}", 0) for outcome in ("ok", "fail", "info")}

    @property
    def faults(self) -> dict[str, int]:
        """How often each fault happened, those of the network and of the disks by what they did."""
        return {action.name: self.counts.get(action.name, 0) for action in ACTIONS if action.group not in OPERATORS}


def run_plan(plan: Plan, plugins: Plugins | None = None) -> Report:
    """Run one plan."""
    world = World(plan, plugins)
    violation = world.run()
    failures = [Failure(plan.seed, violation.invariant, violation.node, violation.text)] if violation else []
    return Report(
        1,
        failures,
        world.loop.now,
        world.loop.steps,
        dict(world.counts),
        world.network.counters(),
        world.disk_counters(),
    )


def _quiet() -> None:
    """Nodes that die on purpose are no news."""
    logging.getLogger("raftcore").setLevel(logging.CRITICAL)


def _run_batch(seeds: list[int], steps: int, profile: str) -> Report:
    report = Report()
    for seed in seeds:
        report.add(run_plan(draw(seed, steps, profile)))
    return report


def run_seeds(
    seeds: Iterable[int],
    *,
    steps: int = DEFAULT_STEPS,
    profile: str = "all",
    jobs: int | None = None,
    progress: Callable[[Report], None] = lambda report: None,
) -> tuple[Report, float]:
    """Run the built-in workload for many seeds, `jobs` processes at a time (one a core). The report, and the seconds it
    took. `progress` is called with what is done so far."""
    started = time.monotonic()
    total, batches = Report(), _batches(seeds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs or os.cpu_count(), context, initializer=_quiet) as pool:
        waiting = {pool.submit(_run_batch, batch, steps, profile) for batch in batches}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                total.add(future.result())
            progress(total)
    total.failures.sort(key=lambda failure: failure.seed)
    return total, time.monotonic() - started


def check(
    state_machine: Callable[[], StateMachine] = Book,
    *,
    commands: Callable[[random.Random], bytes] | None = None,
    log_store: Callable[[Disk], LogStore] = DiskLog,
    snapshots: Callable[[Disk], SnapshotSink] = DiskSnapshots,
    seeds: Iterable[int] = range(20),
    steps: int = DEFAULT_STEPS,
    profile: str = "all",
    compare_snapshots: bool = True,
) -> Report:
    """Run plugins of your own in simulated clusters under faults. Raises `SimulationFailed` for the first seed that
    breaks a rule.

    `state_machine` makes one for each start of a node, and `commands` draws a payload for it; without `commands` it has
    to understand what `raftcore.sim.machine.Book` does. `log_store` and `snapshots` make theirs on a simulated `Disk`,
    which forgets at a crash what was not synced; whatever they have to remember belongs there.
    `compare_snapshots=False` is for a state machine that may write one state in different ways.
    """
    if commands is None and state_machine is not Book:
        raise ConfigError(
            "commands: a state machine of your own needs payloads that it understands; pass a function that draws one, "
            "such as commands=lambda rng: b'%d' % rng.randrange(10)"
        )
    plugins = Plugins(state_machine, log_store, snapshots, commands, compare_snapshots)
    report = Report()
    for seed in seeds:
        report.add(run_plan(draw(seed, steps, profile), plugins))
        for failure in report.failures:
            where = f" on {failure.node}" if failure.node else ""
            raise SimulationFailed(
                f"seed {seed}: {failure.invariant}{where}: {failure.text}\n(the same again: seeds=[{seed}], "
                f"steps={steps}, profile={profile!r})"
            )
    return report


def _batches(seeds: Iterable[int]) -> Iterator[list[int]]:
    left = list(seeds)
    for at in range(0, len(left), BATCH):
        yield left[at : at + BATCH]


def shrink(
    plan: Plan, plugins: Plugins | None = None, progress: Callable[[int], None] = lambda steps: None
) -> Plan | None:
    """A plan with as few steps as can be found that breaks the same rule (delta debugging, Zeller 2002); None when the
    plan breaks none. `progress` is called with the number of steps that are left."""
    violation = World(plan, plugins).run()
    if violation is None:
        return None

    def fails(steps: tuple[Step, ...]) -> bool:
        found = World(msgspec.structs.replace(plan, steps=steps), plugins).run()
        return found is not None and found.invariant == violation.invariant

    steps, pieces = plan.steps, 2
    while len(steps) > 1:
        size = -(-len(steps) // pieces)
        for at in range(0, len(steps), size):
            # The gap of what is taken out stays, or all that follows would come earlier.
            fewer = _without(steps, at, at + size)
            if fails(fewer):
                steps, pieces = fewer, max(2, pieces - 1)
                progress(len(steps))
                break
        else:
            if size == 1:
                break
            pieces = min(len(steps), 2 * pieces)
    return msgspec.structs.replace(plan, steps=steps)


def _without(steps: tuple[Step, ...], start: int, stop: int) -> tuple[Step, ...]:
    gap = sum(step.gap for step in steps[start:stop])
    rest = steps[stop:]
    if rest:
        rest = (rest[0]._replace(gap=rest[0].gap + gap), *rest[1:])
    return (*steps[:start], *rest)

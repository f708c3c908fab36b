from __future__ import annotations

import os
import random
import subprocess
import sys

import msgspec
import pytest

from raftcore import sim
from raftcore.backends.kv import KeyValue, Put, encode
from raftcore.errors import ConfigError
from raftcore.sim.actions import ACTIONS
from raftcore.sim.disk_log import DiskLog
from raftcore.sim.disk_snapshots import DiskSnapshots
from raftcore.sim.machine import Book
from raftcore.sim.plan import Step

SEEDS = 5
"""Seeds of each profile; `raftcore sim run` takes more."""


@pytest.mark.timeout(300)  # under coverage it takes a minute
def test_no_rule_is_broken_and_every_action_happens():
    """A slice of what `raftcore sim run` does: whole clusters under faults, all invariants, histories checked. And no
    action is dead: each was taken, and did something."""
    report = sim.Report()
    for profile in sorted(sim.PROFILES):
        for seed in range(SEEDS):
            report.add(sim.run_plan(sim.draw(seed, profile=profile)))

    assert [] == report.failures
    assert report.runs == SEEDS * len(sim.PROFILES)
    assert report.counts["answers ok"] > 10 * report.runs
    assert [] == [action.name for action in ACTIONS if not report.counts.get(action.name)]


DIGEST = """
from raftcore.sim import World, draw
for seed in (7, 8):
    world = World(draw(seed), traced=True)
    world.run()
    print(world.trace.digest(), world.loop.steps)
"""


def test_one_seed_is_one_run_in_every_process():
    """The same trace, byte for byte, whatever the hashes of strings are."""
    found = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for hash_seed in ("1", "2")
    ]

    assert found[0] == found[1]
    assert 2 == len(set(found[0].splitlines()))


class Dice(Book):
    """A state machine that looks at something beside its entries."""

    def apply(self, run):
        return [b"%d" % random.randrange(1000) for _ in run.payloads]


class Forgetful(Book):
    """A state machine whose snapshots lack a part of its state."""

    def snapshot(self):
        self.pages.pop("register/0", None)
        return super().snapshot()


class Hasty(DiskLog):
    """A log store that acknowledges before it has synced: it leaves out every sync of its file."""

    def __init__(self, disk):
        super().__init__(_WithoutSync(disk))


class _WithoutSync:
    """A disk, or a file on it, whose `sync` does nothing."""

    def __init__(self, real):
        self._real = real

    def open(self, name):
        return _WithoutSync(self._real.open(name))

    def sync(self):
        pass

    def __getattr__(self, name):
        return getattr(self._real, name)


def test_a_state_machine_that_rolls_dice_is_caught():
    """The message says what was answered where, and what causes that."""
    with pytest.raises(
        sim.SimulationFailed, match=r"apply is deterministic.* was answered .* looks at something beside"
    ):
        sim.check(Dice, commands=lambda rng: b"roll", seeds=range(20))


def test_a_state_machine_with_incomplete_snapshots_is_caught():
    """By its answers after a restart, or by its snapshots at the end."""
    with pytest.raises(
        sim.SimulationFailed, match=r"snapshots do not hold the whole state|restore\(\) does not bring back"
    ):
        sim.check(
            Forgetful,
            commands=lambda rng: msgspec.msgpack.encode(["add", f"register/{rng.randrange(3)}", 1]),
            seeds=range(40),
        )


def test_a_log_store_that_acknowledges_before_it_is_durable_is_caught():
    """The message says what was promised, what is there, and what causes that."""
    with pytest.raises(sim.SimulationFailed, match=r"acknowledges a write before it is durable"):
        sim.check(log_store=Hasty, seeds=range(20))


class Careless(DiskSnapshots):
    """A sink that forgets what it committed."""

    def list(self):
        return super().list()[1:]


def test_a_sink_that_loses_snapshots_is_caught():
    """What commit has returned for has to be listed."""
    with pytest.raises(sim.SimulationFailed, match="lost the snapshot"):
        sim.check(snapshots=Careless, seeds=range(20))


def test_a_state_machine_of_ones_own_passes():
    """Three lines are enough for a right one."""
    report = sim.check(
        KeyValue, commands=lambda rng: encode(Put(f"k{rng.randrange(5)}", b"%d" % rng.randrange(9))), seeds=range(4)
    )

    assert 4 == report.runs


def test_a_state_machine_needs_commands():
    """The clients' own ones would be garbage to it."""
    with pytest.raises(ConfigError, match="pass a function that draws one"):
        sim.check(KeyValue)


def test_a_profile_has_to_exist():
    """The message names those that do."""
    with pytest.raises(ConfigError, match=r"there is no 'chaos'; choose one of all, "):
        sim.draw(1, profile="chaos")


def test_a_failing_plan_is_made_shorter():
    """What is left still breaks the same rule, and no step of it is needless."""
    plan = sim.draw(1)
    plugins = sim.Plugins(Dice, commands=lambda rng: b"roll")
    before = sim.run_plan(plan, plugins).failures

    shorter = sim.shrink(plan, plugins)

    assert len(shorter.steps) < len(plan.steps) / 10
    assert sim.run_plan(shorter, plugins).failures[0].invariant == before[0].invariant
    for place in range(len(shorter.steps)):
        steps = shorter.steps[:place] + shorter.steps[place + 1 :]
        if len(shorter.steps) > 1:
            assert [] == sim.run_plan(msgspec.structs.replace(shorter, steps=steps), plugins).failures


def test_a_plan_that_breaks_nothing_can_not_be_made_shorter():
    """There is nothing to look for."""
    assert sim.shrink(sim.draw(0, 20)) is None


def test_a_cluster_that_can_not_recover_is_reported():
    """Liveness: when faults have ended, a cluster that does not serve breaks a rule, with how each node is."""
    plan = sim.draw(3, 1)
    world = sim.World(msgspec.structs.replace(plan, voters=("n1", "n2", "n3"), steps=(Step(1.0, "write", 1),)))
    world.heal_network = lambda: None
    world.network.heal = lambda: None
    world.network.isolate("n1")
    world.network.isolate("n2")

    violation = world.run()

    assert violation is not None
    assert "a cluster without faults recovers" == violation.invariant
    assert "n1 " in violation.text


def test_plans_survive_their_file():
    """A plan is written as JSON by `raftcore sim shrink --out`, and read by `raftcore sim replay`."""
    plan = sim.draw(5, 30)

    assert plan == msgspec.json.decode(msgspec.json.encode(plan), type=sim.Plan)


def test_many_seeds_add_up():
    """On all cores, with what happened in total, and progress on the way."""
    seen = []

    report, seconds = sim.run_seeds(range(16), steps=40, jobs=2, progress=lambda so_far: seen.append(so_far.runs))

    assert (16, []) == (report.runs, report.failures)
    assert seen[-1] == 16
    assert seconds > 0
    assert report.operations["write"] > 0
    assert report.network["delivered"] > 0

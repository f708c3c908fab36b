"""Everything that can happen in a run, in one table. A new kind is a function and its line here."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from raftcore.sim import faults, operations

if TYPE_CHECKING:
    from raftcore.sim.world import World


class Action(NamedTuple):
    """`group`: "operation" (clients), "cluster" and "membership" (operators), or a group of faults. `weight`: how often
    it comes, relative to the others. `do` says whether it really did something now; only that is counted."""

    name: str
    group: str
    weight: float
    do: Callable[[World, random.Random], bool]


ACTIONS = (
    Action("write", "operation", 12, operations.write),
    Action("cas", "operation", 9, operations.cas),
    Action("append", "operation", 9, operations.append),
    Action("add", "operation", 6, operations.add),
    Action("batch", "operation", 4.5, operations.batch),
    Action("read", "operation", 12, operations.read("linearizable")),
    Action("lease read", "operation", 7, operations.read("lease")),
    Action("stale read", "operation", 4, operations.read("stale")),
    Action("election", "cluster", 0.7, operations.elect),
    Action("heartbeat", "cluster", 0.3, operations.heartbeat),
    Action("transfer", "cluster", 1, operations.transfer),
    Action("snapshot", "cluster", 1, operations.snapshot),
    Action("purge", "cluster", 0.5, operations.purge),
    Action("learner added", "membership", 1.5, operations.add_learner),
    Action("learner promoted", "membership", 1, operations.promote),
    Action("voter demoted", "membership", 0.4, operations.demote),
    Action("voter removed", "membership", 0.6, operations.remove),
    Action("leader removed", "membership", 0.4, operations.remove_leader),
    Action("voters replaced", "membership", 0.6, operations.replace),
    Action("two learners promoted", "membership", 0.7, operations.grow),
    Action("five voters to three", "membership", 0.5, operations.shrink),
    Action("disk wiped", "membership", 0.4, operations.wipe),
    Action("crash", "crash", 0.7, faults.crash),
    Action("leader crash", "crash", 0.5, faults.crash_leader),
    Action("power loss", "crash", 0.5, faults.power_loss),
    Action("crash in a write", "crash", 0.6, faults.crash_in("write")),
    Action("crash in a snapshot", "crash", 0.4, faults.crash_in("snapshot")),
    Action("crash in a purge", "crash", 0.4, faults.crash_in("purge")),
    Action("crash in a restore", "crash", 0.4, faults.crash_in("restore")),
    Action("stop", "crash", 0.4, faults.stop),
    Action("one-way cut", "network", 0.5, faults.cut_one_way),
    Action("partition", "network", 0.6, faults.partition),
    Action("partial partition", "network", 0.4, faults.partial_partition),
    Action("isolation", "network", 0.6, faults.isolate),
    Action("reset", "network", 0.6, faults.reset),
    Action("slow link", "network", 0.4, faults.slow_link),
    Action("loss", "network", 0.4, faults.trouble("loss", (0.01, 0.1, 0.4))),
    Action("duplication", "network", 0.4, faults.trouble("duplication", (0.05, 0.5))),
    Action("reordering", "network", 0.4, faults.trouble("reordering", (0.05, 0.5))),
    Action("late", "network", 0.4, faults.trouble("late", (0.02, 0.2))),
    Action("slow disk", "disk", 0.5, faults.slow_disk),
    Action("stalled disk", "disk", 0.5, faults.stalled_disk),
    Action("failed sync", "disk", 0.4, faults.failed_sync),
    Action("full disk", "disk", 0.4, faults.disk_full),
    Action("read errors", "disk", 0.4, faults.read_errors),
    Action("bit rot", "disk", 0.4, faults.bit_rot),
    Action("pause", "clock", 0.8, faults.pause),
    Action("clock jump", "clock", 1, faults.clock_jump),
    Action("clock drift", "clock", 0.5, faults.clock_drift),
)

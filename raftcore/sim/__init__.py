"""A deterministic simulator: whole nodes on a virtual-time loop, with a network, disks and clocks that misbehave.

One seed decides everything; the same seed gives the same run. `check` puts a state machine, a log store or a snapshot
sink of your own under the faults that raftcore itself is tested with:

    def test_my_state_machine():
        raftcore.sim.check(MyStateMachine, commands=lambda rng: b"%d" % rng.randrange(10), seeds=range(50))
"""

from raftcore.sim.disk import Disk
from raftcore.sim.invariants import Violation
from raftcore.sim.plan import PROFILES, Plan, draw
from raftcore.sim.runner import Report, SimulationFailed, check, run_plan, run_seeds, shrink
from raftcore.sim.world import Plugins, World

__all__ = [
    "PROFILES",
    "Disk",
    "Plan",
    "Plugins",
    "Report",
    "SimulationFailed",
    "Violation",
    "World",
    "check",
    "draw",
    "run_plan",
    "run_seeds",
    "shrink",
]

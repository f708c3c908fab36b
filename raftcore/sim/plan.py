"""What one seed stands for: a cluster, its settings, its network, and the steps to take; all drawn before it runs.

A step names an action and carries a seed of its own from which its details are drawn when it is taken, so a plan from
which steps were removed still means something: that is how a failing one is made shorter.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from raftcore.engine import RaftSettings
from raftcore.errors import ConfigError
from raftcore.node.settings import Limits, SnapshotPolicy
from raftcore.sim.actions import ACTIONS, Action
from raftcore.sim.network import NetworkSettings

DEFAULT_STEPS = 200
CALM = 0.05
"""How many of the steps are preceded by a calm of some seconds."""


class Step(NamedTuple):
    """After `gap` seconds take `action`, with details drawn from `seed`."""

    gap: float
    action: str
    seed: int


class Profile(msgspec.Struct, frozen=True):
    """How often each group of actions comes, relative to the ordinary; what is not named does not come at all."""

    summary: str
    groups: dict[str, float]


PROFILES = {
    "all": Profile(
        "everything at once",
        {"operation": 1, "cluster": 1, "membership": 1, "crash": 1, "network": 1, "disk": 1, "clock": 1},
    ),
    "quiet": Profile("operations and changes of membership", {"operation": 1, "cluster": 1, "membership": 1}),
    "crash": Profile("crashes and restarts, disks that forget", {"operation": 1, "cluster": 1, "crash": 3}),
    "network": Profile("partitions, loss, resets", {"operation": 1, "cluster": 1, "membership": 0.5, "network": 3}),
    "disk": Profile("slow, full and failing disks, bit rot", {"operation": 1, "cluster": 1, "crash": 1, "disk": 3}),
    "clock": Profile("clocks that drift and jump, pauses", {"operation": 1, "cluster": 1, "clock": 3}),
    "membership": Profile(
        "members come and go, while nodes crash",
        {"operation": 1, "cluster": 1, "membership": 4, "crash": 0.5, "network": 0.5},
    ),
}


class Plan(msgspec.Struct, frozen=True):
    """One run. `voters` begin the cluster, `spares` are machines that may be added to it. `drift`: how much clocks'
    speeds differ from the true one, at most; `jumps`: clocks may jump, so leases can't be relied on."""

    seed: int
    profile: str
    voters: tuple[str, ...]
    spares: tuple[str, ...]
    clients: int
    raft: RaftSettings
    limits: Limits
    snapshots: SnapshotPolicy
    network: NetworkSettings
    drift: float
    jumps: bool
    steps: tuple[Step, ...]


def draw(seed: int, steps: int = DEFAULT_STEPS, profile: str = "all", actions: Iterable[Action] = ACTIONS) -> Plan:
    """The plan of a seed. Raises `ConfigError` for an unknown profile."""
    if profile not in PROFILES:
        raise ConfigError(f"profile: there is no {profile!r}; choose one of {', '.join(PROFILES)}")
    rng = random.Random(f"{seed}/{profile}/plan")
    groups = PROFILES[profile].groups
    nodes = rng.choice([1, 2, 3, 3, 3, 3, 4, 5, 5])
    names = tuple(f"n{number + 1}" for number in range(nodes + 3))
    jumps = "clock" in groups and rng.random() < 0.25
    raft = _raft(rng)
    # Each run has its own taste: some actions often, some never.
    chosen = [action for action in actions if action.group in groups]
    weights = [
        action.weight * groups[action.group] * (1 if action.group == "operation" else rng.choice([0, 1, 1, 1, 3]))
        for action in chosen
    ]
    pace = rng.choice([0.02, 0.05, 0.1, 0.1, 0.3])
    taken = rng.choices([action.name for action in chosen], weights, k=steps)
    return Plan(
        seed,
        profile,
        names[:nodes],
        names[nodes:],
        rng.choice([2, 4, 8]),
        raft,
        _limits(rng),
        _policy(rng),
        NetworkSettings(),
        rng.choice([0, 0, 0.001, 0.02]),
        jumps,
        tuple(Step(_gap(rng, pace), name, rng.getrandbits(32)) for name in taken),
    )


def _gap(rng: random.Random, pace: float) -> float:
    """Mostly short; now and then long enough for the cluster to recover and go on."""
    return rng.uniform(1, 5) if rng.random() < CALM else rng.expovariate(1 / pace)


def _raft(rng: random.Random) -> RaftSettings:
    """Settings that bring the corners near: small messages, windows and caches, both vote orders."""
    check_quorum = rng.random() < 0.9
    return RaftSettings(
        heartbeat_ms=rng.choice([30, 50]),
        election_timeout_ms=rng.choice([(200, 400), (300, 600)]),
        vote_order=rng.choice(["standard", "standard", "node"]),
        pre_vote=rng.random() < 0.8,
        check_quorum=check_quorum,
        max_message_bytes=rng.choice([200, 2000, 1024 * 1024]),
        max_inflight_messages=rng.choice([1, 3, 64]),
        max_inflight_bytes=rng.choice([500, 16 * 1024 * 1024]),
        max_uncommitted_bytes=rng.choice([5_000, 64 * 1024 * 1024]),
        cache_bytes=rng.choice([300, 3000, 64 * 1024 * 1024]),
    )


def _limits(rng: random.Random) -> Limits:
    return Limits(
        proposal_timeout_ms=rng.choice([1000, 3000]),
        read_timeout_ms=rng.choice([1000, 3000]),
        apply_batch_bytes=rng.choice([200, 4 * 1024 * 1024]),
        max_pending_proposals=rng.choice([5, 100_000]),
        shutdown_ms=2000,
    )


def _policy(rng: random.Random) -> SnapshotPolicy:
    return SnapshotPolicy(
        every_entries=rng.choice([0, 15, 40, 40]),
        keep=rng.choice([1, 2, 3]),
        trailing_entries=rng.choice([0, 0, 5, 20]),
        chunk_bytes=rng.choice([100, 1000, 256 * 1024]),
        idle_timeout_ms=2000,
    )

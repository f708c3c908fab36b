"""What clients and operators ask of a simulated cluster.

A function takes the world and a random source of its own, picks its target from how the world is at that moment, and
says whether it really did something. A command to the cluster may be refused, so it is counted when it is done.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from raftcore.errors import NodeStopped, OutcomeUnknown, ProposalError, WaitTimeout
from raftcore.types import NodeInfo

if TYPE_CHECKING:
    from raftcore.node import Node
    from raftcore.node.reading import Consistency
    from raftcore.sim.host import Host
    from raftcore.sim.world import World

REFUSED = (ProposalError, OutcomeUnknown, WaitTimeout, NodeStopped)


# -- clients ----------------------------------------------------------------------------------------------------------


def write(world: World, rng: random.Random) -> bool:
    """Set a register; most commands are small, some are not."""
    host = world.anyone(rng)
    return host is not None and world.clients.write(host, rng, rng.choice([0, 0, 0, 10, 300, 3000]))


def cas(world: World, rng: random.Random) -> bool:
    """Set a register if it has some value."""
    host = world.anyone(rng)
    return host is not None and world.clients.cas(host, rng)


def append(world: World, rng: random.Random) -> bool:
    """Append to a list."""
    host = world.anyone(rng)
    return host is not None and world.clients.append(host, rng)


def add(world: World, rng: random.Random) -> bool:
    """Add to a counter."""
    host = world.anyone(rng)
    return host is not None and world.clients.add(host, rng)


def batch(world: World, rng: random.Random) -> bool:
    """Many commands at once."""
    host = world.anyone(rng)
    return host is not None and world.clients.batch(host, rng, rng.choice([1, 3, 10, 40]))


def read(consistency: Consistency) -> Callable[[World, random.Random], bool]:
    """Read any key, with this consistency."""

    def read(world: World, rng: random.Random) -> bool:
        host = world.anyone(rng)
        if consistency == "lease" and (world.plan.jumps or not world.plan.raft.check_quorum):
            return False  # a lease counts on clocks that do not jump
        return host is not None and world.clients.read(host, world.clients.any_key(rng), consistency)

    return read


# -- operators --------------------------------------------------------------------------------------------------------


def _ask(world: World, host: Host | None, work: Callable[[Node], Awaitable[object]], name: str) -> bool:
    """An operator's command, in the node's process; it may be refused, so it is counted when it is done."""
    node = host.node if host is not None else None
    if host is None or node is None:
        return False

    async def ask(node: Node) -> None:
        try:
            await work(node)
        except REFUSED:
            world.counts["commands refused or unknown"] += 1
        else:
            world.counts[name] += 1

    world.loop.spawn(host.process, ask(node))
    return False


def elect(world: World, rng: random.Random) -> bool:
    """A node campaigns now."""

    async def elect(node: Node) -> None:
        node.trigger.election()

    return _ask(world, world.anyone(rng), elect, "election")


def heartbeat(world: World, rng: random.Random) -> bool:
    """The leader shows itself now."""

    async def beat(node: Node) -> None:
        node.trigger.heartbeat()

    return _ask(world, world.leader(), beat, "heartbeat")


def transfer(world: World, rng: random.Random) -> bool:
    """Leadership is handed to somebody, who may not be able to take it."""
    target = rng.choice([None, *sorted(world.hosts)])
    return _ask(world, world.anyone(rng), lambda node: node.transfer_leadership(target), "transfer")


def snapshot(world: World, rng: random.Random) -> bool:
    """A node takes a snapshot now."""
    return _ask(world, world.anyone(rng), lambda node: node.trigger.snapshot(), "snapshot")


def purge(world: World, rng: random.Random) -> bool:
    """A node purges its log now."""
    return _ask(world, world.anyone(rng), lambda node: node.trigger.purge(), "purge")


# -- members ----------------------------------------------------------------------------------------------------------


def _known(world: World) -> tuple[Host, list[str], list[str]] | None:
    """The leader, its voters and its learners."""
    host = world.leader()
    if host is None or host.member is None:
        return None
    membership = host.member.engine.membership
    return host, list(membership.all_voters), list(membership.learners)


def _change(world: World, host: Host, voters: list[str], learners: list[str] | None, name: str) -> bool:
    voters = [voter for voter in voters if not world.hosts[voter].wiped]
    if not voters:
        return False
    return _ask(world, host, lambda node: node.change_membership(voters, learners), name)


def add_learner(world: World, rng: random.Random) -> bool:
    """A machine that is no member becomes a learner."""
    known = _known(world)
    if known is None:
        return False
    host, voters, learners = known
    committed = world.membership()
    free = [
        name
        for name, other in world.hosts.items()
        if other.up
        and name not in (*voters, *learners)
        and not (other.wiped and committed and name in committed.members)
    ]
    if not free:
        return False
    name = rng.choice(free)
    if world.hosts[name].wiped:  # it was removed: under its new disk's name it may join like any other
        world.hosts[name].wiped = False
        world.counts["wiped machines added anew"] += 1
    asked = host if rng.random() < 0.8 else world.anyone(rng) or host
    return _ask(world, asked, lambda node: node.add_learner(name, name, wait=rng.random() < 0.3), "learner added")


def promote(world: World, rng: random.Random) -> bool:
    """A learner becomes a voter."""
    known = _known(world)
    if known is None or not known[2]:
        return False
    host, voters, learners = known
    chosen = rng.choice(learners)
    return _change(world, host, [*voters, chosen], [name for name in learners if name != chosen], "learner promoted")


def demote(world: World, rng: random.Random) -> bool:
    """A voter becomes a learner."""
    known = _known(world)
    if known is None or len(known[1]) < 2:
        return False
    host, voters, learners = known
    chosen = rng.choice(voters)
    return _change(world, host, [name for name in voters if name != chosen], [*learners, chosen], "voter demoted")


def remove(world: World, rng: random.Random) -> bool:
    """A voter leaves; one whose disk was wiped first."""
    known = _known(world)
    if known is None or len(known[1]) < 2:
        return False
    host, voters, _ = known
    chosen = rng.choice([name for name in voters if world.hosts[name].wiped] or voters)
    return _change(world, host, [name for name in voters if name != chosen], None, "voter removed")


def remove_leader(world: World, rng: random.Random) -> bool:
    """The leader takes itself out."""
    known = _known(world)
    if known is None or len(known[1]) < 2:
        return False
    host, voters, _ = known
    return _change(world, host, [name for name in voters if name != host.name], None, "leader removed")


def replace(world: World, rng: random.Random) -> bool:
    """Any of the members become the voters, learners among them."""
    known = _known(world)
    if known is None:
        return False
    host, voters, learners = known
    members = sorted({*voters, *learners})
    chosen = rng.sample(members, rng.randint(max(1, len(members) // 2), len(members)))
    return _change(world, host, chosen, None, "voters replaced")


def grow(world: World, rng: random.Random) -> bool:
    """3 → 5: two learners become voters at once; they are added first where there are none."""
    known = _known(world)
    if known is None:
        return False
    host, voters, learners = known
    if len(learners) < 2:
        return add_learner(world, rng)
    return _change(world, host, [*voters, *learners[:2]], learners[2:], "two learners promoted")


def shrink(world: World, rng: random.Random) -> bool:
    """5 → 3: all but three voters leave at once."""
    known = _known(world)
    if known is None or len(known[1]) < 5:
        return grow(world, rng)
    host, voters, _ = known
    return _change(world, host, rng.sample(voters, 3), None, "five voters to three")


def _can_do_without(host: Host, other: Host) -> bool:
    """No membership that `other` knows makes a quorum impossible without `host`; and in the newest its disk is written
    down, so that `other` will know the new one for what it is."""
    known = other.memberships()
    if any(host.name in group and len(group) < 3 for membership in known for group in membership.voters):
        return False
    return not known or not other.is_voter or known[-1].nodes.get(host.name) == NodeInfo(host.name, host.incarnation)


def wipe(world: World, rng: random.Random) -> bool:
    """A member loses its disk and comes back under its old name: it must not be believed. One at a time, and only
    where the others can do without it and know which disk it had."""
    host = world.victim(rng)
    if host is None or any(other.wiped for other in world.hosts.values()):
        return False
    if not host.is_voter or not all(_can_do_without(host, other) for other in world.hosts.values()):
        return False
    host.kill()
    host.wipe()
    world.later(rng.expovariate(1), world.restart, host)
    return True

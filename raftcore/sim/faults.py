"""What goes wrong in a simulated cluster: crashes, the network, disks, clocks.

A function takes the world and a random source of its own, picks its target from how the world is at that moment, and
says whether it really did something. What shows only later, such as a crash in the middle of a write, is counted then.
Faults end by themselves after a while (`world.later`), and all of them when the cluster is left in peace.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftcore.sim.world import World


# -- crashes ----------------------------------------------------------------------------------------------------------


def crash(world: World, rng: random.Random) -> bool:
    """SIGKILL."""
    host = world.victim(rng)
    if host is None:
        return False
    world.crash(host, silently=False)
    world.later(rng.expovariate(1), world.restart, host)
    return True


def crash_leader(world: World, rng: random.Random) -> bool:
    """SIGKILL, for the leader."""
    host = world.leader()
    if host is None:
        return False
    world.crash(host, silently=False)
    world.later(rng.expovariate(1), world.restart, host)
    return True


def power_loss(world: World, rng: random.Random) -> bool:
    """A machine, or all at once, without a word to the peers."""
    hosts = world.serving()
    if not hosts:
        return False
    for host in hosts if rng.random() < 0.3 else [rng.choice(hosts)]:
        world.crash(host, silently=True)
        world.later(rng.expovariate(1), world.restart, host)
    return True


def crash_in(kind: str) -> Callable[[World, random.Random], bool]:
    """SIGKILL in the middle of the next call of this kind."""

    def crash_in(world: World, rng: random.Random) -> bool:
        host = world.victim(rng)
        # Who will restore a snapshot next is not to be foreseen.
        for victim in world.serving() if kind == "restore" else [host] if host is not None else []:
            victim.crash_in = kind
        return False  # counted when it crashes

    return crash_in


def stop(world: World, rng: random.Random) -> bool:
    """SIGTERM: the node closes in order, and comes back."""
    host = world.victim(rng)
    if host is None:
        return False
    host.close()
    world.later(1 + rng.expovariate(1), world.restart, host)
    return True


# -- the network ------------------------------------------------------------------------------------------------------


def _until_healed(world: World, rng: random.Random, seconds: float = 1.5) -> bool:
    world.heal_later(rng.expovariate(1 / seconds))
    return True


def cut_one_way(world: World, rng: random.Random) -> bool:
    """What one node sends to another is lost, silently."""
    sender, receiver = _pair(world, rng)
    world.network.cut(sender, receiver)
    world.detail(f"{sender} to {receiver}")
    return _until_healed(world, rng)


def partition(world: World, rng: random.Random) -> bool:
    """Two sides that can't reach each other."""
    names = sorted(world.hosts)
    rng.shuffle(names)
    at = rng.randint(1, len(names) - 1)
    world.network.partition([names[:at], names[at:]])
    world.detail(f"{' '.join(sorted(names[:at]))} | {' '.join(sorted(names[at:]))}")
    return _until_healed(world, rng)


def partial_partition(world: World, rng: random.Random) -> bool:
    """Two sides that can't reach each other, and one node that reaches both."""
    names = sorted(world.hosts)
    rng.shuffle(names)
    at = rng.randint(1, len(names) - 2)
    for left in names[1 : at + 1]:
        for right in names[at + 1 :]:
            world.network.cut(left, right)
            world.network.cut(right, left)
    world.detail(
        f"{' '.join(sorted(names[1 : at + 1]))} | {' '.join(sorted(names[at + 1 :]))}, {names[0]} reaches both"
    )
    return _until_healed(world, rng)


def isolate(world: World, rng: random.Random) -> bool:
    """One node that can't reach anybody."""
    host = world.victim(rng)
    if host is None:
        return False
    world.network.isolate(host.name)
    world.detail("", host.name)
    return _until_healed(world, rng)


def reset(world: World, rng: random.Random) -> bool:
    """A connection ends."""
    one, other = _pair(world, rng)
    world.network.reset(one, other)
    world.detail(f"{one} and {other}")
    return True


def slow_link(world: World, rng: random.Random) -> bool:
    """A way takes longer by orders of magnitude."""
    first, second = _pair(world, rng)
    factor = rng.choice([10, 100, 1000])
    world.network.slow(first, second, factor)
    world.detail(f"{first} to {second}, {factor} times")
    return _until_healed(world, rng)


def trouble(field: str, chances: tuple[float, ...]) -> Callable[[World, random.Random], bool]:
    """For a while, messages meet a fate with some probability."""

    def trouble(world: World, rng: random.Random) -> bool:
        world.trouble(field, rng.choice(chances))
        world.later(rng.expovariate(0.5), world.trouble, field, 0.0)
        return True

    return trouble


# -- disks ------------------------------------------------------------------------------------------------------------


def slow_disk(world: World, rng: random.Random) -> bool:
    """Each call of a plugin takes longer."""
    host = world.victim(rng)
    if host is None:
        return False
    host.slowness = rng.choice([10, 100])
    world.later(rng.expovariate(0.7), setattr, host, "slowness", 1.0)
    return True


def stalled_disk(world: World, rng: random.Random) -> bool:
    """Nothing comes back from the disk for a few election timeouts."""
    host = world.victim(rng)
    if host is None:
        return False
    host.stalled_until = world.loop.now + rng.uniform(0.2, 2)
    return True


def _disk_fault(world: World, rng: random.Random, **fault: object) -> bool:
    host = world.victim(rng)
    if host is None or any(other.faulty for other in world.hosts.values()):
        return False
    world.detail("", host.name)
    host.faulty = host.troubled = True
    for name, value in fault.items():
        setattr(host.disk, name, value)
    world.later(rng.expovariate(0.5), world.mend_disk, host)
    return True


def failed_sync(world: World, rng: random.Random) -> bool:
    """The next sync fails."""
    return _disk_fault(world, rng, fail_next_sync=True)


def disk_full(world: World, rng: random.Random) -> bool:
    """There is hardly any room left."""
    return _disk_fault(world, rng, free_bytes=rng.choice([0, 10, 500]))


def read_errors(world: World, rng: random.Random) -> bool:
    """Nothing can be read."""
    return _disk_fault(world, rng, read_error=True)


def bit_rot(world: World, rng: random.Random) -> bool:
    """A bit of what is durable flips; often the node restarts, and so reads it."""
    host = world.victim(rng)
    if host is None or any(other.faulty for other in world.hosts.values()):
        return False
    rot = host.rot = host.disk.rot()
    if rot is None:
        return False
    host.faulty = host.troubled = True
    world.detail(str(rot), host.name)
    if rng.random() < 0.7:
        world.crash(host, silently=False)
        world.restart(host)
    world.later(rng.expovariate(0.3), world.mend_disk, host)
    return True


# -- clocks -----------------------------------------------------------------------------------------------------------


def pause(world: World, rng: random.Random) -> bool:
    """SIGSTOP, for longer than an election takes or shorter."""
    host = world.victim(rng)
    if host is None:
        return False
    host.pause()
    world.later(rng.choice([0.05, 0.3, 1, 3]), host.resume)
    return True


def clock_jump(world: World, rng: random.Random) -> bool:
    """The clock jumps ahead, as after a suspended machine."""
    host = world.victim(rng)
    if host is None or not world.plan.jumps:
        return False
    world.loop.set_clock(host.process, jump=rng.choice([0.1, 0.5, 5]))
    return True


def clock_drift(world: World, rng: random.Random) -> bool:
    """From now on the clock runs faster or slower, within what a lease allows for."""
    host = world.anyone(rng)
    if host is None:
        return False
    world.loop.set_clock(host.process, rate=1 + rng.uniform(-0.02, 0.02))
    return True


def _pair(world: World, rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(sorted(world.hosts), 2)
    return first, second

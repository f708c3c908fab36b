"""Faults of the network: partitions of many shapes, delays, resets. One at a time; each is undone before it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Final

from raftcore.cli.chaos.cluster import Cluster

PARTITION_SECONDS: Final = (1.0, 4.0)
DELAY_SECONDS: Final = (0.02, 0.4)
"""How late a chunk is; up to a whole lower election timeout."""

Links = list[tuple[str, str]]


class NetworkFaults:
    """See `raftcore.cli.chaos.nemesis.Faults`."""

    kinds = frozenset({"partitions", "delays", "resets"})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes = list(cluster.members)

    async def do(self, kind: str, rng: random.Random) -> str:
        """Breaks nothing that it does not mend."""
        match kind:
            case "partitions":
                await self._partition(rng)
            case "delays":
                await self._delay(rng)
            case _:
                self._reset(rng)
        return kind

    async def _partition(self, rng: random.Random) -> None:
        leader = await self._cluster.leader()
        text, links = shape(rng, self._nodes, leader.node if leader is not None else None)
        network, trace = self._cluster.network, self._cluster.trace
        trace.add("fault", fault="partition", text=text)
        network.cut(links)
        try:
            await asyncio.sleep(rng.uniform(*PARTITION_SECONDS))
        finally:
            if rng.random() < 0.5:
                network.reset(links)  # else what was sent meanwhile arrives now
            network.heal()
            trace.add("fault", fault="heal", text=f"no more: {text}")

    async def _delay(self, rng: random.Random) -> None:
        every = [(source, target) for source in self._nodes for target in self._nodes if source != target]
        links, seconds = rng.sample(every, rng.randint(1, len(every))), rng.uniform(*DELAY_SECONDS)
        text = f"{_listed(links)} {seconds * 1000:.0f} ms late"
        network, trace = self._cluster.network, self._cluster.trace
        trace.add("fault", fault="latency", text=text)
        network.delay(links, seconds)
        try:
            await asyncio.sleep(rng.uniform(*PARTITION_SECONDS))
        finally:
            network.heal()
            trace.add("fault", fault="heal", text=f"no more: {text}")

    def _reset(self, rng: random.Random) -> None:
        victim = rng.choice(self._nodes)
        self._cluster.trace.add("fault", fault="reset", node=victim, text="all its connections are reset")
        self._cluster.network.reset([(victim, other) for other in self._nodes if other != victim])


def shape(rng: random.Random, nodes: Sequence[str], leader: str | None) -> tuple[str, Links]:
    """A partition: what it is, and the links that it cuts. The leader, when there is one, is hit more often."""
    victim = leader if leader is not None and rng.random() < 0.6 else rng.choice(nodes)
    others = [node for node in nodes if node != victim]
    match rng.choice(("minority", "halves", "deaf", "mute", "one way", "bridge")):
        case "minority":
            away = [victim, *rng.sample(others, rng.randint(0, (len(nodes) - 1) // 2 - 1))]
            rest = [node for node in nodes if node not in away]
            return f"{_named(away)} | {_named(rest)}", _both(away, rest)
        case "halves":
            away = rng.sample(nodes, len(nodes) // 2)
            rest = [node for node in nodes if node not in away]
            return f"{_named(away)} | {_named(rest)}", _both(away, rest)
        case "deaf":
            return f"{victim} hears nobody", [(other, victim) for other in others]
        case "mute":
            return f"nobody hears {victim}", [(victim, other) for other in others]
        case "one way":
            other = rng.choice(others)
            return f"{other} does not hear {victim}", [(victim, other)]
    rng.shuffle(others)
    middle = len(others) // 2
    return (
        f"{_named(others[:middle])} | {_named(others[middle:])}, with {victim} between them",
        _both(others[:middle], others[middle:]),
    )


def _both(some: Iterable[str], others: Iterable[str]) -> Links:
    pairs = [(one, other) for one in some for other in others]
    return pairs + [(other, one) for one, other in pairs]


def _named(nodes: Iterable[str]) -> str:
    return " ".join(sorted(nodes))


def _listed(links: Links) -> str:
    return ", ".join(f"{source}→{target}" for source, target in sorted(links))

"""What goes wrong and when: two streams of faults beside each other, drawn from the seed.

One stream hits processes and disks, the other the network, so that the faults of the one meet those of the other.
Each draws from a bag that is filled anew when it is empty: no kind is left out for long, whatever the seed. The seed
decides which faults there are and how long they last; whom they hit depends on who leads, and that on the machine.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final, Protocol

from raftcore.cli.chaos.cluster import Cluster
from raftcore.cli.chaos.faults import FAULTS, Bag
from raftcore.cli.chaos.network_faults import NetworkFaults
from raftcore.cli.chaos.process_faults import ProcessFaults

GAP_SECONDS: Final = (0.3, 1.5)
"""How long a stream leaves the cluster alone between two faults."""


class Faults(Protocol):
    """Faults that take turns: `kinds` are those that it can do."""

    kinds: frozenset[str]

    async def do(self, kind: str, rng: random.Random) -> str:
        """Do one and undo it; answers what it has become, which counts. Empty: nothing came of it."""
        ...


class Nemesis:
    """Does the faults that were chosen of `FAULTS`. `counts` has how many of each kind took place."""

    def __init__(self, cluster: Cluster, seed: int, chosen: Collection[str]) -> None:
        weights = {kind: weight for name in chosen for kind, weight in FAULTS[name].items()}
        self.counts: Counter[str] = Counter(dict.fromkeys(weights, 0))
        self._seed = seed
        self._streams: list[tuple[Faults, dict[str, int]]] = []
        for faults in (ProcessFaults(cluster), NetworkFaults(cluster)):
            own = {kind: weight for kind, weight in weights.items() if kind in faults.kinds}
            if own:
                self._streams.append((faults, own))

    async def run(self, seconds: float) -> None:
        """No fault begins after so many seconds, and none lasts when this is done. Raises `ClusterFailed`."""
        deadline = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            for faults, weights in self._streams:
                group.create_task(self._stream(faults, weights, deadline))

    async def _stream(self, faults: Faults, weights: Mapping[str, int], deadline: float) -> None:
        rng = random.Random(f"{self._seed} {sorted(weights)}")
        bag, loop = Bag(rng, weights), asyncio.get_running_loop()
        while loop.time() < deadline:
            # Each fault has a generator of its own: how much one draws changes nothing for the next.
            became = await faults.do(bag.draw(), random.Random(rng.getrandbits(64)))
            self.counts[became] += 1
            await asyncio.sleep(min(rng.uniform(*GAP_SECONDS), max(0.0, deadline - loop.time())))

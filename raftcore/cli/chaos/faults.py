"""Which faults there are, and in what order they come."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

FAULTS: Final[Mapping[str, Mapping[str, int]]] = {
    "kill": {"leader_kills": 3, "kills": 1},
    "pause": {"pauses": 3},
    "torn": {"torn": 1, "damaged": 1},
    "partition": {"partitions": 3},
    "delay": {"delays": 1},
    "reset": {"resets": 1},
}
"""What can be asked for: the kinds that are counted, and how often each is in a bag."""


class Bag:
    """Draws names, each as often as its weight says before the bag is filled anew."""

    def __init__(self, rng: random.Random, weights: Mapping[str, int]) -> None:
        self._rng = rng
        self._all = [name for name, weight in sorted(weights.items()) for _ in range(weight)]
        self._left: list[str] = []

    def draw(self) -> str:
        """The next one."""
        if not self._left:
            self._left = self._rng.sample(self._all, len(self._all))
        return self._left.pop()

from __future__ import annotations

import random
from collections import Counter

import pytest

from raftcore.cli.chaos.faults import Bag
from raftcore.cli.chaos.network_faults import shape

NODES = ["n1", "n2", "n3", "n4", "n5"]


def _bag(seed: int) -> Bag:
    return Bag(random.Random(seed), {"kill": 3, "pause": 2, "torn": 1})


def test_every_kind_comes_round_as_often_as_it_weighs() -> None:
    """Each bag is drawn to its end before the next is filled."""
    bag = _bag(1)
    rounds = [Counter(bag.draw() for _ in range(6)) for _ in range(10)]

    assert [{"kill": 3, "pause": 2, "torn": 1}] * 10 == rounds


def test_the_seed_decides_the_order() -> None:
    """The same seed draws the same, another one something else; and a bag is not like the one before."""
    some, same, other = ([bag.draw() for _ in range(60)] for bag in (_bag(1), _bag(1), _bag(2)))

    assert some == same
    assert some != other
    assert 1 < len({tuple(some[at : at + 6]) for at in range(0, 60, 6)})


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("leader", [None, "n2"])
def test_partitions_cut_some_links_and_not_all(count: int, leader: str | None) -> None:
    """Whatever the seed: links between two different nodes, each once, and never so many that nothing is left."""
    nodes = NODES[:count]
    for seed in range(300):
        text, links = shape(random.Random(seed), nodes, leader)

        assert text
        assert len(set(links)) == len(links), seed
        assert 0 < len(links) < count * (count - 1), seed
        assert all(source in nodes and target in nodes and source != target for source, target in links), seed


@pytest.mark.parametrize("count", [3, 5])
def test_partitions_have_many_shapes(count: int) -> None:
    """A leader in a minority, halves, one that hears nobody or that nobody hears, one way only, a bridge."""
    found = dict(shape(random.Random(seed), NODES[:count], "n1") for seed in range(300))
    alone = {(other, "n1") for other in NODES[1:count]}

    assert alone == set(found["n1 hears nobody"])
    assert {(target, source) for source, target in alone} == set(found["nobody hears n1"])
    assert [("n1", "n3")] == found["n3 does not hear n1"]
    rest = " ".join(NODES[1:count])
    assert alone | {(target, source) for source, target in alone} == set(found[f"n1 | {rest}"])
    assert any("with n1 between them" in text for text in found)

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcore.engine.quorum import Quorum, VoteResult

NODES = "abcdefg"
groups = st.sets(st.sampled_from(NODES), min_size=1).map(lambda nodes: "".join(sorted(nodes)))
acks = st.dictionaries(st.sampled_from(NODES), st.integers(0, 9))
ballots = st.dictionaries(st.sampled_from(NODES), st.booleans())


def majorities(group):
    """Every smallest majority of a group."""
    return combinations(group, len(group) // 2 + 1)


@pytest.mark.parametrize(
    ("voters", "acked", "expected"),
    [
        ("a", {}, 0),
        ("a", {"a": 12}, 12),
        ("ab", {"a": 12}, 0),
        ("ab", {"a": 12, "b": 5}, 5),
        ("abc", {"a": 12, "b": 5}, 5),
        ("abc", {"a": 12, "b": 5, "c": 6}, 6),
        ("abcd", {"a": 9, "b": 8, "c": 7, "d": 6}, 7),
        ("abcde", {"a": 9, "b": 8, "c": 7, "d": 6, "e": 5}, 7),
        ("abcde", {"a": 9, "b": 9}, 0),
    ],
)
def test_a_majority_has_reached_an_index(membership, voters, acked, expected):
    """The greatest index that more than half of the voters have."""
    reached = Quorum(membership(voters)).committed_index(acked)

    assert expected == reached


def test_nobody_votes_in_an_empty_membership(membership):
    """A node that belongs to no cluster can neither commit nor win."""
    quorum = Quorum(membership(""))

    assert 0 == quorum.committed_index({"a": 5})
    assert VoteResult.LOST is quorum.vote_result({"a": True})


@pytest.mark.parametrize(
    ("acked", "expected"),
    [({"a": 9, "b": 9, "c": 9}, 3), ({"a": 9, "b": 9, "d": 9}, 9), ({"c": 9, "d": 9, "e": 9}, 3)],
)
def test_a_joint_membership_has_reached_what_both_sets_have(membership, acked, expected):
    """Joint abc and cde: neither set alone commits."""
    quorum = Quorum(membership("abc", joint_with="ade"))
    reached = quorum.committed_index({**dict.fromkeys("abcde", 3), **acked})

    assert expected == reached


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ({}, VoteResult.PENDING),
        ({"a": True}, VoteResult.PENDING),
        ({"a": True, "b": False}, VoteResult.PENDING),
        ({"a": True, "b": True}, VoteResult.WON),
        ({"a": True, "b": False, "c": False}, VoteResult.LOST),
        ({"a": True, "x": True, "y": True}, VoteResult.PENDING),
        ({"b": False, "c": False}, VoteResult.LOST),
    ],
)
def test_a_vote_is_won_lost_or_open(membership, votes, expected):
    """Three voters; strangers' votes count nothing."""
    result = Quorum(membership("abc", learners="xy")).vote_result(votes)

    assert expected is result


def test_a_joint_vote_is_lost_as_soon_as_one_set_is_lost(membership):
    """However the other set stands."""
    quorum = Quorum(membership("abc", joint_with="cde"))

    assert VoteResult.LOST is quorum.vote_result({"a": True, "b": True, "d": False, "e": False})
    assert VoteResult.PENDING is quorum.vote_result({"a": True, "b": True, "c": True})
    assert VoteResult.WON is quorum.vote_result({"a": True, "b": True, "d": True, "e": True})


@given(groups, st.none() | groups, acks)
def test_committed_index_is_what_some_majority_of_each_set_has(membership, old, new, acked):
    """Against every majority, one by one."""
    sets = [old] if new is None else [old, new]
    expected = min(max(min(acked.get(node, 0) for node in m) for m in majorities(group)) for group in sets)
    quorum = Quorum(membership(old, joint_with=new or ()))

    assert expected == quorum.committed_index(acked)


@given(groups, st.none() | groups, ballots)
def test_a_vote_is_decided_exactly_when_no_further_vote_changes_it(membership, old, new, votes):
    """Against every way in which the open votes could still fall."""
    sets = [old] if new is None else [old, new]

    def wins(extra):
        counted = {**dict.fromkeys(NODES, extra), **votes}
        return all(any(all(counted[node] for node in m) for m in majorities(group)) for group in sets)

    results = {(True, True): VoteResult.WON, (False, False): VoteResult.LOST, (False, True): VoteResult.PENDING}
    expected = results[wins(False), wins(True)]
    quorum = Quorum(membership(old, joint_with=new or ()))

    assert expected is quorum.vote_result(votes)


@given(groups, acks, ballots)
def test_who_does_not_vote_does_not_count(membership, voters, acked, votes):
    """Learners and strangers change neither answer."""
    quorum = Quorum(membership(voters, learners=set(NODES) - set(voters)))
    acked_by_voters = {node: index for node, index in acked.items() if node in voters}
    votes_of_voters = {node: granted for node, granted in votes.items() if node in voters}

    assert quorum.committed_index(acked_by_voters) == quorum.committed_index(acked)
    assert quorum.vote_result(votes_of_voters) is quorum.vote_result(votes)

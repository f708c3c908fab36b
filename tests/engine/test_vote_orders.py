from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.vote_order import NodeOrder, StandardOrder
from raftcore.messages import AppendEntries, RequestVote
from raftcore.types import NO_LOG, LeaderId, Vote

ORDERS = [StandardOrder(), NodeOrder()]


def v(term, node, committed=False):
    """A vote; a leader's when it is committed."""
    return Vote(LeaderId(term, node), committed)


@pytest.mark.parametrize(
    ("asked", "mine", "standard", "node"),
    [
        (v(2, "b"), v(1, "c", True), True, True),
        (v(1, "b"), v(2, ""), False, False),
        (v(2, "b"), v(2, ""), True, True),
        (v(2, "b"), v(2, "b"), True, True),
        (v(2, "c"), v(2, "b"), False, True),
        (v(2, "a"), v(2, "b"), False, False),
        (v(2, "b"), v(2, "b", True), False, False),
        (v(2, "c"), v(2, "b", True), False, True),
    ],
)
def test_who_may_be_voted_for(asked, mine, standard, node):
    """In the standard order one candidate a term; in node order a greater one also within it."""
    assert [standard, node] == [order.may_grant(asked, mine) for order in ORDERS]


@pytest.mark.parametrize(
    ("leader", "mine", "standard", "node"),
    [
        (v(2, "b", True), v(1, "c", True), True, True),
        (v(1, "b", True), v(2, "", False), False, False),
        (v(2, "b", True), v(2, "", False), True, True),
        (v(2, "b", True), v(2, "b", False), True, True),
        (v(2, "b", True), v(2, "b", True), True, True),
        (v(2, "b", True), v(2, "c", False), True, False),
        (v(2, "c", True), v(2, "b", False), True, True),
        (v(2, "c", True), v(2, "b", True), False, True),
    ],
)
def test_who_may_be_followed(leader, mine, standard, node):
    """In the standard order the one leader of the term, whomever we voted for; in node order none below the promise."""
    assert [standard, node] == [order.accepts_leader(leader, mine) for order in ORDERS]


@pytest.mark.parametrize(
    ("seen", "mine", "standard", "node"),
    [
        (v(2, "b", True), v(1, "c", True), v(2, ""), v(2, "b")),
        (v(2, "b"), v(2, "c"), None, None),
        (v(2, "b", True), v(2, "b"), None, None),
        (v(2, "c"), v(2, "b"), None, v(2, "c")),
        (v(1, "c"), v(2, ""), None, None),
    ],
)
def test_what_seeing_another_vote_promises(seen, mine, standard, node):
    """The term, and in node order the candidate as well; never that anybody leads."""
    assert [standard, node] == [order.raised(seen, mine) for order in ORDERS]


def test_a_split_vote_costs_no_new_term_in_node_order(cluster):
    """Three candidates at once in one term; the greatest wins it."""
    net = cluster("abc", pre_vote=False, vote_order="node")
    for node in "abc":
        net[node].campaign(0.0)
    net.deliver()

    assert (["c"], v(1, "c", True)) == (net.leaders(), net["a"].vote)


def test_a_split_vote_costs_a_term_in_the_standard_order(cluster):
    """Everybody has voted for itself."""
    net = cluster("abc", pre_vote=False)
    for node in "abc":
        net[node].campaign(0.0)
    net.deliver()

    assert [] == net.leaders()

    net.elapse(10)

    assert (1, True) == (len(net.leaders()), net["a"].vote.leader.term > 1)


def test_a_greater_node_takes_over_within_a_term_in_node_order(solo, vote, at):
    """A leader without check-quorum gives way; its entries and the new leader's are told apart by leader, not term."""
    member = solo(check_quorum=False, pre_vote=False, vote_order="node")
    member.become_leader()
    assert v(1, "a", True) == member.engine.vote
    member.receive("c", RequestVote(v(1, "c"), at(1, 9)))

    assert (Role.FOLLOWER, v(1, "c")) == (member.engine.role, member.engine.vote)

    member.receive("a", AppendEntries(v(1, "a", True), 1, NO_LOG, 0))

    assert v(1, "c") == member.engine.vote


@pytest.mark.parametrize("vote_order", ["standard", "node"])
@pytest.mark.parametrize("seed", range(10))
def test_five_restless_candidates_agree_in_the_end(cluster, vote_order, seed):
    """Without pre-vote and with messages that arrive at once, one leader is left, and it commits."""
    net = cluster("abcde", seed=seed, pre_vote=False, vote_order=vote_order)
    for node in "edcba":
        net[node].campaign(0.0)
    net.elapse(8)
    (leader,) = net.leaders()
    net[leader].propose([b"x"])
    net.elapse(0.2)

    assert {net[leader].log.last.index} == {net[node].commit for node in "abcde"}

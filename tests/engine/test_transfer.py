from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import TransferEnded
from raftcore.errors import MembershipRefused, NotLeader, TransferUnderWay
from raftcore.messages import AppendEntries, AppendReply, RequestVote, TimeoutNow
from raftcore.types import NO_LOG


@pytest.fixture
def leader(solo):
    """Member "a", leading a, b, c and the learner x in term 1; everybody holds its blank entry."""
    member = solo(learners="x")
    member.become_leader()
    for peer in "bcx":
        member.receive(peer, AppendReply(member.engine.vote, 0, 1))
    member.take_sent()
    member.events.clear()
    return member


def test_a_target_that_holds_the_log_campaigns_at_once(cluster):
    """It is ordered to, wins in the next term, and the old leader says that it is done (thesis 3.10)."""
    net = cluster("abc")
    net.elect("a")
    term, now = net["a"].vote.leader.term, net.clock.now
    net["a"].transfer_leadership("b", now)
    net.deliver()

    assert (["b"], term + 1, now) == (net.leaders(), net["b"].vote.leader.term, net.clock.now)
    assert [TransferEnded(True)] == net.members["a"].take_events(TransferEnded)


def test_the_target_skips_the_pre_vote_and_says_who_asked(solo, vote):
    """Since everybody still hears the old leader."""
    member = solo()
    member.receive("b", AppendEntries(vote(3), 5, NO_LOG, 0))
    member.take_sent()
    member.receive("b", TimeoutNow(vote(3), 5))
    requests = member.take_sent(RequestVote)

    assert (Role.CANDIDATE, vote(4, "a", False)) == (member.engine.role, member.engine.vote)
    assert [("b", RequestVote(vote(4, "a", False), NO_LOG, False, True))] == requests[:1]


def test_a_target_that_is_behind_is_brought_up_to_date_first(leader):
    """Then it gets the order; meanwhile no proposals are taken."""
    leader.engine.propose([b"x"])
    leader.drain()
    leader.engine.transfer_leadership("b", leader.now)
    leader.drain()

    assert [] == leader.take_sent(TimeoutNow)

    leader.receive("b", AppendReply(leader.engine.vote, 0, 2))

    assert [("b", TimeoutNow(leader.engine.vote, 0))] == leader.take_sent(TimeoutNow)


def test_the_order_is_repeated_with_each_heartbeat(leader):
    """It may have been lost; each names the round it was sent in."""
    leader.engine.transfer_leadership("b", leader.now)
    leader.elapse(0.25)
    rounds = [message.round for _, message in leader.take_sent(TimeoutNow)]

    assert [0, 1, 2, 3] == rounds


def test_a_transfer_is_given_up_after_an_election_timeout(leader):
    """The leader goes on, and takes proposals again."""
    leader.engine.transfer_leadership("b", leader.now)
    for _ in range(11):
        leader.elapse(0.1)
        leader.receive("c", AppendReply(leader.engine.vote, leader.engine.leadership.round, 1))

    assert [TransferEnded(False)] == leader.take_events(TransferEnded)
    assert (Role.LEADER, 1) == (leader.engine.role, len(leader.engine.propose([b"x"])))


def test_a_leader_chooses_the_voter_whose_log_is_furthest(leader):
    """When it is not told whom; learners are not asked."""
    leader.engine.propose([b"x"])
    leader.drain()
    leader.receive("x", AppendReply(leader.engine.vote, 0, 2))
    leader.receive("c", AppendReply(leader.engine.vote, 0, 2))
    leader.engine.transfer_leadership(None, leader.now)
    leader.drain()

    assert ["c"] == [to for to, _ in leader.take_sent(TimeoutNow)]


@pytest.mark.parametrize("target", ["a", "x", "z"])
def test_only_another_voter_can_take_over(leader, target):
    """Not the leader itself, not a learner, not a stranger."""
    before = leader.state()

    with pytest.raises(MembershipRefused, match=rf"'{target}' is not another voter; voters are \['a', 'b', 'c'\]"):
        leader.engine.transfer_leadership(target, leader.now)
    assert before == leader.state()


def test_a_leader_alone_has_nobody_to_hand_over_to(solo):
    """It says so."""
    member = solo(voters="a")
    member.become_leader()

    with pytest.raises(MembershipRefused, match="no other voter"):
        member.engine.transfer_leadership(None, member.now)


def test_only_a_leader_hands_over(solo):
    """A follower has nothing."""
    member = solo()

    with pytest.raises(NotLeader, match="node a does not lead, so it has nothing to hand over"):
        member.engine.transfer_leadership("b", member.now)


def test_one_transfer_at_a_time(leader):
    """The first one counts."""
    leader.engine.transfer_leadership("b", leader.now)

    with pytest.raises(TransferUnderWay, match="already being handed to b"):
        leader.engine.transfer_leadership("c", leader.now)


@pytest.mark.parametrize("why", ["another vote", "another sender", "an older round", "no leader", "while installing"])
def test_an_order_from_the_past_changes_nothing(solo, vote, why):
    """Or one from who does not lead, or one to a node that is putting a snapshot in place of its log."""
    member = solo()
    if why != "no leader":
        member.receive("b", AppendEntries(vote(3), 5, NO_LOG, 0))
    member.engine.installing = "s" if why == "while installing" else None
    before = member.state()
    sender = "c" if why == "another sender" else "b"
    member.receive(sender, TimeoutNow(vote(2 if why == "another vote" else 3), 4 if why == "an older round" else 5))

    assert before == member.state()


def test_a_transfer_ends_when_leadership_does(leader, vote):
    """For whatever reason."""
    leader.engine.transfer_leadership("b", leader.now)
    leader.receive("c", AppendReply(vote(9, "", False), 1, 0))

    assert [TransferEnded(True)] == leader.take_events(TransferEnded)


def test_a_transfer_to_a_dead_member_costs_no_leader(cluster):
    """After the timeout the old one leads on."""
    net = cluster("abc")
    net.elect("a")
    net.crash("b")
    net["a"].transfer_leadership("b", net.clock.now)
    net.elapse(3)
    net["a"].propose([b"x"])
    net.deliver()

    assert (["a"], net["a"].log.last.index) == (net.leaders(), net["a"].commit)


def test_a_transfer_to_a_follower_that_needs_a_snapshot(cluster):
    """It is caught up first, and then takes over."""
    net = cluster("abc")
    net.elect("a")
    net.isolate("c")
    for _ in range(5):
        net["a"].propose([b"x"])
        net.deliver()
    net.members["a"].take_snapshot()
    net.heal()
    net["a"].transfer_leadership("c", net.clock.now)
    net.elapse(0.9)

    assert ["c"] == net.leaders()

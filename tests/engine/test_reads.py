from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import ReadReady, ReadsRefused
from raftcore.errors import NotLeader
from raftcore.messages import AppendEntries, AppendReply, TimeoutNow
from raftcore.types import NO_LOG


@pytest.fixture
def leader(solo):
    """Member "a", leading five in term 2; its blank entry, 2, is committed, and no heartbeat has gone out yet."""
    member = solo(voters="abcde", terms=[1])
    member.become_leader()
    for peer in "bcde":
        member.receive(peer, AppendReply(member.engine.vote, 0, 2))
    member.take_sent()
    member.events.clear()
    return member


def read(member, *ids, lease=False):
    """Ask for reads with these ids."""
    for name in ids:
        member.engine.read(name, lease=lease, now=member.now)
    member.drain()


def answer(member, peers, round):
    """Each of them answers a message of this round."""
    for peer in peers:
        member.receive(peer, AppendReply(member.engine.vote, round, 0))


def confirm(member):
    """A heartbeat that everybody answers at once."""
    member.elapse(member.engine.leadership.heartbeat_at - member.now + 0.001)
    answer(member, "bcde", member.engine.leadership.round)
    member.take_sent()


# -- read index ---------------------------------------------------------------------------------------------------


def test_a_read_is_confirmed_by_a_quorum_after_it_came(leader):
    """It asks everybody in a new round; the leader itself and two others are three of five (thesis 6.4)."""
    read(leader, 7)
    rounds = {message.round for _, message in leader.take_sent(AppendEntries)}

    assert {1} == rounds

    answer(leader, "b", 1)

    assert [] == leader.events

    answer(leader, "bb", 1)

    assert [] == leader.events

    answer(leader, "c", 1)

    assert [ReadReady([7], 2)] == leader.take_events(ReadReady)


def test_reads_share_rounds(leader):
    """What comes while a round is under way shares the next; rounds already begun confirm nothing that came later."""
    read(leader, 1, 2)
    read(leader, 3)
    read(leader, 4)
    answer(leader, "bc", 1)

    assert [ReadReady([1, 2], 2)] == leader.take_events(ReadReady)

    answer(leader, "de", 1)

    assert [] == leader.events

    answer(leader, "de", 2)

    assert [ReadReady([3, 4], 2)] == leader.take_events(ReadReady)


def test_a_read_waits_for_what_was_committed_when_it_was_asked_about(leader):
    """Entries that are not committed do not concern it; later commits do not either."""
    leader.engine.propose([b"x"])
    leader.drain()
    read(leader, 1)
    for peer in "bc":
        leader.receive(peer, AppendReply(leader.engine.vote, 1, 3))

    assert [ReadReady([1], 2)] == leader.take_events(ReadReady)
    assert 3 == leader.engine.commit


def test_an_answer_of_an_older_round_confirms_nothing(leader):
    """It shows contact before the read came. No name of the caller's is in it: the same id may be asked about twice."""
    read(leader, 1)
    answer(leader, "bc", 1)
    leader.take_events(ReadReady)
    read(leader, 1)
    answer(leader, "bcde", 1)

    assert [] == leader.events

    answer(leader, "bc", 2)

    assert [ReadReady([1], 2)] == leader.take_events(ReadReady)


def test_a_later_round_confirms_an_earlier_read(leader):
    """The heartbeats go on when the round's own messages were lost."""
    read(leader, 1)
    leader.elapse(0.35)
    answer(leader, "bc", leader.engine.leadership.round)

    assert [ReadReady([1], 2)] == leader.take_events(ReadReady)


def test_learners_and_strangers_confirm_nothing(solo):
    """Contact with them says nothing about who leads."""
    member = solo(learners="xy")
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 1))
    member.events.clear()
    read(member, 1)
    answer(member, "xyz", 1)

    assert [] == member.events


def test_an_answer_to_another_leadership_confirms_nothing(leader, vote):
    """Rounds are counted from one in each; the answer's vote says which."""
    read(leader, 1)
    for peer in "bcde":
        leader.receive(peer, AppendReply(vote(1, "a"), 1, 0))

    assert [] == leader.events


def test_a_new_leader_serves_no_read_before_an_entry_of_its_own_term_is_committed(solo):
    """Its commit index may be behind what others have acknowledged."""
    member = solo(terms=[1, 1])
    member.become_leader()
    member.elapse(0.001)
    read(member, 1)
    read(member, 2, lease=True)
    answer(member, "bc", member.engine.leadership.round)

    assert [] == member.events

    member.receive("b", AppendReply(member.engine.vote, 1, 3))
    member.take_sent()
    answer(member, "b", member.engine.leadership.round)

    assert [ReadReady([1, 2], 3)] == member.take_events(ReadReady)


def test_a_leader_alone_needs_no_answer(solo):
    """Nor for a lease read."""
    member = solo(voters="a")
    member.become_leader()
    read(member, 1)
    read(member, 2, lease=True)

    assert [ReadReady([1], 1), ReadReady([2], 1)] == member.take_events(ReadReady)


def test_only_a_leader_confirms_reads(solo, vote):
    """A follower says who leads."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))

    with pytest.raises(NotLeader, match="node a does not lead") as caught:
        member.engine.read(1, lease=False, now=0.0)
    assert "b" == caught.value.leader


def test_every_read_that_waits_is_refused_when_leadership_ends(leader, vote):
    """Those whose round is under way and those that wait for the next."""
    read(leader, 1, 2)
    read(leader, 3)
    leader.receive("b", AppendReply(vote(9, "", False), 1, 0))

    assert [ReadsRefused([1, 2, 3])] == leader.take_events(ReadsRefused)


def test_without_waiting_reads_nobody_is_refused(leader, vote):
    """No empty event comes out."""
    leader.receive("b", AppendReply(vote(9, "", False), 1, 0))

    assert [] == leader.take_events(ReadsRefused)


def test_a_deposed_leader_confirms_nothing(cluster):
    """It is cut off with old answers under way, another leader has taken a write, and then the old answers arrive."""
    net = cluster("abc")
    net.elect("a")
    net.elapse(0.3)
    held = []
    net.drops = lambda sender, to, message: isinstance(message, AppendReply) and held.append((sender, message)) is None
    net["a"].heartbeat(net.clock.now)
    net.deliver()
    net.heal()
    net.isolate("a")
    net.members["a"].alive = False
    net.elect("b")
    net["b"].propose([b"new"])
    net.deliver()
    net.members["a"].alive = True
    read(net.members["a"], 1)
    read(net.members["a"], 2, lease=True)
    net.members["a"].events.clear()
    for sender, message in held:
        net.members["a"].receive(sender, message)

    assert [] == net.members["a"].take_events(ReadReady)


# -- leases -------------------------------------------------------------------------------------------------------


def test_a_lease_read_is_served_at_once(leader):
    """Without a message, as long as the lease holds."""
    confirm(leader)
    read(leader, 1, lease=True)

    assert ([ReadReady([1], 2)], []) == (leader.take_events(ReadReady), leader.take_sent())


def test_a_lease_counts_from_when_the_round_was_sent(leader):
    """Not from when its answers came."""
    leader.elapse(0.001)
    sent = leader.now - 0.001
    for other in (0.1, 0.2, 0.3):
        leader.elapse(other)
    answer(leader, "bc", 1)
    leader.clock.now = sent + 0.899
    read(leader, 1, lease=True)

    assert [ReadReady([1], 2)] == leader.take_events(ReadReady)

    leader.clock.now = sent + 0.901
    read(leader, 2, lease=True)

    assert [] == leader.take_events(ReadReady)

    answer(leader, "bc", leader.engine.leadership.round)

    assert [ReadReady([2], 2)] == leader.take_events(ReadReady)


def test_a_lease_needs_the_answers_of_a_quorum(leader):
    """Two of five are too few."""
    leader.elapse(0.5)
    answer(leader, "b", leader.engine.leadership.round)
    leader.clock.now += 0.45
    read(leader, 1, lease=True)

    assert [] == leader.take_events(ReadReady)


def test_a_lease_needs_check_quorum(solo):
    """Without it nobody has promised not to vote; the read is confirmed by a round."""
    member = solo(check_quorum=False)
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 1))
    member.take_sent()
    read(member, 1, lease=True)

    assert [] == member.take_events(ReadReady)
    assert {"b", "c"} == {to for to, _ in member.take_sent(AppendEntries)}


def test_a_lease_is_over_before_anybody_else_can_lead(cluster):
    """The leader is cut off; whenever it still serves a lease read, there is no other leader yet."""
    for seed in range(20):
        net = cluster("abc", seed=seed)
        net.elect("a")
        net.elapse(0.5)
        net.isolate("a")
        for _ in range(200):
            net.elapse(0.02)
            if [node for node in net.leaders() if node != "a"]:
                break
        if net["a"].leadership is not None:
            net["a"].read(1, lease=True, now=net.clock.now)

        assert ["a"] != net.leaders()
        assert [] == net.members["a"].take_events(ReadReady)


def test_a_lease_ends_before_a_transfer_starts(leader):
    """The target's election waits for nobody."""
    confirm(leader)
    leader.engine.transfer_leadership("b", leader.now)
    read(leader, 1, lease=True)

    assert [] == leader.take_events(ReadReady)


def test_a_lease_ends_even_while_the_target_is_brought_up_to_date(leader):
    """Before the order goes out."""
    confirm(leader)
    leader.engine.propose([b"x"])
    leader.engine.transfer_leadership("b", leader.now)
    read(leader, 1, lease=True)

    assert ([], []) == (leader.take_events(ReadReady), leader.take_sent(TimeoutNow))


@pytest.fixture
def ordered(leader):
    """The leader after a transfer to b that came to nothing; the order to campaign is still on its way."""
    confirm(leader)
    for peer in "bcde":
        leader.receive(peer, AppendReply(leader.engine.vote, 0, leader.engine.log.last.index))
    leader.engine.transfer_leadership("b", leader.now)
    leader.drain()
    (order,) = [message for to, message in leader.take_sent(TimeoutNow) if to == "b"]
    for _ in range(12):
        leader.elapse(0.1)
        answer(leader, "cd", leader.engine.leadership.round)
    assert leader.engine.leadership.transfer is None
    leader.take_sent()
    leader.events.clear()
    return leader, order


def test_there_is_no_lease_any_more_once_a_node_was_told_to_campaign(ordered):
    """The order may arrive at any time, and its election waits for nobody; a quorum still confirms reads."""
    leader, _ = ordered
    for peer in "bcd":
        answer(leader, peer, leader.engine.leadership.round)
    leader.take_events(ReadReady)
    read(leader, 1, lease=True)

    assert [] == leader.take_events(ReadReady)

    answer(leader, "cd", leader.engine.leadership.round)

    assert [ReadReady([1], 2)] == leader.take_events(ReadReady)


def test_a_delayed_order_to_campaign_is_refused_by_who_has_answered_a_later_round(ordered, solo):
    """So it does not depose a leader that went on leading."""
    _, order = ordered
    member = solo("b", voters="abcde", terms=[1], by="a")
    member.receive("a", AppendEntries(order.vote, order.round, NO_LOG, 0))
    member.receive("a", AppendEntries(order.vote, order.round + 1, NO_LOG, 0))
    before = member.state()
    member.take_sent()
    member.receive("a", order)

    assert before == member.state()
    assert Role.FOLLOWER is member.engine.role


def test_forgotten_rounds_only_shorten_a_lease(leader):
    """More rounds are under way than are remembered."""
    for _ in range(1500):
        leader.engine.heartbeat(leader.now)
    leader.drain()
    answer(leader, "bc", 1)
    confirmed = leader.engine.leadership.confirmed_at
    read(leader, 1, lease=True)

    assert 1024 == len(leader.engine.leadership.round_times)
    assert confirmed <= leader.now

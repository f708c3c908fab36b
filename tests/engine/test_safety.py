from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import ReadReady, ReadsRefused, TransferEnded
from raftcore.errors import InvariantViolation, MembershipRefused
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    SnapshotStatus,
    TimeoutNow,
    VoteReply,
)
from raftcore.types import NO_LOG, NodeInfo, SnapshotMeta

# The twelve rules that are easiest to break, one test or more each; the other files look at them from nearer.


def test_rule_1_no_vote_and_no_acknowledgement_leaves_before_it_is_durable(solo, run, vote):
    """After a crash in between nothing was promised, so the node may promise something else."""
    member = solo(auto=False, check_quorum=False)
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 2),)))
    member.begin_write()
    member.drain()

    assert [] == member.take_sent()

    member.start()
    member.receive("c", RequestVote(vote(1, "c", False), NO_LOG))
    member.flush()

    assert [("c", True)] == [(to, reply.granted) for to, reply in member.take_sent(VoteReply)]


def test_rule_2_only_entries_of_the_own_term_are_committed_by_counting(solo):
    """Everybody holds the entries of the older term; nothing is committed until one of the leader's own follows."""
    member = solo(terms=[1, 1])
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 2))

    assert 0 == member.engine.commit

    member.receive("b", AppendReply(member.engine.vote, 0, 3))

    assert 3 == member.engine.commit


@pytest.mark.parametrize(("prev", "count", "expected"), [(1, 0, 1), (2, 0, 2), (1, 2, 3)])
def test_rule_3_a_follower_commits_what_the_message_covers(solo, run, vote, at, prev, count, expected):
    """Behind that its log may be another leader's."""
    member = solo(terms=[1, 1, 1, 1, 1])
    member.receive("b", AppendEntries(vote(2), 1, at(1, prev), 5, (run(1, 2, count),) if count else ()))

    assert expected == member.engine.commit


def test_rule_4_commit_match_and_next_never_go_back(solo, vote, at):
    """Whatever late, repeated or reordered message arrives."""
    member = solo(terms=[1] * 8)
    member.become_leader()
    for index in (9, 4, 0, 9, 7):
        member.receive("b", AppendReply(member.engine.vote, 0, index))
    member.receive("b", AppendReply(member.engine.vote, 0, 0, 5, at(1, 2)))
    progress = member.engine.leadership.progress["b"]

    assert (9, 9, 10) == (member.engine.commit, progress.match, progress.next)

    member.receive("c", AppendEntries(vote(9, "c"), 1, at(1, 8), 2))

    assert 9 == member.engine.commit


def test_rule_5_a_new_leader_serves_and_changes_nothing_before_its_own_entry_is_committed(solo):
    """Its commit index may be old, and so may the membership that it knows."""
    member = solo(terms=[1])
    member.become_leader()
    member.engine.read(1, lease=True, now=member.now)
    member.engine.read(2, lease=False, now=member.now)
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 9, 1))

    assert [] == member.take_events(ReadReady)

    with pytest.raises(MembershipRefused, match="not committed an entry of its own term"):
        member.engine.change_membership(("a",), (), {})


def test_rule_6_reads_are_keyed_by_the_leaders_own_number(solo):
    """The caller may use the same id again; answers to the first round do not confirm the second."""
    member = solo()
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 1))
    for begun, answered in ((1, 1), (2, 1)):
        member.engine.read(5, lease=False, now=member.now)
        member.drain()
        assert begun == member.engine.leadership.round
        member.receive("b", AppendReply(member.engine.vote, answered, 1))

    assert [ReadReady([5], 1)] == member.take_events(ReadReady)


def test_rule_7_a_lease_counts_from_sending_and_ends_before_a_transfer(solo):
    """The answer is late, and the target will not wait for anybody."""
    member = solo()
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 1))
    member.elapse(0.001)
    sent = member.now
    member.elapse(0.8)
    member.receive("b", AppendReply(member.engine.vote, 1, 1))
    member.take_events(ReadReady)
    member.engine.read(1, lease=True, now=sent + 0.85)
    member.engine.read(2, lease=True, now=sent + 0.95)

    assert [ReadReady([1], 1)] == [event for event in member.engine.events if isinstance(event, ReadReady)]

    member.engine.transfer_leadership("b", sent + 0.85)
    member.engine.read(3, lease=True, now=sent + 0.85)

    assert 1 == len([event for event in member.engine.events if isinstance(event, ReadReady)])


def test_rule_8_membership_is_in_force_on_append_and_travels_whole_in_a_snapshot(cluster, membership):
    """Joint sets, learners and addresses; nothing of it is committed on the follower that gets it as an entry."""
    net = cluster("abc")
    net.elect("a")
    net.cut("a", "c")
    net.drops = lambda sender, to, message: isinstance(message, AppendReply)
    net["a"].change_membership(("a", "b", "d"), ("x",), {"d": NodeInfo("at-d"), "x": NodeInfo("at-x")})
    net.deliver()
    joint = membership("abc", learners="x", joint_with="abd")

    assert (joint, joint, 1) == (net["a"].membership, net["b"].membership, net["b"].commit)

    net["c"].snapshot_installed(SnapshotMeta("s", net["a"].log.last, joint, net["a"].log.last, 1))

    assert (joint, net["a"].log.last.index) == (net["c"].membership, net["c"].commit)


def test_rule_8_truncation_brings_back_the_membership_before(cluster, membership):
    """The leader that appended it dies; the next one has not got it and overwrites it."""
    net = cluster("abc")
    net.elect("a")
    net.isolate("a")
    net["a"].change_membership(("a", "b", "d"), (), {"d": NodeInfo("at-d")})
    net.members["a"].drain()
    assert net["a"].membership.is_joint
    net.elapse(5)
    net.heal()
    net.elapse(1)

    assert membership("abc") == net["a"].membership
    assert ["a"] != net.leaders()


def test_rule_9_a_removed_leader_does_not_count_itself(solo):
    """Two are left; its own disk and one of them are no majority of them."""
    member = solo()
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 1))
    member.engine.change_membership(("b", "c"), (), {})
    member.drain()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 2))
    member.receive("b", AppendReply(member.engine.vote, 0, 3))

    assert 2 == member.engine.commit


def test_rule_10_entries_are_purged_below_the_newest_snapshot_and_not_under_a_follower(solo):
    """Neither what no snapshot covers nor what follows the snapshot that a follower is being sent."""
    member = solo(terms=[1] * 6)
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 7))
    member.take_snapshot(purge=False)

    with pytest.raises(InvariantViolation, match="purge up to 8, but the snapshot ends at 7"):
        member.engine.purge(member.engine.log.last._replace(index=8))

    member.engine.leadership.progress["c"].snapshot(3)

    assert 3 == member.engine.purgeable(0).index

    member.engine.snapshot_begins("c", member.engine.snapshot_last)

    assert (
        7 == member.engine.purgeable(0).index
    )  # a newer snapshot is being sent: a follower that is gone holds nothing


@pytest.mark.parametrize(
    "make_message",
    [
        lambda member, v, meta: VoteReply(member.engine.vote, v(1, "a", False), True),
        lambda member, v, meta: VoteReply(member.engine.vote, member.engine.vote, True, True),
        lambda member, v, meta: AppendReply(member.engine.vote, 0, 2),
        lambda member, v, meta: AppendReply(v(1, "a"), 9, 3),
        lambda member, v, meta: SnapshotReply(v(1, "a"), 9, "s", SnapshotStatus.INSTALLED, 0, 3),
        lambda member, v, meta: TimeoutNow(v(1), 9),
        lambda member, v, meta: TimeoutNow(member.engine.vote, 9),
        lambda member, v, meta: RequestVote(v(1, "b", False), NO_LOG),
        lambda member, v, meta: AppendEntries(v(1), 9, NO_LOG, 3),
        lambda member, v, meta: SnapshotChunk(v(1), 9, meta, 0, b"", True),
    ],
    ids=["vote", "pre-vote", "ack", "foreign ack", "snap ack", "order", "own order", "request", "append", "snapshot"],
)
def test_rule_11_a_stale_or_repeated_message_changes_nothing(solo, vote, membership, make_message):
    """To a leader of term 3 whose follower has acknowledged everything."""
    member = solo(terms=[1, 2], term=2)
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 1, 3))
    before = member.state()
    member.receive("b", make_message(member, vote, SnapshotMeta("s", NO_LOG, membership("abc"), NO_LOG)))

    assert before == member.state()


def test_rule_11_a_stale_snapshot_vote_and_order_change_nothing_on_a_follower(solo, vote, at, membership):
    """It follows the leader of term 3 and has five entries committed."""
    member = solo(terms=[1, 1, 1, 2, 2], commit=5)
    member.take_snapshot(purge=False)
    member.receive("b", AppendEntries(vote(3), 4, at(2, 5), 5))
    before = member.state()
    meta = SnapshotMeta("s", at(1, 3), membership("a"), at(1, 2))
    for message in (
        SnapshotChunk(vote(3), 3, meta, 0, b"", True),
        AppendEntries(vote(3), 2, at(1, 2), 1),
        TimeoutNow(vote(3), 3),
        RequestVote(vote(2, "b", False), at(9, 9)),
    ):
        member.receive("b", message)
    member.engine.snapshot_installed(meta)

    assert before == member.state()


@pytest.mark.parametrize("how", ["deposed", "without quorum", "removed"])
def test_rule_12_everything_that_waits_is_answered_when_leadership_ends(solo, vote, how):
    """Reads and a transfer; whichever way the end comes."""
    member = solo()
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 1))
    if how == "removed":
        member.engine.change_membership(("b", "c"), (), {})
        member.drain()
        for peer in "bc":
            member.receive(peer, AppendReply(member.engine.vote, 0, 2))
    member.engine.transfer_leadership("b", member.now)
    member.engine.leadership.transfer.deadline += 60
    for name in (1, 2):
        member.engine.read(name, lease=False, now=member.now)
        member.drain()
    member.events.clear()
    if how == "deposed":
        member.receive("c", AppendReply(vote(9, "", False), 1, 0))
    elif how == "without quorum":
        member.elapse(2)
    else:
        for peer in "bc":
            member.receive(peer, AppendReply(member.engine.vote, 0, 3))
    refused = [event for event in member.events if isinstance(event, ReadsRefused | TransferEnded)]

    assert Role.LEADER is not member.engine.role
    assert [ReadsRefused([1, 2]), TransferEnded(True)] == refused

from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import ChunkArrived, SnapshotAnswered, SnapshotWanted
from raftcore.engine.progress import State
from raftcore.errors import InvariantViolation, WireError
from raftcore.messages import AppendEntries, AppendReply, SnapshotChunk, SnapshotReply, SnapshotStatus
from raftcore.types import NO_LOG, SnapshotMeta


@pytest.fixture(scope="session")
def meta(at, membership):
    """Make a snapshot's description: term and index of its last entry, and who the members are."""

    def make(term, index, members=None, set_at=(0, 0)):
        return SnapshotMeta(f"s{index}", at(term, index), members or membership("abc"), at(*set_at), size=9)

    return make


@pytest.fixture
def leader(solo):
    """Member "a", leading in term 2 behind ten entries, which are committed and gone from its log."""
    member = solo(terms=[1] * 10)
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 11))
    member.take_snapshot()
    assert (11, 11) == (member.engine.log.base.index, member.engine.snapshot_last.index)
    member.take_sent()
    member.events.clear()
    return member


def chunk(vote, meta):
    """The whole snapshot in one message of round 1."""
    return SnapshotChunk(vote, 1, meta, 0, b"x", True)


# -- the leader ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("next_index", "wanted"), [(1, True), (9, True), (10, True), (11, False), (12, False)])
def test_a_follower_behind_the_base_needs_a_snapshot(solo, next_index, wanted):
    """Exactly when its next entry is gone; the last purged one, 10, is still known as the entry before."""
    member = solo(terms=[1] * 10)
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 11))
    member.take_snapshot(trailing=1)
    assert 10 == member.engine.log.base.index
    member.engine.leadership.progress["c"].probe(next_index)
    member.drain()

    assert wanted is bool(member.take_events(SnapshotWanted))
    assert wanted is (member.engine.leadership.progress["c"].state is State.SNAPSHOT)


def test_a_follower_that_gets_a_snapshot_gets_no_entries(leader):
    """It hears heartbeats that ask for nothing, and one order for a snapshot goes to the node."""
    leader.receive("b", AppendReply(leader.engine.vote, 0, 11))
    _lose(leader, "c")
    leader.engine.propose([b"x"])
    leader.elapse(0.25)

    assert [SnapshotWanted("c")] == leader.take_events(SnapshotWanted)
    assert {(NO_LOG, ())} == {(m.prev, m.runs) for to, m in leader.take_sent(AppendEntries) if to == "c"}


def _lose(member, peer):
    """The peer stands at nothing, as after it was added."""
    progress = member.engine.leadership.progress[peer]
    progress.match = 0
    member.engine.leadership.match.pop(peer, None)
    progress.probe(1)
    member.drain()


def test_entries_follow_when_the_snapshot_is_installed(leader):
    """From behind what the follower then holds; and the node hears each answer."""
    _lose(leader, "c")
    leader.engine.propose([b"x"])
    leader.drain()
    leader.take_sent()
    reply = SnapshotReply(leader.engine.vote, 3, "a-11", SnapshotStatus.INSTALLED, 1, 11)
    leader.receive("c", reply)

    assert [SnapshotAnswered("c", reply)] == leader.take_events(SnapshotAnswered)
    assert [(11, 12)] == [(m.prev.index, m.last_index) for to, m in leader.take_sent(AppendEntries) if to == "c"]
    assert 3 == leader.engine.leadership.rounds["c"]


def test_a_follower_that_is_up_to_date_after_a_snapshot_is_followed_up_without_new_entries(cluster):
    """A heartbeat is enough to find that its log agrees."""
    net = cluster("abc")
    net.elect("a")
    net["a"].propose([b"x"])
    net.deliver()
    net.isolate("c")
    net.elapse(0.1)
    net.members["c"].disk.__init__()
    net.restart("c")
    net.members["a"].take_snapshot()
    net.heal()
    net["a"].leadership.progress["c"].match = 0
    net["a"].leadership.progress["c"].probe(1)
    net.elapse(0.25)
    progress = net["a"].leadership.progress["c"]

    assert (State.PIPELINE, net["a"].log.last.index) == (progress.state, progress.match)


def test_a_snapshot_older_than_what_was_offered_is_good_when_the_log_reaches_back_to_it(leader):
    """The follower got it from elsewhere, or began earlier; what its log lacks decides, not the offer."""
    _lose(leader, "c")
    progress = leader.engine.leadership.progress["c"]
    progress.snapshot_index = 12
    leader.receive("c", SnapshotReply(leader.engine.vote, 1, "other", SnapshotStatus.INSTALLED, 1, 11))

    assert (State.PROBE, 12) == (progress.state, progress.next)


@pytest.mark.parametrize("status", [SnapshotStatus.WANT, SnapshotStatus.FAILED])
def test_a_snapshot_that_is_not_installed_keeps_its_follower_waiting(leader, status):
    """It counts as contact, and the node hears of it."""
    _lose(leader, "c")
    leader.events.clear()
    leader.receive("c", SnapshotReply(leader.engine.vote, 4, "a-11", status, 0))

    assert State.SNAPSHOT is leader.engine.leadership.progress["c"].state
    assert 4 == leader.engine.leadership.rounds["c"]
    assert 1 == len(leader.take_events(SnapshotAnswered))


def test_rejections_do_not_end_a_snapshot(leader, at):
    """They are answers to older messages."""
    _lose(leader, "c")
    before = leader.state()
    leader.receive("c", AppendReply(leader.engine.vote, 0, 0, 11, at(1, 3)))

    assert before == leader.state()


def test_an_answer_to_a_snapshot_beyond_the_log_is_malformed(leader):
    """And is believed in nothing."""
    before = leader.state()

    with pytest.raises(WireError, match="c acknowledges index 99, the log ends at 11"):
        leader.receive("c", SnapshotReply(leader.engine.vote, 9, "s", SnapshotStatus.INSTALLED, 0, 99))
    assert before == leader.state()


@pytest.mark.parametrize("who", ["stranger", "older leadership"])
def test_an_answer_to_a_snapshot_from_elsewhere_counts_nothing(leader, vote, who):
    """Neither a stranger's nor one to an earlier leadership."""
    before = leader.state()
    sender, of = ("z", leader.engine.vote) if who == "stranger" else ("c", vote(1, "a"))
    leader.receive(sender, SnapshotReply(of, 9, "s", SnapshotStatus.INSTALLED, 0, 11))

    assert (before, []) == (leader.state(), leader.take_events(SnapshotAnswered))


def test_a_follower_that_can_never_agree_behind_the_base_gets_a_snapshot(cluster):
    """Its log is long, but of an overruled leader; the leader's log begins behind what it would need."""
    net = cluster("abc", logs={"a": [1, 2, 2, 2, 2, 2], "b": [1, 2, 2, 2, 2, 2], "c": [1, 1, 1, 1, 1, 1, 1]})
    net.isolate("c")
    net.elect("a")
    net.members["a"].take_snapshot()
    net.restart("a")
    net.elect("a")
    assert (7, 8) == (net["a"].log.base.index, net["a"].leadership.progress["c"].next)
    net.heal()
    net.elapse(2)

    assert (net["a"].log.last, net["a"].commit) == (net["c"].log.last, net["c"].commit)


# -- the follower -------------------------------------------------------------------------------------------------


def test_a_snapshot_that_brings_something_new_goes_to_the_node(solo, vote, meta):
    """It counts as hearing the leader."""
    member = solo()
    message = chunk(vote(2), meta(1, 8))
    member.receive("b", message)

    assert [ChunkArrived("b", message)] == member.take_events(ChunkArrived)
    assert ("b", []) == (member.engine.leader, member.take_sent())


def test_a_snapshot_of_the_past_is_answered_as_installed_and_changes_nothing(solo, vote, meta):
    """It reaches no further than what is committed here."""
    member = solo(terms=[1] * 6, commit=5)
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 0))
    before = member.state()
    member.take_sent()
    member.receive("b", chunk(vote(2), meta(1, 5)))

    assert before == member.state()
    assert [("b", SnapshotReply(vote(2), 1, "s5", SnapshotStatus.INSTALLED, 9, 5))] == member.take_sent()
    assert [] == member.take_events(ChunkArrived)


def test_a_snapshot_of_an_earlier_leader_is_refused(solo, vote, meta):
    """And tells it of the later term."""
    member = solo(terms=[1], term=5)
    before = member.state()
    member.receive("b", chunk(vote(2), meta(1, 8)))

    assert before == member.state()
    assert [("b", SnapshotReply(member.engine.vote, 1, "s8", SnapshotStatus.FAILED, 0))] == member.take_sent()


def test_an_installed_snapshot_takes_the_place_of_a_log_that_does_not_reach_it(solo, vote, meta, at, membership):
    """Log, commit and membership follow it; the store is told to forget."""
    member = solo(terms=[1, 1, 1], commit=2)
    member.receive("b", chunk(vote(3), meta(2, 8, membership("abd"), (2, 6))))
    term = member.engine.vote
    member.engine.installing = "s8"
    member.install("b", member.take_events(ChunkArrived)[0].chunk)
    member.drain()
    engine = member.engine

    assert (at(2, 8), at(2, 8), 8, 8, 8) == (
        *(engine.log.base, engine.log.last, engine.commit, engine.log.durable, engine.snapshot_last.index),
    )
    assert (membership("abd"), at(2, 6), term, None) == (
        *(engine.membership, engine.history.effective_id, engine.vote, engine.installing),
    )
    assert (at(2, 8), []) == (member.disk.base, member.disk.entries)
    assert [("b", SnapshotReply(vote(3), 1, "s8", SnapshotStatus.INSTALLED, 9, 8))] == member.take_sent()


def test_an_installed_snapshot_whose_last_entry_the_log_holds_keeps_what_follows(solo, vote, meta, at):
    """Entries behind it may have been acknowledged (§7)."""
    member = solo(terms=[1, 1, 1, 2, 2, 2], commit=2)
    member.receive("b", chunk(vote(3), meta(2, 4)))
    member.install("b", member.take_events(ChunkArrived)[0].chunk)
    member.drain()

    assert ([1, 1, 1, 2, 2, 2], 4, 6) == (member.terms(), member.engine.commit, member.engine.log.durable)
    assert NO_LOG == member.disk.base


def test_an_installed_snapshot_whose_last_entry_differs_drops_the_log(solo, vote, meta, at):
    """What follows another leader's entry is another history."""
    member = solo(terms=[1, 1, 1, 1, 1, 1], commit=2)
    member.receive("b", chunk(vote(3), meta(2, 4)))
    member.install("b", member.take_events(ChunkArrived)[0].chunk)
    member.drain()

    assert (at(2, 4), at(2, 4)) == (member.engine.log.last, member.disk.last)


def test_a_snapshot_that_was_overtaken_while_it_was_installed_changes_nothing(solo, vote, meta, at):
    """The log has brought more meanwhile."""
    member = solo(terms=[1] * 6, commit=2)
    member.receive("b", chunk(vote(3), meta(1, 4)))
    message = member.take_events(ChunkArrived)[0].chunk
    member.receive("b", AppendEntries(vote(3), 2, at(1, 6), 6))
    member.install("b", message)

    assert (6, at(1, 6), at(1, 4)) == (member.engine.commit, member.engine.log.last, member.engine.snapshot_last)


def test_a_snapshot_older_than_the_base_of_the_log_changes_nothing(solo, meta):
    """Whose entry its last one is can't be looked up any more."""
    member = solo(terms=[1] * 8, commit=6)
    member.take_snapshot()
    before = member.state()
    member.engine.snapshot_installed(meta(1, 4))

    assert before == member.state()


def test_term_and_vote_do_not_come_from_a_snapshot(solo, vote, meta):
    """A snapshot's last entry is older than what was promised since."""
    member = solo(terms=[1], term=7)
    before = member.engine.vote
    member.engine.snapshot_installed(meta(3, 9))

    assert before == member.engine.vote


def test_nobody_campaigns_while_a_snapshot_replaces_its_log(solo, vote, meta):
    """Its log is about to give way; afterwards it may."""
    member = solo(terms=[1])
    member.engine.installing = "s8"
    member.elapse(10)
    member.engine.campaign(member.now)

    assert (Role.FOLLOWER, float("inf")) == (member.engine.role, member.engine.deadline())

    member.engine.snapshot_installed(meta(2, 8))
    member.elapse(10)

    assert Role.PRE_CANDIDATE is member.engine.role


@pytest.mark.parametrize("which", ["voter out", "voter to learner", "learner to voter", "joint"])
def test_the_membership_travels_whole_in_a_snapshot(solo, meta, membership, which):
    """Joint sets, learners and addresses; and survives a restart."""
    members = {
        "voter out": membership("bc"),
        "voter to learner": membership("bc", learners="a"),
        "learner to voter": membership("abc", learners="x"),
        "joint": membership("abc", learners="x", joint_with="ade"),
    }[which]
    member = solo(learners="x")
    member.snapshot = meta(2, 8, members, (2, 5))
    member.engine.snapshot_installed(member.snapshot)
    member.drain()
    role = Role.FOLLOWER if members.is_voter("a") else Role.LEARNER

    assert (members, role) == (member.engine.membership, member.engine.role)

    member.start()

    assert (members, role, 8) == (member.engine.membership, member.engine.role, member.engine.commit)


def test_a_late_chunk_of_an_installed_snapshot_is_answered_again(solo, vote, meta):
    """The first answer may have been lost."""
    member = solo()
    message = chunk(vote(2), meta(1, 8))
    member.receive("b", message)
    member.install("b", message)
    member.drain()
    member.take_sent()
    before = member.state()
    member.receive("b", message)

    assert before == member.state()
    assert [SnapshotStatus.INSTALLED] == [reply.status for _, reply in member.take_sent(SnapshotReply)]


def test_the_answer_to_a_snapshot_acknowledges_only_what_is_durable(solo, run, vote, at, meta):
    """More may be committed here, by the disks of others."""
    member = solo(terms=[1, 1, 1], commit=1, auto=False)
    member.receive("b", AppendEntries(vote(1), 1, at(1, 3), 1))
    member.flush()
    member.receive("b", AppendEntries(vote(1), 1, at(1, 3), 5, (run(1, 4, 2),)))
    assert (5, 3) == (member.engine.commit, member.engine.log.durable)
    member.take_sent()
    member.receive("b", chunk(vote(1), meta(1, 4)))

    assert [(SnapshotStatus.INSTALLED, 3)] == [(said.status, said.match) for _, said in member.take_sent(SnapshotReply)]


# -- purging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trailing", "expected"), [(0, 8), (3, 5), (7, 1), (8, None), (50, None)])
def test_the_log_is_purged_behind_the_newest_snapshot(solo, trailing, expected):
    """So many entries that it covers stay."""
    member = solo(terms=[1] * 10, commit=8)
    member.take_snapshot(purge=False)
    upto = member.engine.purgeable(trailing)

    assert expected == (None if upto is None else upto.index)


def test_nothing_is_purged_without_a_snapshot(solo):
    """However much is committed."""
    member = solo(terms=[1] * 10, commit=10)

    assert None is member.engine.purgeable(0)

    with pytest.raises(InvariantViolation, match="purge up to 10, but the snapshot ends at 0"):
        member.engine.purge(member.engine.log.last)


def test_a_snapshot_of_what_is_not_committed_is_a_broken_invariant(solo, at):
    """The state machine has applied something that may go away."""
    member = solo(terms=[1] * 10, commit=4)

    with pytest.raises(InvariantViolation, match="snapshot up to 6, but only 4 is committed"):
        member.engine.snapshot_saved(at(1, 6))


def test_what_a_follower_needs_behind_its_snapshot_is_not_purged(leader, at):
    """Else it would need another one as soon as it has installed this one, for ever."""
    _lose(leader, "c")
    assert State.SNAPSHOT is leader.engine.leadership.progress["c"].state
    for _ in range(5):
        leader.engine.propose([b"x"])
    leader.drain()
    leader.receive("b", AppendReply(leader.engine.vote, 0, 16))
    leader.take_snapshot()

    assert (16, 11) == (leader.engine.snapshot_last.index, leader.engine.log.base.index)

    leader.receive("c", SnapshotReply(leader.engine.vote, 0, "s", SnapshotStatus.INSTALLED, 1, 11))
    leader.receive("c", AppendReply(leader.engine.vote, 0, 16))
    leader.purge(0)

    assert 16 == leader.engine.log.base.index


def test_what_is_not_durable_is_not_purged(solo, run, vote, meta, at):
    """A snapshot from the leader may be durable before the entries that it covers, which the log holds already."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 0, (run(2, 1, 8),)))
    member.begin_write()
    member.engine.snapshot_installed(meta(2, 6))

    assert (6, 0, None) == (member.engine.commit, member.engine.log.durable, member.engine.purgeable(0))

    member.flush()

    assert at(2, 6) == member.engine.purgeable(0)


def test_an_older_snapshot_takes_nothing_back(solo, at):
    """Two were under way."""
    member = solo(terms=[1] * 10, commit=8)
    member.engine.snapshot_saved(at(1, 8))
    member.engine.snapshot_saved(at(1, 3))

    assert at(1, 8) == member.engine.snapshot_last


# -- whole clusters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_follower_that_was_away_comes_back_by_a_snapshot(cluster, behind):
    """Whether its next entry is the last purged one, the one before or the one after."""
    net = cluster("abc")
    net.elect("a")
    net.elapse(0.2)
    net.isolate("c")
    for _ in range(6):
        net["a"].propose([b"x"])
        net.deliver()
    net.members["a"].take_snapshot(trailing=7 - behind - 1 if behind < 2 else 0)
    net.heal()
    net.elapse(0.5)

    assert (net["a"].log.last, net["a"].commit) == (net["c"].log.last, net["c"].commit)


def test_a_window_that_was_lost_and_purged_takes_a_snapshot(cluster):
    """The window is full, so nothing else is sent; and no heartbeat can name the entry before what comes next."""
    net = cluster("abc", max_inflight_messages=1)
    net.elect("a")
    net.elapse(0.2)
    net.drops = lambda sender, to, message: to == "c" and isinstance(message, AppendEntries)
    for _ in range(3):
        net["a"].propose([b"x"])
        net.deliver()
    net.members["a"].take_snapshot()
    assert net["a"].leadership.progress["c"].next < net["a"].log.base.index
    assert not net["a"].leadership.progress["c"].may_send
    net.heal()
    net.elapse(0.3)

    assert (net["a"].log.last, net["a"].commit) == (net["c"].log.last, net["c"].commit)


def test_a_leader_that_purges_while_it_reads_sends_a_snapshot(solo, at):
    """The entries that were being read are gone when they come."""
    member = solo(terms=[1] * 10, cache_bytes=10)
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 11))
    member.auto = False
    member.receive("c", AppendReply(member.engine.vote, 0, 0, 10, NO_LOG))
    (wanted,) = member.reading
    member.take_snapshot()
    member.engine.entries_read("c", wanted.first, [])
    member.drain()

    assert [SnapshotWanted("c")] == member.take_events(SnapshotWanted)

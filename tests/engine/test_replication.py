from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import EntriesWanted
from raftcore.engine.progress import State
from raftcore.errors import InvariantViolation, NotLeader, Overloaded, TransferUnderWay, WireError
from raftcore.messages import AppendEntries, AppendReply
from raftcore.types import NO_LOG, Entries, EntryKind, LeaderId


def sent_to(member, peer):
    """The appends that went to one peer since the last time, as (index before, last index)."""
    return [(m.prev.index, m.last_index) for to, m in member.take_sent(AppendEntries) if to == peer]


@pytest.fixture
def leader(solo):
    """Member "a", leading in term 2 with b and c; its blank entry, 3, is held by everybody and committed."""
    member = solo(terms=[1, 1])
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 3))
    member.take_sent()
    return member


# -- the follower -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prev", "rejected", "hint"),
    [
        ((0, 0), None, None),
        ((1, 1), None, None),
        ((2, 2), None, None),
        ((1, 2), 2, (1, 1)),
        ((3, 3), 3, (2, 2)),
        ((3, 2), 2, (2, 2)),
    ],
)
def test_a_follower_checks_the_entry_before(solo, at, vote, prev, rejected, hint):
    """It refuses what does not follow its log (§5.3), and names the last place that may still agree."""
    member = solo(terms=[1, 2], commit=0)
    member.receive("b", AppendEntries(vote(3), 4, at(*prev), 0))
    expected = AppendReply(vote(3), 4, 0 if rejected else prev[1], rejected, at(*hint) if hint else None)

    assert [("b", expected)] == member.take_sent()


@pytest.mark.parametrize(
    ("prev", "new", "expected"),
    [
        ((2, 2), (3, 3), [1, 2, 3]),
        ((1, 1), (3, 2), [1, 3]),
        ((1, 1), (4, 2), [1, 4]),
        ((0, 0), (1, 1), [1, 2]),
        ((0, 0), (3, 1), [3]),
        ((1, 1), (2, 2), [1, 2]),
    ],
)
def test_a_follower_takes_the_leaders_entries(solo, run, at, vote, prev, new, expected):
    """It drops its own from the first conflict on, and only then (§5.3)."""
    member = solo(terms=[1, 2])
    member.receive("b", AppendEntries(vote(4), 1, at(*prev), 0, (run(*new),)))

    assert expected == member.terms()
    assert expected == [entry.log_id.leader.term for entry in member.disk.entries]
    assert [("b", AppendReply(vote(4), 1, new[1]))] == member.take_sent()


def test_a_late_message_that_ends_earlier_drops_nothing(solo, run, at, vote):
    """Entries that were acknowledged stay; shorter, empty or repeated appends are no order to delete."""
    member = solo()
    whole = AppendEntries(vote(1), 2, NO_LOG, 0, (run(1, 1, 5),))
    for message in (
        whole,
        AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 2),)),
        AppendEntries(vote(1), 1, NO_LOG, 0),
        AppendEntries(vote(1), 1, at(1, 3), 0),
        whole,
    ):
        member.receive("b", message)

    assert at(1, 5) == member.engine.log.last
    assert [5, 2, 0, 3, 5] == [reply.match for _, reply in member.take_sent(AppendReply)]


def test_appends_in_the_wrong_order_come_together(solo, run, at, vote):
    """The later one is refused until the earlier one is there."""
    member = solo()
    first = AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 2),))
    second = AppendEntries(vote(1), 1, at(1, 2), 2, (run(1, 3, 2),))
    for message in (second, first, second):
        member.receive("b", message)

    assert ([1, 1, 1, 1], 2) == (member.terms(), member.engine.commit)
    assert [2, None, None] == [reply.rejected for _, reply in member.take_sent(AppendReply)]


def test_an_acknowledgement_waits_for_the_disk(solo, run, at, vote):
    """Of all entries that it names, and of the vote."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 2),)))
    member.begin_write()
    member.receive("b", AppendEntries(vote(1), 1, at(1, 2), 0, (run(1, 3, 2),)))

    assert [] == member.take_sent()

    member.finish_write()
    member.drain()

    assert [2] == [reply.match for _, reply in member.take_sent(AppendReply)]

    member.flush()

    assert [4] == [reply.match for _, reply in member.take_sent(AppendReply)]


def test_acknowledgements_that_wait_for_one_write_become_one(solo, run, at, vote):
    """The greatest; a late repetition of an older message does not replace it."""
    member = solo(auto=False)
    first = AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 2),))
    member.receive("b", first)
    for index in range(2, 6):
        member.receive("b", AppendEntries(vote(1), 1, at(1, index), 0, (run(1, index + 1),)))
    member.receive("b", first)
    member.flush()
    matches = [reply.match for _, reply in member.take_sent(AppendReply)]

    assert (6, True) == (max(matches), len(matches) <= 2)


def test_a_heartbeat_is_answered_while_the_disk_is_busy(solo, run, at, vote):
    """With what is durable so far, so that a slow disk does not look like a dead node."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))
    member.flush()
    member.take_sent()
    member.receive("b", AppendEntries(vote(1), 2, NO_LOG, 0, (run(1, 1, 3),)))
    member.begin_write()
    member.receive("b", AppendEntries(vote(1), 3, at(1, 3), 0))

    assert [("b", AppendReply(vote(1), 3, 0))] == member.take_sent()


def test_an_acknowledgement_is_dropped_when_the_vote_has_moved_on(solo, run, vote):
    """Its entries may be gone by then."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0, (run(1, 1, 3),)))
    member.begin_write()
    member.receive("c", AppendEntries(vote(2, "c"), 1, NO_LOG, 0, (run(2, 1, by="c"),)))
    member.flush()

    assert [("c", AppendReply(vote(2, "c"), 1, 1))] == member.take_sent()


def test_three_leaders_entries_at_one_index_and_their_writes_one_by_one(solo, run, vote):
    """The end of an old write neither acknowledges nor brings back anything."""
    member = solo(auto=False)
    for term, leader in ((1, "b"), (2, "c"), (3, "b")):
        entries = run(term, 1, 2, by=leader)
        member.receive(leader, AppendEntries(vote(term, leader), 1, NO_LOG, 0, (entries,)))
        member.begin_write()
    for _ in range(2):
        member.finish_write()
        member.drain()

        assert ([], [3, 3], 0) == (member.take_sent(), member.terms(), member.engine.log.durable)

    member.finish_write()
    member.drain()

    assert [("b", AppendReply(vote(3), 1, 2))] == member.take_sent()
    assert [3, 3] == [entry.log_id.leader.term for entry in member.disk.entries]


def test_what_is_purged_agrees_with_every_leader(solo, run, vote, at):
    """A late append from before the base is acknowledged, and nothing is appended twice."""
    member = solo(terms=[1] * 6, commit=6)
    member.take_snapshot()
    assert 6 == member.engine.log.base.index
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 6, (run(1, 1, 4),)))
    member.receive("b", AppendEntries(vote(2), 1, at(1, 2), 6, (run(1, 3, 5),)))

    assert [4, 7] == [reply.match for _, reply in member.take_sent(AppendReply)]
    assert (at(1, 7), [7]) == (member.engine.log.last, [entry.log_id.index for entry in member.disk.entries])


def test_a_committed_entry_that_a_leader_contradicts_stops_the_node(solo, run, vote):
    """Two clusters were mixed, or a disk was altered; following would lose acknowledged data."""
    member = solo(terms=[1, 1, 1], commit=2)

    with pytest.raises(InvariantViolation, match=r"the leader's entry 2 is .* is committed there"):
        member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 2, (run(1, 1, 1), run(2, 2))))


@pytest.mark.parametrize(
    "runs",
    [[(1, 4, 1)], [(1, 2, 1)], [(1, 3, 1), (1, 5, 1)], [(4, 3, 1)], [(2, 3, 1), (1, 4, 1)]],
    ids=["hole", "overlap", "hole inside", "later than its leader", "decreasing"],
)
def test_entries_that_can_not_follow_are_refused_before_anything_is_done(solo, run, at, vote, runs):
    """The peer's message is malformed: neither term, timer nor log change."""
    member = solo(terms=[1, 1])
    before = member.state()

    with pytest.raises(WireError, match=r"entries .* can't follow index"):
        member.receive("b", AppendEntries(vote(3), 1, at(1, 2), 0, tuple(run(*part) for part in runs)))
    assert before == member.state()


def test_a_membership_that_can_not_be_read_is_refused_before_anything_is_done(solo, run, at, vote):
    """Also when good entries come before it in the same message."""
    member = solo(terms=[1, 1])
    before = member.state()
    broken = Entries(LeaderId(3, "b"), 4, EntryKind.MEMBERSHIP, [b"not a membership"])

    with pytest.raises(WireError, match="membership of 16 bytes"):
        member.receive("b", AppendEntries(vote(3), 1, at(1, 2), 0, (run(3, 3), broken)))
    assert before == member.state()


# -- the leader ---------------------------------------------------------------------------------------------------


def test_proposals_go_to_everybody_at_once(leader, at):
    """In the same turn as to the own disk, as one run, with one message for all (§5.3, thesis 10.2.1)."""
    leader.auto = False
    (entries,) = leader.engine.propose([b"x", b"y"])
    leader.drain()
    (to_b, to_c) = leader.take_sent(AppendEntries)

    assert (at(2, 5, "a"), 2) == (entries.last_id, len(entries))
    assert (("b", "c"), (entries,)) == ((to_b[0], to_c[0]), to_b[1].runs)
    assert (at(2, 3, "a"), 3) == (to_b[1].prev, to_b[1].commit)
    assert to_b[1] is to_c[1]
    assert [] == leader.disk.entries[3:]


def test_only_a_leader_takes_proposals(solo, vote):
    """A follower says who leads."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))

    with pytest.raises(NotLeader, match="node a does not lead") as caught:
        member.engine.propose([b"x"])
    assert "b" == caught.value.leader


def test_a_leader_that_hands_over_takes_no_proposals(leader):
    """The next leader will."""
    leader.engine.transfer_leadership("b", leader.now)

    with pytest.raises(TransferUnderWay, match="being handed to b"):
        leader.engine.propose([b"x"])


def test_what_is_not_committed_is_bounded(solo):
    """A leader without a quorum refuses when its limit is reached, and takes proposals again when they commit."""
    member = solo(max_uncommitted_bytes=1000)
    member.become_leader()
    for _ in range(9):
        member.engine.propose([b"x" * 64])
    before = member.engine.log.last

    with pytest.raises(Overloaded, match=r"1008 bytes are not committed yet \(raft.max_uncommitted_bytes is 1000\)"):
        member.engine.propose([b"x"])
    assert before == member.engine.log.last

    member.drain()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, before.index))

    assert 0 == member.engine.leadership.uncommitted_bytes
    assert 1 == len(member.engine.propose([b"x"]))


def test_proposals_become_runs_that_fit_into_a_message(solo):
    """So that none is cut on its way; one that is too large still goes, alone."""
    member = solo(max_message_bytes=500)
    member.become_leader()
    runs = member.engine.propose([b"x" * 100] * 5 + [b"y" * 900] + [b"z"])

    assert [3, 2, 1, 1] == [len(entries) for entries in runs]
    assert [2, 5, 7, 8] == [entries.first_index for entries in runs]


def test_the_window_of_messages_is_kept(solo):
    """Beyond it nothing goes until something is acknowledged."""
    member = solo(max_inflight_messages=3)
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 1))
    member.take_sent()
    for _ in range(6):
        member.engine.propose([b"x"])
        member.drain()

    assert [(1, 2), (2, 3), (3, 4)] == sent_to(member, "b")

    member.receive("b", AppendReply(member.engine.vote, 0, 3))

    assert [(4, 7)] == sent_to(member, "b")


@pytest.mark.parametrize("lost", ["appends", "answers"])
def test_a_lost_window_repairs_itself_with_one_heartbeat(cluster, lost):
    """Whether the entries or the acknowledgements were lost."""
    net = cluster("abc", max_inflight_messages=3)
    net.elect("a")
    net.elapse(1)
    kind = AppendEntries if lost == "appends" else AppendReply
    net.drops = lambda sender, to, message: isinstance(message, kind) and "c" in (sender, to)
    for _ in range(6):
        net["a"].propose([b"x"])
        net.deliver()
    progress = net["a"].leadership.progress["c"]
    assert (False, 3) == (progress.may_send, progress.in_flight)
    net.heal()
    net.elapse(0.101)

    assert net["a"].log.last == net["c"].log.last
    assert (net["a"].commit, net["a"].commit) == (net["c"].commit, progress.match)


def test_a_lost_probe_is_sent_again_after_a_heartbeat(cluster):
    """A new leader's first message to a follower never arrives."""
    net = cluster("abc")
    net.drops = lambda sender, to, message: isinstance(message, AppendEntries) and to == "c"
    net.elect("a")
    assert net["a"].leadership.progress["c"].asked
    net.heal()
    net.elapse(0.101)

    assert State.PIPELINE is net["a"].leadership.progress["c"].state
    assert net["a"].log.last == net["c"].log.last


def test_followers_hear_of_a_commit_soon(cluster):
    """Not only with the next heartbeat: a twentieth of its interval later, if no entries come before."""
    net = cluster("abc")
    net.elect("a")
    net.elapse(0.55)
    net["a"].propose([b"x"])
    net.elapse(0.006)

    assert {net["a"].log.last.index} == {net[node].commit for node in "abc"}


def test_nobody_is_told_twice_of_a_commit(cluster):
    """When entries have carried the news meanwhile."""
    net = cluster("abc")
    net.elect("a")
    net.elapse(0.55)
    net["a"].propose([b"x"])
    net.deliver()
    net["a"].propose([b"y"])
    net.members["a"].drain()
    net.deliver()
    net["a"].leadership.progress["b"].commit_sent = net["a"].leadership.progress["c"].commit_sent = net["a"].commit
    before = len(net.delivered)
    net.elapse(0.02)

    assert before == len(net.delivered)


@pytest.mark.parametrize(
    ("follower", "rejections"),
    [
        ([1, 1, 1, 4, 4, 5, 5, 6, 6], 1),
        ([1, 1, 1, 4], 1),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6], 0),
        ([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7], 0),
        ([1, 1, 1, 4, 4, 4, 4], 1),
        ([1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], 1),
    ],
    ids="abcdef",
)
def test_figure_7_costs_at_most_one_rejection(cluster, follower, rejections):
    """The six followers of the paper's Figure 7, each repaired by the leader of term 8."""
    net = cluster("abc", logs={"a": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6], "b": follower, "c": [1]})
    net.elect("a")
    net.elapse(0.3)
    counted = sum(s == "b" and isinstance(m, AppendReply) and m.rejected is not None for s, _, m in net.delivered)

    assert net.members["a"].terms() == net.members["b"].terms() == net.members["c"].terms()
    assert rejections == counted


def test_a_long_diverging_log_costs_one_rejection_a_term(cluster):
    """Ten thousand entries of terms that the leader has not, against as many of six others."""
    common = [1] * 10
    net = cluster(
        "abc",
        logs={
            "a": common + [t for t in (2, 4, 6, 8, 10, 12) for _ in range(2000)],
            "b": common + [t for t in (3, 5, 7, 9, 11) for _ in range(2000)],
            "c": common,
        },
    )
    net.elect("a")
    net.elapse(0.5)
    counted = sum(s == "b" and isinstance(m, AppendReply) and m.rejected is not None for s, _, m in net.delivered)

    assert net["a"].log.last == net["b"].log.last
    assert counted <= 6


@pytest.mark.parametrize(
    ("leader_log", "follower_log", "probes"),
    [
        ([1, 3, 3, 3, 5, 5, 5, 5], [1, 1, 1, 1, 2, 2, 2], [8, 1]),
        ([1, 3, 3, 3, 5, 5, 5, 5], [1, 3, 3, 4, 4, 4], [8, 4, 3]),
        ([1, 1, 1, 1, 2, 2, 2, 6], [1, 3, 3, 3, 3, 3, 3], [8, 7, 1]),
        ([1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [4]),
        ([1, 1, 1, 1], [1, 1, 3, 3], [4, 2]),
        ([2, 2, 2, 5], [], [4, 0]),
        ([5, 5, 5], [1, 2, 3], [3, 0]),
    ],
)
def test_a_probe_goes_where_the_hint_says(cluster, leader_log, follower_log, probes):
    """The index before the leader's message, from one rejection to the next."""
    net = cluster("abc", logs={"a": leader_log, "b": follower_log, "c": []})
    net.elect("a")
    tried = [
        message.prev.index
        for sender, to, message in net.delivered
        if (sender, to) == ("a", "b") and isinstance(message, AppendEntries)
    ]

    assert probes == tried[: len(probes)]
    assert net.members["a"].terms() == net.members["b"].terms()


def test_rejections_of_what_is_settled_move_nothing(leader):
    """They are late, or repeated."""
    leader.engine.propose([b"x"])
    leader.drain()
    leader.receive("b", AppendReply(leader.engine.vote, 0, 4))
    before = leader.state()
    for rejected in (0, 3, 4):
        leader.receive("b", AppendReply(leader.engine.vote, 0, 0, rejected, NO_LOG))

    assert before == leader.state()


def test_a_repeated_rejection_sends_one_probe(solo, at):
    """The second copy names an entry that is no longer asked about."""
    member = solo(terms=[1] * 9)
    member.become_leader()
    reply = AppendReply(member.engine.vote, 0, 0, 9, at(1, 5))
    member.receive("b", reply)
    member.receive("b", reply)

    assert [(5, 10)] == sent_to(member, "b")


def test_a_rejection_without_a_hint_begins_at_the_start(solo):
    """A peer need not say where its log may agree; the leader then tries the first entry."""
    member = solo(terms=[1] * 9)
    member.become_leader()
    member.receive("b", AppendReply(member.engine.vote, 0, 0, 9))

    assert [(0, 10)] == sent_to(member, "b")


def test_an_older_acknowledgement_moves_nothing_back(leader):
    """Two answers that change places."""
    for _ in range(3):
        leader.engine.propose([b"x"])
        leader.drain()
    leader.receive("b", AppendReply(leader.engine.vote, 0, 6))
    leader.receive("b", AppendReply(leader.engine.vote, 0, 4))
    progress = leader.engine.leadership.progress["b"]

    assert (6, 7, 6) == (progress.match, progress.next, leader.engine.leadership.match["b"])


def test_an_acknowledgement_beyond_the_log_is_malformed(leader):
    """Nothing is believed of it, not even that the peer is there."""
    before = leader.state()

    with pytest.raises(WireError, match="b acknowledges index 99, the log ends at 3"):
        leader.receive("b", AppendReply(leader.engine.vote, 7, 99))
    assert before == leader.state()


def test_an_answer_of_who_is_no_member_counts_nothing(leader):
    """It was removed, or never belonged."""
    before = leader.state()
    leader.receive("x", AppendReply(leader.engine.vote, 1, 3))

    assert before == leader.state()


# -- entries that memory no longer holds --------------------------------------------------------------------------


@pytest.fixture
def forgetful(solo):
    """Member "a", leading with a log of 20 entries of which memory holds none but the newest."""
    member = solo(terms=[1] * 20, cache_bytes=100, auto=False, max_message_bytes=500)
    member.auto = True
    member.become_leader()
    member.auto = False
    member.take_sent()
    member.receive("b", AppendReply(member.engine.vote, 0, 0, 20, NO_LOG))
    return member


def test_old_entries_are_read_from_the_store(forgetful):
    """One reading at a time; what was read goes out, and the next is asked for when that is acknowledged."""
    assert [EntriesWanted("b", 1, 22)] == forgetful.reading
    assert [] == forgetful.take_sent(AppendEntries)

    forgetful.answer_reads()
    forgetful.drain()

    assert [(0, 9)] == sent_to(forgetful, "b")

    forgetful.receive("b", AppendReply(forgetful.engine.vote, 0, 9))

    assert [EntriesWanted("b", 10, 22)] == forgetful.reading


def test_what_was_read_for_a_follower_that_moved_on_is_ignored(forgetful):
    """It has acknowledged more meanwhile; then it is asked anew."""
    forgetful.receive("b", AppendReply(forgetful.engine.vote, 0, 5))
    forgetful.answer_reads()
    forgetful.drain()

    assert [] == sent_to(forgetful, "b")
    assert [EntriesWanted("b", 6, 22)] == forgetful.reading


def test_what_was_read_after_leadership_was_lost_is_ignored(forgetful, vote):
    """Also when it comes in a later leadership that has not asked for it."""
    wanted = forgetful.reading.pop()
    forgetful.receive("c", AppendReply(vote(9, "", False), 1, 0))
    forgetful.engine.entries_read("b", wanted.first, [])
    forgetful.clock.now += 9
    forgetful.auto = True
    forgetful.become_leader()
    before = forgetful.state()
    forgetful.engine.entries_read("b", 1, forgetful.disk.read(1, 5, 1000))

    assert before == forgetful.state()


def test_an_empty_reading_is_tried_again(forgetful):
    """The store could not say; the follower is not forgotten."""
    forgetful.reading.clear()
    forgetful.engine.entries_read("b", 1, [])
    forgetful.drain()

    assert [EntriesWanted("b", 1, 22)] == forgetful.reading


def test_what_was_read_just_before_it_was_rewritten_is_not_sent(forgetful, run):
    """Its last entry is another leader's than the log's: it is of a tail that was cut off."""
    forgetful.reading.clear()
    forgetful.engine.entries_read("b", 1, [run(1, 1, 4), run(9, 5, 2)])
    forgetful.drain()

    assert [] == sent_to(forgetful, "b")
    assert [EntriesWanted("b", 1, 22)] == forgetful.reading


def test_a_follower_behind_the_cache_catches_up(cluster):
    """Message by message, from the store."""
    net = cluster("abc", cache_bytes=300, max_message_bytes=600)
    net.elect("a")
    net.isolate("c")
    for _ in range(50):
        net["a"].propose([b"x" * 40])
        net.deliver()
    net.heal()
    net.elapse(0.2)

    assert (Role.LEADER, net["a"].log.last) == (net["a"].role, net["c"].log.last)

from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.messages import AppendEntries, AppendReply
from raftcore.types import NO_LOG


@pytest.fixture(scope="session")
def leading(solo):
    """Make a leader of `voters` in the term after its log's; nobody has acknowledged anything."""

    def make(voters="abc", terms=(), **options):
        member = solo(voters=voters, terms=terms, **options)
        member.become_leader()
        return member

    return make


def acknowledge(member, peers, index):
    """Each of them holds everything up to `index`."""
    for peer in peers:
        member.receive(peer, AppendReply(member.engine.vote, 0, index))


@pytest.mark.parametrize(
    ("voters", "peers", "expected"),
    [
        ("a", "", 2),
        ("ab", "", 0),
        ("ab", "b", 2),
        ("abc", "", 0),
        ("abc", "b", 2),
        ("abc", "bc", 2),
        ("abcde", "b", 0),
        ("abcde", "bc", 2),
        ("abcde", "bcde", 2),
    ],
)
def test_a_majority_commits(leading, voters, peers, expected):
    """The leader counts itself, once (§5.3)."""
    member = leading(voters)
    member.engine.propose([b"x"])
    member.drain()
    acknowledge(member, peers, 2)

    assert expected == member.engine.commit


def test_the_leaders_own_disk_is_one_vote_of_several(leading):
    """It counts when it is durable, not before; without it the others can commit by themselves."""
    member = leading(auto=True)
    member.auto = False
    member.engine.propose([b"x"])
    member.drain()
    acknowledge(member, "b", 2)

    assert 1 == member.engine.commit

    member.flush()

    assert 2 == member.engine.commit

    member.engine.propose([b"y"])
    member.drain()
    acknowledge(member, "bc", 3)

    assert (3, 2) == (member.engine.commit, member.engine.applicable)


@pytest.mark.parametrize("terms", [[1], [1, 1], [1, 2], [2, 2, 3]])
def test_older_entries_are_committed_with_the_first_of_the_own_term(leading, terms):
    """However many there are (§5.4.2)."""
    member = leading(terms=terms)
    acknowledge(member, "b", len(terms))

    assert 0 == member.engine.commit

    acknowledge(member, "b", len(terms) + 1)

    assert len(terms) + 1 == member.engine.commit


def test_a_new_leader_commits_the_old_tail_without_any_proposal(cluster):
    """Its blank entry does it."""
    net = cluster("abc", logs={"a": [1, 1, 2], "b": [1, 1], "c": [1]})
    net.elect("a")
    net.elapse(0.2)

    assert {4} == {net[node].commit for node in "abc"}


@pytest.fixture
def figure_8(cluster):
    """(c) of the paper's Figure 8: the entry of term 2 is on a majority, nothing of the leader's own term is."""
    logs = {"a": [1, 2], "b": [1, 2], "c": [1], "d": [1], "e": [1, 3]}
    net = cluster("abcde", logs=logs, max_message_bytes=1)
    net.isolate("e")
    net.drops = lambda sender, to, message: isinstance(message, AppendEntries) and message.last_index > 2
    net.elect("a")
    net.elapse(0.3)
    assert [[1, 2, 4], [1, 2], [1, 2], [1, 2]] == [net.members[node].terms() for node in "abcd"]
    return net


def test_figure_8_an_entry_of_an_older_term_on_a_majority_is_not_committed(figure_8):
    """It is not safe there: (d) another leader, which has not got it, can still be elected and overwrite it."""
    assert {0} == {figure_8[node].commit for node in "abcd"}

    figure_8.crash("a")
    figure_8.heal()
    figure_8.elect("e")
    figure_8.elapse(0.3)

    assert [[1, 3, 5]] * 4 == [figure_8.members[node].terms() for node in "bcde"]


def test_figure_8_an_entry_of_the_own_term_on_a_majority_commits_both(figure_8):
    """(e): from then on who has not got them can't be elected."""
    figure_8.drops = lambda sender, to, message: False
    figure_8.elapse(0.3)

    assert {3} == {figure_8[node].commit for node in "abcd"}

    figure_8.crash("a")
    figure_8.heal()
    figure_8.elapse(10)
    (leader,) = figure_8.leaders()

    assert leader in "bcd"
    assert [1, 2, 4] == figure_8.members["e"].terms()[:3]


@pytest.mark.parametrize(("entries", "says", "expected"), [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 2, 2), (2, 9, 2)])
def test_a_follower_commits_what_the_leader_says(solo, run, vote, entries, says, expected):
    """As far as the message covers."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, says, (run(1, 1, entries),)))

    assert expected == member.engine.commit


def test_a_follower_commits_nothing_behind_what_the_message_covers(solo, at, vote):
    """Its longer log may be another leader's there; the heartbeat vouches only for the entry that it names."""
    member = solo(terms=[1, 1, 1, 1])
    member.receive("b", AppendEntries(vote(2), 1, at(1, 2), 4))

    assert 2 == member.engine.commit


def test_commit_never_goes_back(solo, at, vote):
    """A new leader may know of less."""
    member = solo(terms=[1, 1, 1, 1])
    member.receive("b", AppendEntries(vote(2), 1, at(1, 4), 4))
    for commit in (0, 2, 3):
        member.receive("c", AppendEntries(vote(3, "c"), 1, at(1, 4), commit))

    assert 4 == member.engine.commit


def test_only_durable_entries_may_be_applied(solo, run, vote):
    """A follower may know that an entry is committed before its own disk has it."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 2, (run(1, 1, 2),)))

    assert (2, 0) == (member.engine.commit, member.engine.applicable)

    member.flush()

    assert 2 == member.engine.applicable


def test_the_commit_hint_is_true_after_a_restart(solo, run, vote, at):
    """It goes with the write, and never names more than that write makes durable."""
    member = solo(auto=False)
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 9, (run(1, 1, 2),)))
    member.flush()
    engine = member.start()

    assert (2, at(1, 2)) == (engine.commit, engine.log.last)


def test_a_late_own_acknowledgement_of_an_earlier_leadership_commits_nothing(solo, run, vote, at):
    """The write was begun as leader of term 1; when it ends, this node follows another one with other entries there."""
    member = solo(voters="abc", auto=True)
    member.become_leader()
    member.auto = False
    member.engine.propose([b"x", b"y"])
    member.drain()
    member.begin_write()
    member.receive("b", AppendEntries(vote(5), 1, NO_LOG, 0, (run(5, 1, 2),)))
    member.finish_write()
    member.drain()

    assert (0, 0, Role.FOLLOWER) == (member.engine.commit, member.engine.log.durable, member.engine.role)

    member.flush()

    assert ([5, 5], 2) == (member.terms(), member.engine.log.durable)


def test_learners_do_not_count(solo):
    """However many of them hold an entry."""
    member = solo(voters="abc", learners="xyz")
    member.become_leader()
    acknowledge(member, "xyz", 1)

    assert 0 == member.engine.commit


def test_a_leader_without_a_quorum_commits_nothing_and_forgets_nothing(cluster):
    """When the others are back, everything that it took is committed in order."""
    net = cluster("abc", check_quorum=False)
    net.elect("a")
    net.isolate("a")
    for number in range(20):
        net["a"].propose([b"%d" % number])
        net.deliver()
    assert 1 == net["a"].commit
    net.heal()
    for node in "bc":
        net[node].elections_enabled = False
    net.elapse(0.3)

    assert {21} == {net[node].commit for node in "abc"}

from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.output import RoleChanged
from raftcore.messages import AppendEntries, AppendReply, RequestVote, SnapshotReply, SnapshotStatus, VoteReply
from raftcore.types import NO_LOG, NO_VOTE, EntryKind, LeaderId, Vote

FAST = {"pre_vote": False, "check_quorum": False}


@pytest.fixture(scope="session")
def in_role(solo, vote):
    """Make member "a" of three at term 3 in a role, without pre-vote or check-quorum."""

    def make(role):
        member = solo("a", terms=[1], term=2, **FAST)
        if role is Role.FOLLOWER:
            member.receive("b", AppendEntries(vote(3), 1, member.engine.log.last, 0))
        elif role is Role.LEADER:
            member.become_leader()
        else:
            member.elapse(2.1)
        assert (role, 3) == (member.engine.role, member.engine.vote.leader.term)
        member.take_sent()
        member.events.clear()
        return member

    return make


def answer(member, voter, granted=True):
    """A vote for, or against, the candidacy in hand."""
    asked = member.engine.candidacy.vote
    member.receive(
        voter, VoteReply(asked if granted else member.engine.vote, asked, granted, member.engine.candidacy.pre)
    )


# -- terms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_whoever_sees_a_later_leader_follows_it(in_role, vote, role):
    """A message of a higher term ends any office (§5.1)."""
    member = in_role(role)
    member.receive("c", AppendEntries(vote(5, "c"), 1, NO_LOG, 0))

    assert (Role.FOLLOWER, vote(5, "c"), "c") == (member.engine.role, member.engine.vote, member.engine.leader)
    assert [RoleChanged(Role.FOLLOWER, 5, "c")] == member.take_events(RoleChanged)


@pytest.mark.parametrize("role", list(Role)[1:2] + list(Role)[3:])
@pytest.mark.parametrize(
    "reply",
    [
        lambda later, old: VoteReply(later, old, False),
        lambda later, old: AppendReply(later, 1, 0),
        lambda later, old: SnapshotReply(later, 1, "s", SnapshotStatus.WANT, 0),
    ],
)
def test_whoever_sees_a_later_term_in_an_answer_steps_back(in_role, vote, role, reply):
    """Whatever kind of answer, and even if nobody waits for it; no vote is cast by that."""
    member = in_role(role)
    member.receive("c", reply(vote(5, "c"), member.engine.vote))

    assert (Role.FOLLOWER, Vote(LeaderId(5, ""), False)) == (member.engine.role, member.engine.vote)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_an_earlier_leader_is_told_of_the_later_term(in_role, vote, role):
    """Its entries are not taken, and the answer makes it step back."""
    member = in_role(role)
    before = member.state()
    member.receive("c", AppendEntries(vote(2, "c"), 7, NO_LOG, 9))

    assert before == member.state()
    assert [("c", AppendReply(member.engine.vote, 7, 0))] == member.take_sent()


def test_a_candidate_gives_way_to_the_leader_of_its_term(in_role, vote):
    """Somebody else has won (§5.2)."""
    member = in_role(Role.CANDIDATE)
    member.receive("b", AppendEntries(vote(3), 1, member.engine.log.last, 0))

    assert (Role.FOLLOWER, "b", None) == (member.engine.role, member.engine.leader, member.engine.candidacy)


# -- starting -----------------------------------------------------------------------------------------------------


def test_everybody_starts_as_a_follower(solo):
    """Also who led before: nothing of an office survives a restart."""
    member = solo()

    assert (Role.FOLLOWER, NO_VOTE, None) == (member.engine.role, member.engine.vote, member.engine.leader)

    member.become_leader()
    term = member.engine.vote
    member.start()

    assert (Role.FOLLOWER, term, None) == (member.engine.role, member.engine.vote, member.engine.leader)


def test_a_follower_that_hears_nothing_campaigns(solo, vote):
    """It raises its term, votes for itself, and asks the others (§5.2)."""
    member = solo(terms=[1, 2], **FAST)
    member.elapse(2.1)
    request = RequestVote(vote(3, "a", False), member.engine.log.last)

    assert (Role.CANDIDATE, vote(3, "a", False)) == (member.engine.role, member.engine.vote)
    assert [("b", request), ("c", request)] == member.take_sent()
    assert {"a": True} == member.engine.candidacy.votes


def test_a_candidate_without_a_majority_tries_again_in_the_next_term(solo):
    """After another timeout."""
    member = solo(**FAST)
    member.elapse(2.1)
    term = member.engine.vote.leader.term
    member.elapse(2.1)

    assert (Role.CANDIDATE, term + 1) == (member.engine.role, member.engine.vote.leader.term)


def test_a_candidate_asks_only_when_its_own_vote_is_durable(solo):
    """Else a crash could let it ask twice in one term, with two different logs."""
    member = solo(auto=False, **FAST)
    member.elapse(1.9)
    assert Role.CANDIDATE is member.engine.role

    assert ([], {}) == (member.take_sent(), member.engine.candidacy.votes)

    member.flush()

    assert ["b", "c"] == [to for to, _ in member.take_sent(RequestVote)]


def test_a_candidate_that_gives_up_asks_nobody_afterwards(solo, vote):
    """Its requests were still waiting for the disk."""
    member = solo(auto=False, **FAST)
    member.elapse(1.9)
    member.receive("b", AppendEntries(vote(4), 1, NO_LOG, 0))
    member.flush()

    assert [] == member.take_sent(RequestVote)


@pytest.mark.parametrize(
    ("voters", "answers", "expected"),
    [
        ("a", {}, Role.LEADER),
        ("abc", {}, Role.CANDIDATE),
        ("abc", {"b": True}, Role.LEADER),
        ("abc", {"b": False}, Role.CANDIDATE),
        ("abc", {"b": False, "c": True}, Role.LEADER),
        ("abc", {"b": False, "c": False}, Role.FOLLOWER),
        ("abcde", {"b": True}, Role.CANDIDATE),
        ("abcde", {"b": True, "c": True}, Role.LEADER),
        ("abcde", {"b": False, "c": False, "d": False}, Role.FOLLOWER),
        ("abcde", {"b": True, "c": False, "d": False}, Role.CANDIDATE),
    ],
)
def test_an_election_is_won_lost_or_open_after_one_round(solo, voters, answers, expected):
    """A majority wins, a majority against it loses."""
    member = solo(voters=voters, **FAST)
    member.elapse(2.1)
    for voter, granted in answers.items():
        if member.engine.candidacy is not None:
            answer(member, voter, granted)

    assert (expected, 1) == (member.engine.role, member.engine.vote.leader.term)


def test_a_repeated_vote_counts_once(solo):
    """Five grants of one voter are one vote of five."""
    member = solo(voters="abcde", **FAST)
    member.elapse(2.1)
    grant = VoteReply(member.engine.vote, member.engine.vote, True)
    for _ in range(5):
        member.receive("b", grant)

    assert Role.CANDIDATE is member.engine.role


def test_a_voter_can_not_change_its_mind(solo):
    """The first answer counts; the second is a damaged or confused one."""
    member = solo(voters="abcde", **FAST)
    member.elapse(2.1)
    answer(member, "b", False)
    answer(member, "b")
    answer(member, "c")

    assert Role.CANDIDATE is member.engine.role


@pytest.mark.parametrize("stranger", ["x", "l"])
def test_the_vote_of_who_is_no_voter_counts_nothing(solo, stranger):
    """A stranger's or a learner's."""
    member = solo(learners="l", **FAST)
    member.elapse(2.1)
    answer(member, stranger)

    assert Role.CANDIDATE is member.engine.role


def test_a_vote_for_an_earlier_candidacy_counts_nothing(solo):
    """It arrives when the next term's campaign is under way: two leaders could come of it."""
    member = solo(**FAST)
    member.elapse(2.1)
    late = VoteReply(member.engine.vote, member.engine.vote, True)
    member.elapse(2.1)
    member.receive("b", late)

    assert Role.CANDIDATE is member.engine.role
    assert {"a": True} == member.engine.candidacy.votes


def test_a_pre_vote_is_no_vote(solo):
    """A grant of the pre-vote that arrives in the campaign counts nothing there."""
    member = solo(voters="abcde", check_quorum=False)
    member.elapse(2.1)
    asked = member.engine.candidacy.vote
    grant = VoteReply(NO_VOTE, asked, True, True)
    for voter in "bc":
        member.receive(voter, grant)
    assert Role.CANDIDATE is member.engine.role
    for voter in "bcde":
        member.receive(voter, grant)

    assert Role.CANDIDATE is member.engine.role
    assert {"a": True} == member.engine.candidacy.votes


def test_the_own_vote_counts_when_it_is_durable(solo):
    """In one term, whatever was decided about the term before."""
    member = solo(voters="a", auto=False, **FAST)
    member.elapse(2.0)
    assert (Role.CANDIDATE, {}) == (member.engine.role, member.engine.candidacy.votes)
    member.begin_write()
    member.elapse(2.1)

    assert 2 == member.engine.vote.leader.term

    member.finish_write()

    assert (Role.CANDIDATE, {}) == (member.engine.role, member.engine.candidacy.votes)

    member.flush()

    assert (Role.LEADER, 2) == (member.engine.role, member.engine.vote.leader.term)


# -- taking office ------------------------------------------------------------------------------------------------


def test_a_new_leader_appends_a_blank_entry_of_its_term_and_sends_it(solo, at):
    """It makes the entries before it committable."""
    member = solo(terms=[1, 1], by="a", **FAST)
    member.elapse(2.1)
    answer(member, "b")
    ((to_b, append), (to_c, _)) = member.take_sent(AppendEntries)
    (run,) = append.runs

    assert (Role.LEADER, "a") == (member.engine.role, member.engine.leader)
    assert ({"b", "c"}, at(1, 2, "a"), 0) == ({to_b, to_c}, append.prev, append.commit)
    assert (LeaderId(2, "a"), 3, EntryKind.BLANK) == (run.leader, run.first_index, run.kind)


def test_a_leader_sends_heartbeats(solo):
    """At once, and then at its interval, with a new round each (§5.2)."""
    member = solo(voters="abc")
    member.become_leader()
    member.elapse(0.25)
    rounds = {}
    for to, message in member.take_sent(AppendEntries):
        rounds.setdefault(to, []).append((message.round, message.runs))

    assert {"b": [(1, ()), (2, ()), (3, ())], "c": [(1, ()), (2, ()), (3, ())]} == rounds


# -- timeouts -----------------------------------------------------------------------------------------------------


def test_election_timeouts_are_drawn_anew_from_the_whole_range(solo):
    """For a follower's first campaign and for each after it."""
    member = solo(voters="ab", **FAST)
    drawn = []
    for _ in range(200):
        drawn.append(member.engine.timeout)
        member.elapse(member.engine.deadline() - member.now + 0.001)

    assert (200, 0) == (len(set(drawn)), sum(not 1 <= timeout <= 2 for timeout in drawn))
    assert min(drawn) < 1.1 < 1.9 < max(drawn)


@pytest.mark.parametrize("campaigns", [0, 3])
def test_followers_and_candidates_seldom_time_out_together(solo, campaigns):
    """In less than three of ten rounds do two of five members wake within a tenth of the timeout of the first."""
    together = 0
    for seed in range(300):
        members = [solo(node, voters="abcde", seed=seed, **FAST) for node in "abcde"]
        for member in members:
            for _ in range(campaigns):
                member.elapse(member.engine.deadline() - member.now + 0.001)
        first, second, *_ = sorted(member.engine.timeout for member in members)
        together += second - first < 0.05

    assert together < 90


def test_hearing_the_leader_restarts_the_timer(solo, vote):
    """A heartbeat a second keeps the peace."""
    member = solo(**FAST)
    for number in range(10):
        member.receive("b", AppendEntries(vote(1), number, NO_LOG, 0))
        member.elapse(0.9)

    assert (Role.FOLLOWER, 1) == (member.engine.role, member.engine.vote.leader.term)


def test_granting_a_vote_restarts_the_timer(solo, vote):
    """The candidate gets its time."""
    member = solo(**FAST)
    member.elapse(0.9)
    deadline = member.engine.deadline()
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))

    assert deadline + 0.9 == pytest.approx(member.engine.deadline())


@pytest.mark.parametrize("make_message", ["stale append", "refused vote", "pre-vote", "later answer"])
def test_nothing_else_restarts_the_timer(solo, vote, at, make_message):
    """A candidate that can't win, or a leader of the past, does not keep this node from its own campaign."""
    member = solo(terms=[1, 3], term=3, **FAST)
    member.elapse(0.5)
    deadline = member.engine.deadline()
    message = {
        "stale append": AppendEntries(vote(2), 1, NO_LOG, 0),
        "refused vote": RequestVote(vote(9, "b", False), at(1, 1)),
        "pre-vote": RequestVote(vote(4, "b", False), at(3, 9), pre=True),
        "later answer": AppendReply(vote(9, "b"), 1, 0),
    }[make_message]
    member.receive("b", message)

    assert deadline == member.engine.deadline()


def test_a_candidate_whose_log_is_behind_does_not_starve_the_others(cluster):
    """It campaigns without end; somebody whose log is whole wins within a few timeouts."""
    net = cluster("abc", logs={"a": [1, 2, 2], "b": [1, 2, 2], "c": [1]}, **FAST)
    net.members["c"].engine.election_low, net.members["c"].engine.election_high = 0.2, 0.3
    net.members["c"].engine.draw_timeout()
    net.elapse(12)

    assert net.leaders() in (["a"], ["b"])


def test_a_learner_never_campaigns(solo):
    """However long it hears nothing, and even when it is told to."""
    member = solo("x", learners="x")
    member.elapse(100)
    member.engine.campaign(member.now)

    assert (Role.LEARNER, float("inf"), []) == (member.engine.role, member.engine.deadline(), member.sent)


def test_elections_can_be_switched_off(solo):
    """No timer runs then; a request of the operator still starts a campaign."""
    member = solo()
    member.engine.elections_enabled = False
    member.elapse(50)

    assert (float("inf"), Role.FOLLOWER) == (member.engine.deadline(), member.engine.role)

    member.engine.campaign(member.now)

    assert Role.PRE_CANDIDATE is member.engine.role


def test_heartbeats_can_be_switched_off(solo):
    """The leader then says nothing by itself."""
    member = solo(check_quorum=False)
    member.become_leader()
    member.engine.heartbeats_enabled = False
    member.elapse(5)

    assert [] == member.take_sent(AppendEntries)


def test_an_order_to_campaign_or_to_show_life_means_nothing_to_the_wrong_role(solo):
    """A leader does not campaign, a follower sends no heartbeat."""
    leader, follower = solo(), solo()
    leader.become_leader()
    before = leader.state(), follower.state()
    leader.engine.campaign(leader.now)
    follower.engine.heartbeat(follower.now)

    assert before == (leader.state(), follower.state())


def test_who_stops_leading_waits_its_turn(solo, vote):
    """A leader has heard itself: it does not campaign against its successor in the moment when it steps back."""
    member = solo()
    member.become_leader()
    member.elapse(0.5)
    member.receive("b", AppendReply(vote(9, "", False), 1, 0))

    assert Role.FOLLOWER is member.engine.role
    assert member.engine.deadline() >= member.now + 0.9


# -- whole clusters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_vote", [True, False])
@pytest.mark.parametrize(
    ("logs", "cut_off", "expected"),
    [
        ({}, "", "a"),
        ({}, "b", "a"),
        ({}, "bc", "a"),
        ({}, "bcd", None),
        ({"a": [1], "b": [1, 1], "c": [1], "d": [1], "e": [1]}, "", "a"),
        ({"a": [1], "b": [1, 1], "c": [1, 1], "d": [1, 1], "e": [1]}, "", None),
    ],
)
def test_a_campaign_among_five(cluster, pre_vote, logs, cut_off, expected):
    """Who reaches a majority of logs no newer than its own wins."""
    net = cluster("abcde", logs=logs, pre_vote=pre_vote, check_quorum=False)
    for node in cut_off:
        net.isolate(node)
    net["a"].campaign(0.0)
    net.deliver()

    assert ([] if expected is None else [expected]) == net.leaders()


@pytest.mark.parametrize("pre_vote", [True, False])
def test_duelling_candidates_end_with_one_leader(cluster, pre_vote):
    """They can't hear each other; when they can, the one without a leader's log gives way."""
    net = cluster("abc", pre_vote=pre_vote)
    net.cut("a", "c")
    for node in "ac":
        net[node].campaign(0.0)
    net.deliver()

    assert ["a"] == net.leaders()

    net.heal()
    net.elapse(10)
    (leader,) = net.leaders()

    assert {leader} == {net[node].leader for node in "abc"}


def test_a_new_leader_overwrites_what_an_older_one_left_uncommitted(cluster):
    """Even entries of a higher term than its own log had (§5.3)."""
    net = cluster("abcde", logs={"a": [1], "b": [1], "c": [2], "d": [3], "e": [3]}, **FAST)
    net.isolate("d")
    net.isolate("e")
    net["c"].campaign(0.0)
    net.elapse(0.001)
    net.elapse(20)
    net.heal()
    net.elapse(20)
    (leader,) = net.leaders()

    assert 1 == len({tuple(member.terms()) for member in net.members.values()})
    assert net[leader].log.last.index == net[leader].commit


def test_a_member_of_a_lower_term_can_be_elected_when_its_log_is_good(cluster):
    """It learns the higher term from the refusals, and asks again in the next."""
    net = cluster("abc", **FAST)
    net.members["a"].fill([1, 1])
    net.members["a"].start()
    net.members["b"].fill([1], term=5)
    net.members["b"].start()
    net.cut("b", "c")
    net.members["c"].engine.elections_enabled = net.members["b"].engine.elections_enabled = False
    net.elapse(10)

    assert (["a"], True) == (net.leaders(), net["a"].vote.leader.term > 5)

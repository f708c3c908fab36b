from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.messages import AppendEntries, AppendReply, RequestVote, VoteReply
from raftcore.types import NO_LOG, NO_VOTE, LeaderId, Vote


@pytest.mark.parametrize(
    ("mine", "asked", "granted"),
    [
        ((0, ""), (1, "b"), True),
        ((1, ""), (1, "b"), True),
        ((1, "b"), (1, "b"), True),
        ((1, "c"), (1, "b"), False),
        ((1, "c"), (2, "b"), True),
        ((3, ""), (2, "b"), False),
    ],
)
def test_one_vote_a_term(solo, mine, asked, granted):
    """The first who asks gets it, and gets it again when the answer was lost (§5.2)."""
    member = solo(check_quorum=False)
    member.disk.vote = Vote(LeaderId(*mine), False)
    member.start()
    request = Vote(LeaderId(*asked), False)
    member.receive("b", RequestVote(request, NO_LOG))
    vote = member.engine.vote

    assert [("b", VoteReply(vote, request, granted))] == member.take_sent()
    assert (request if granted else Vote(LeaderId(*max(mine, asked[:1])), False)) == vote or not granted


@pytest.mark.parametrize(
    ("terms", "last", "granted"),
    [
        ([1], (1, 1), True),
        ([1], (1, 2), True),
        ([1], (2, 1), True),
        ([1], (2, 2), True),
        ([1, 1], (1, 1), False),
        ([1, 1], (1, 2), True),
        ([1, 1], (2, 1), True),
        ([2], (1, 1), False),
        ([2], (1, 2), False),
        ([2], (2, 1), True),
        ([1, 2], (2, 1), False),
        ([1, 2], (1, 9), False),
    ],
)
@pytest.mark.parametrize("pre", [False, True])
def test_only_a_log_that_is_new_enough_gets_a_vote(solo, at, vote, terms, last, granted, pre):
    """The later term of the last entry wins, then the longer log (§5.4.1); a pre-vote asks the same."""
    member = solo(terms=terms, term=3, check_quorum=False)
    asked = vote(4, "b", False)
    member.receive("b", RequestVote(asked, at(*last), pre))
    ((to, reply),) = member.take_sent()

    assert ("b", asked, granted, pre) == (to, reply.request, reply.granted, reply.pre)


def test_a_refusal_takes_over_the_later_term_but_casts_no_vote(solo, vote, at):
    """So a member that can't win still moves the others on, and they remain free to vote for somebody else."""
    member = solo(terms=[1, 1], check_quorum=False)
    member.receive("b", RequestVote(vote(7, "b", False), at(1, 1)))

    assert Vote(LeaderId(7, ""), False) == member.engine.vote

    member.receive("c", RequestVote(vote(7, "c", False), at(1, 2)))

    assert vote(7, "c", False) == member.engine.vote


def test_a_vote_leaves_when_it_is_durable(solo, vote):
    """Not before: a crash would forget it, and the node could vote again in the same term."""
    member = solo(auto=False)
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))

    assert [] == member.take_sent()

    member.begin_write()
    member.drain()

    assert [] == member.take_sent()

    member.finish_write()
    member.drain()

    assert [("b", VoteReply(vote(1, "b", False), vote(1, "b", False), True))] == member.take_sent()
    assert vote(1, "b", False) == member.disk.vote


def test_a_vote_for_which_a_later_one_was_given_meanwhile_never_leaves(solo, vote):
    """It was waiting for the disk when another candidate came with a later term."""
    member = solo(auto=False)
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))
    member.begin_write()
    member.receive("c", RequestVote(vote(2, "c", False), NO_LOG))
    member.flush()

    assert ["c"] == [to for to, reply in member.take_sent(VoteReply) if reply.granted]


@pytest.mark.parametrize("known", [0, 1])
def test_a_vote_survives_a_restart(solo, vote, known):
    """Whom it was given to as well as the term, also when that term was known before."""
    member = solo(check_quorum=False, term=known)
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))
    member.start()
    member.receive("c", RequestVote(vote(1, "c", False), NO_LOG))
    ((_, reply),) = member.take_sent(VoteReply)

    assert (False, vote(1, "b", False)) == (reply.granted, reply.vote)


def test_a_pre_vote_changes_nothing(solo, vote, at):
    """Whether it is granted or refused (thesis 9.6)."""
    member = solo(terms=[1])
    member.clock.now = 50
    before = member.state()
    for last in (at(1, 1), NO_LOG):
        member.receive("b", RequestVote(vote(9, "b", False), last, pre=True))

    assert before == member.state()
    assert [True, False] == [reply.granted for _, reply in member.take_sent(VoteReply)]


def test_pre_votes_are_granted_to_everybody_who_could_win(solo, vote, at):
    """They bind nobody, so two candidates may both be told yes."""
    member = solo(terms=[1])
    member.clock.now = 50
    for sender in "bc":
        member.receive(sender, RequestVote(vote(2, sender, False), at(1, 1), pre=True))

    assert [True, True] == [reply.granted for _, reply in member.take_sent(VoteReply)]


@pytest.mark.parametrize("pre", [False, True])
def test_who_hears_a_leader_refuses(solo, vote, pre):
    """For the lower election timeout; it keeps its term, so who was cut off disturbs nobody (thesis 4.2.3)."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))
    before = member.engine.vote
    member.take_sent()
    member.elapse(0.95)
    request = RequestVote(vote(9, "c", False), NO_LOG, pre)
    member.receive("c", request)

    assert [("c", VoteReply(before, request.vote, False, pre))] == member.take_sent()
    assert before == member.engine.vote

    member.clock.now += 0.06
    member.receive("c", request)

    assert member.take_sent()[0][1].granted


@pytest.mark.parametrize("pre", [False, True])
def test_a_leader_refuses_whoever_campaigns(solo, vote, at, pre):
    """As long as check-quorum keeps it in office: also when its heartbeats are as rare as its patience is short."""
    member = solo(heartbeat_ms=333)
    member.become_leader()
    member.clock.now += 0.999
    before = member.state()
    member.receive("c", RequestVote(vote(9, "c", False), at(9, 9), pre))

    assert before == member.state()
    assert not member.take_sent(VoteReply)[0][1].granted


def test_without_check_quorum_only_the_log_counts(solo, vote, at):
    """A leader steps back for a candidate with a later term and a log as good; a pre-vote it still refuses."""
    member = solo(check_quorum=False)
    member.become_leader()
    member.receive("c", RequestVote(vote(8, "c", False), at(9, 9), pre=True))

    assert Role.LEADER is member.engine.role

    member.receive("c", RequestVote(vote(8, "c", False), at(9, 9)))

    assert (Role.FOLLOWER, vote(8, "c", False)) == (member.engine.role, member.engine.vote)
    assert [False, True] == [reply.granted for _, reply in member.take_sent(VoteReply)]


def test_an_election_that_the_leader_asked_for_waits_for_nobody(solo, vote):
    """The target of a transfer gets the votes at once (thesis 3.10)."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))
    member.take_sent()
    member.receive("c", RequestVote(vote(2, "c", False), NO_LOG, transfer=True))

    assert member.take_sent()[0][1].granted


def test_after_a_restart_a_node_refuses_as_if_it_heard_a_leader(solo, vote):
    """Its answers before the crash may be what a leader's lease rests on."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))
    member.start()
    member.take_sent()
    member.elapse(0.5)
    member.receive("c", RequestVote(vote(2, "c", False), NO_LOG))

    assert not member.take_sent()[0][1].granted


def test_a_node_that_never_promised_anything_votes_at_once(solo, vote):
    """A new cluster needs not wait."""
    member = solo()
    member.receive("c", RequestVote(vote(1, "c", False), NO_LOG))

    assert member.take_sent()[0][1].granted


def test_a_learner_votes_when_it_is_asked(solo, vote):
    """It may have become a voter by a change that has not reached it; the candidate knows whom to count."""
    member = solo("x", learners="x")
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))

    assert member.take_sent()[0][1].granted


def test_a_candidate_grants_nobody_else_in_its_term(solo, vote, at):
    """It has voted for itself."""
    member = solo(pre_vote=False, check_quorum=False)
    member.elapse(2.1)
    member.take_sent()
    member.receive("b", RequestVote(vote(1, "b", False), at(9, 9)))

    assert not member.take_sent()[0][1].granted
    assert Role.CANDIDATE is member.engine.role


def test_a_pre_candidate_gives_way_to_a_candidate(solo, vote):
    """It has promised nothing yet."""
    member = solo()
    member.elapse(2.1)
    assert Role.PRE_CANDIDATE is member.engine.role
    member.take_sent()
    member.receive("b", RequestVote(vote(1, "b", False), NO_LOG))

    assert (Role.FOLLOWER, None) == (member.engine.role, member.engine.candidacy)
    assert member.take_sent()[0][1].granted


def test_a_pre_candidate_follows_a_leader_that_speaks_again(solo, vote):
    """Of the term that it knows already; it forgets its own campaign."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))
    member.elapse(2.1)
    assert (Role.PRE_CANDIDATE, None) == (member.engine.role, member.engine.leader)
    member.receive("b", AppendEntries(vote(1), 2, NO_LOG, 0))

    assert (Role.FOLLOWER, "b", None) == (member.engine.role, member.engine.leader, member.engine.candidacy)


def test_a_pre_vote_asks_about_the_next_term_and_raises_nothing(solo, vote):
    """Only when a majority would vote for it does the term go up."""
    member = solo(voters="abcde", terms=[1])
    member.elapse(2.1)
    request = RequestVote(vote(2, "a", False), member.engine.log.last, pre=True)

    assert [(peer, request) for peer in "bcde"] == member.take_sent()
    assert (Role.PRE_CANDIDATE, 1) == (member.engine.role, member.engine.vote.leader.term)

    for voter in "bc":
        member.receive(voter, VoteReply(Vote(LeaderId(1, ""), False), request.vote, True, True))

    assert (Role.CANDIDATE, vote(2, "a", False)) == (member.engine.role, member.engine.vote)
    assert 4 == len(member.take_sent(RequestVote))


def test_a_pre_vote_that_is_lost_ends_the_campaign(solo):
    """And the next one begins a timeout later, in the same term."""
    member = solo()
    member.elapse(2.1)
    asked = member.engine.candidacy.vote
    for voter in "bc":
        member.receive(voter, VoteReply(NO_VOTE, asked, False, True))

    assert (Role.FOLLOWER, NO_VOTE) == (member.engine.role, member.engine.vote)

    member.elapse(2.1)

    assert (Role.PRE_CANDIDATE, NO_VOTE) == (member.engine.role, member.engine.vote)


def test_a_refused_pre_vote_tells_of_a_later_term(solo, vote):
    """Else a member with a good log would ask about a term of the past for ever."""
    member = solo()
    member.elapse(2.1)
    asked = member.engine.candidacy.vote
    member.receive("b", VoteReply(vote(8, "", False), asked, False, True))

    assert vote(8, "", False) == member.engine.vote

    member.elapse(2.1)

    assert 9 == member.engine.candidacy.vote.leader.term


# -- whole clusters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voters", ["abc", "abcde"])
def test_a_member_that_misses_the_leader_deposes_nobody(cluster, voters):
    """One link is cut, that between it and the leader; twenty election timeouts later nothing has changed."""
    net = cluster(voters)
    net.elect("a")
    term = net["a"].vote
    net.cut("a", "c")
    net.elapse(40)

    assert (["a"], term) == (net.leaders(), net["a"].vote)


def test_a_leader_that_reaches_no_quorum_steps_down(cluster):
    """Within two election timeouts, in its own term; the others elect another."""
    net = cluster("abcde")
    net.elect("a")
    term = net["a"].vote.leader.term
    for other in "bcde":
        net.cut("a", other)
    net.elapse(2)

    assert (Role.LEADER is not net["a"].role, term) == (True, term)

    net.elapse(4)
    (leader,) = net.leaders()

    assert leader in "bcde"


def test_a_leader_with_a_quorum_stays(cluster):
    """Two of three are enough, for ever."""
    net = cluster("abc")
    net.elect("a")
    net.isolate("c")
    net.elapse(30)

    assert ["a"] == net.leaders()


def test_a_candidate_with_a_later_term_is_not_stuck(cluster):
    """It refuses the leader, which steps down for it; soon all follow one leader in a later term."""
    net = cluster("abc", pre_vote=False)
    net.elect("a")
    net.isolate("c")
    net.elapse(10)
    assert net["c"].vote.leader.term > net["a"].vote.leader.term + 1
    net.heal()
    net.elapse(10)
    (leader,) = net.leaders()

    assert {(leader, net["c"].vote.leader.term)} == {(net[n].leader, net[n].vote.leader.term) for n in "abc"}


@pytest.mark.parametrize("role", ["voter", "learner"])
def test_a_returning_member_with_a_later_term_blocks_nobody(cluster, role):
    """Voter or learner, its log is behind; the cluster comes to rest in a later term."""
    net = cluster("abc" if role == "voter" else "abd", learners="" if role == "voter" else "c")
    net.elect("a")
    net["a"].propose([b"x"])
    net.isolate("c")
    net.elapse(1)
    net.members["c"].disk.vote = Vote(LeaderId(50, ""), False)
    net.restart("c")
    net.heal()
    net.elapse(12)
    (leader,) = net.leaders()

    assert net[leader].vote.leader.term > 50
    assert net[leader].log.last == net["c"].log.last


def test_a_member_with_a_later_term_and_an_old_log_does_not_stop_elections(cluster):
    """Its refusals raise the others' terms, so that one of them is elected (pre-vote on)."""
    net = cluster("abc", logs={"a": [1, 2], "b": [1, 2], "c": [1]})
    net.members["c"].disk.vote = Vote(LeaderId(9, ""), False)
    net.restart("c")
    net.crash("b")
    net.elapse(15)

    assert (["a"], True) == (net.leaders(), net["a"].vote.leader.term > 9)


def test_a_slow_disk_costs_no_leader(cluster):
    """A follower answers heartbeats while its disk stands still for many election timeouts."""
    net = cluster("abc")
    net.elect("a")
    net.members["b"].auto = net.members["c"].auto = False
    net["a"].propose([b"x"])
    net.elapse(10)
    commit = net["a"].commit

    assert (["a"], 1) == (net.leaders(), net["a"].vote.leader.term)

    net.members["b"].flush()
    net.deliver()

    assert commit + 1 == net["a"].commit


def test_an_answer_to_a_leader_of_the_past_counts_nothing(solo):
    """It was sent in an earlier leadership of the same node."""
    member = solo()
    member.become_leader()
    old = member.engine.vote
    member.start()
    member.clock.now += 5
    member.become_leader()
    before = member.engine.commit
    member.receive("b", AppendReply(old, 1, member.engine.log.last.index))

    assert before == member.engine.commit


def test_a_manual_campaign_breaks_no_promise(cluster):
    """Who has answered the leader does not campaign by order either, or the leader's lease would mean nothing."""
    net = cluster("abc")
    net.elect("a")
    net.deliver()
    net.isolate("c")
    net.elapse(5)
    net.heal()
    net.cut("a", "c")
    net["b"].campaign(net.members["b"].now)
    net.deliver()

    assert (["a"], Role.FOLLOWER) == (net.leaders(), net["b"].role)


def test_what_waits_for_a_stalled_disk_is_bounded(solo, vote):
    """Of more answers than are held, the oldest are dropped, as if lost on their way."""
    member = solo("a", terms=[1], by="b")
    request = RequestVote(vote(2, "c", False), member.engine.log.last, transfer=True)
    for _ in range(5000):
        member.engine.receive("c", request, member.now)
    member.flush()

    assert 4096 == len(member.take_sent(VoteReply))

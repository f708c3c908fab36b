from __future__ import annotations

import pytest

from raftcore.engine import Role
from raftcore.engine.log import NO_END
from raftcore.engine.output import MembershipChanged, ReadReady
from raftcore.errors import MembershipRefused, NotLeader, TransferUnderWay
from raftcore.messages import AppendEntries, AppendReply, RequestVote, TimeoutNow, VoteReply
from raftcore.types import NO_LOG, Entries, EntryKind, LeaderId, NodeInfo
from raftcore.wire import encode_membership


@pytest.fixture(scope="session")
def appoint():
    """Make a membership entry of a term at an index."""

    def make(term, index, membership, by="b"):
        return Entries(LeaderId(term, by), index, EntryKind.MEMBERSHIP, [encode_membership(membership)])

    return make


@pytest.fixture
def leader(solo):
    """Member "a", leading a, b and c in term 1; its blank entry is committed."""
    member = solo()
    member.become_leader()
    for peer in "bc":
        member.receive(peer, AppendReply(member.engine.vote, 0, 1))
    member.take_sent()
    member.events.clear()
    return member


def change(net, leader, voters, learners=""):
    """Begin a change; new members are found at their names."""
    nodes = {node: NodeInfo(f"at-{node}") for node in (*voters, *learners)}
    for node in (*voters, *learners):
        if node not in net.members:
            net.add(node)
    index = net[leader].change_membership(tuple(voters), tuple(learners), nodes)
    net.deliver()
    return index


def acknowledge(member, peers, index=None):
    """Each of them holds everything, or everything up to `index`."""
    for peer in peers:
        if member.engine.leadership is not None:
            member.receive(peer, AppendReply(member.engine.vote, 0, index or member.engine.log.last.index))


# -- beginning a cluster ------------------------------------------------------------------------------------------


def test_every_member_begins_with_the_same_entry(solo, membership):
    """Told of the same members they hold the same log, and elect a leader; told of others they hold another."""
    logs = set()
    for node, voters in (("a", "ab"), ("b", "ab"), ("c", "abc")):
        member = solo(node, voters="")
        member.engine.bootstrap(membership(voters))
        member.drain()
        logs.add(member.engine.log.last)

        assert (1, Role.FOLLOWER) == (member.engine.log.last.index, member.engine.role)
        assert (membership(voters), 1) == (member.engine.membership, member.engine.history.pending_index)

    assert 2 == len(logs)


@pytest.mark.parametrize("known", ["log", "vote", "members"])
def test_a_node_that_belongs_to_a_cluster_begins_no_other(solo, membership, known):
    """Whatever it is that it has seen of it."""
    member = solo(voters="ab" if known == "members" else "", terms=[1] if known == "log" else [], term=1)
    if known == "members":
        member.disk.vote = member.engine.vote._replace(leader=LeaderId(0, ""))
        member.start()

    with pytest.raises(MembershipRefused, match="node a already belongs to a cluster"):
        member.engine.bootstrap(membership("abc"))


def test_a_bootstrapped_cluster_elects_and_commits(cluster, membership):
    """From three empty nodes."""
    net = cluster("abc")
    for member in net.members.values():
        member.initial = None
        member.start()
        member.engine.bootstrap(membership("abc"))
    net.elapse(3)
    (leader,) = net.leaders()

    assert [(2, membership("abc"))] * 3 == [(net[node].commit, net[node].membership) for node in "abc"]
    assert NO_END == net[leader].history.pending_index


# -- joint consensus ----------------------------------------------------------------------------------------------


def test_a_change_of_voters_goes_through_a_joint_configuration(leader, membership):
    """In force at once; the new set alone follows when the joint one is committed, and the change is over with that."""
    index = leader.engine.change_membership(tuple("bcd"), (), {"d": NodeInfo("at-d")})
    leader.drain()

    assert 2 == index
    assert membership("abc", joint_with="bcd") == leader.engine.membership
    assert [MembershipChanged(leader.engine.membership)] == leader.take_events(MembershipChanged)

    acknowledge(leader, "b")

    assert (1, 2) == (leader.engine.commit, leader.engine.log.last.index)

    acknowledge(leader, "d")

    assert (2, 3, membership("bcd")) == (leader.engine.commit, leader.engine.log.last.index, leader.engine.membership)


def test_a_change_of_learners_needs_no_joint_configuration(leader, membership):
    """Nobody's majority changes."""
    leader.engine.change_membership(tuple("abc"), ("x",), {"x": NodeInfo("at-x")})
    leader.drain()

    assert membership("abc", learners="x") == leader.engine.membership

    acknowledge(leader, "b")

    assert (2, 2, NO_END) == (
        *(leader.engine.commit, leader.engine.log.last.index, leader.engine.history.pending_index),
    )


def test_a_voter_can_become_a_learner_and_stays_known(leader, membership):
    """It is both while the configuration is joint, and a learner afterwards."""
    leader.engine.change_membership(tuple("ab"), ("c",), {})
    leader.drain()

    assert (("a", "b", "c"), ("c",)) == (leader.engine.membership.all_voters, leader.engine.membership.learners)

    acknowledge(leader, "b")
    acknowledge(leader, "b")

    assert (membership("ab", learners="c"), 3) == (leader.engine.membership, leader.engine.commit)
    assert ["b", "c"] == sorted(leader.engine.leadership.progress)


def test_who_is_named_twice_is_a_voter(leader, membership):
    """Once, in sorted order."""
    leader.engine.change_membership(("b", "a", "b", "c"), ("c", "x", "x"), {"x": NodeInfo("at-x")})

    assert membership("abc", learners="x") == leader.engine.membership


@pytest.mark.parametrize(
    ("voters", "learners", "reason"),
    [
        ("", "", "a cluster needs at least one voter"),
        ("abcz", "", "node 'z' is not a member and has no address"),
        ("abc", "z", "node 'z' is not a member and has no address"),
        ("abc", "", r"the members are already voters \['a', 'b', 'c'\] and learners \[\]"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(leader, voters, learners, reason):
    """And the log stays as it is."""
    before = leader.state()

    with pytest.raises(MembershipRefused, match=reason):
        leader.engine.change_membership(tuple(voters), tuple(learners), {})
    assert before == leader.state()


def test_only_a_leader_changes_members(solo, vote):
    """A follower says whom to ask."""
    member = solo()

    with pytest.raises(NotLeader, match="ask again when there is a leader"):
        member.engine.change_membership(("a",), (), {})

    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0))

    with pytest.raises(NotLeader, match="node a does not lead; ask b"):
        member.engine.change_membership(("a",), (), {})


def test_a_leader_that_hands_over_changes_no_members(leader):
    """Its successor may."""
    leader.engine.transfer_leadership("b", leader.now)

    with pytest.raises(TransferUnderWay, match="handed to b; ask it"):
        leader.engine.change_membership(("a", "b"), (), {})


def test_a_new_leader_changes_nothing_before_an_entry_of_its_own_term_is_committed(solo):
    """Else two leaders could each go on from a configuration that the other does not know."""
    member = solo()
    member.become_leader()

    with pytest.raises(MembershipRefused, match="has not committed an entry of its own term"):
        member.engine.change_membership(("a", "b"), (), {})


@pytest.mark.parametrize("phase", ["joint", "new set"])
def test_one_change_at_a_time(leader, phase):
    """The one before must be committed to its end."""
    leader.engine.change_membership(("a", "b"), (), {})
    leader.drain()
    if phase == "new set":
        acknowledge(leader, "b")
        assert not leader.engine.membership.is_joint

    with pytest.raises(MembershipRefused, match="another change of membership is under way"):
        leader.engine.change_membership(tuple("abc"), (), {})


def test_a_joint_configuration_is_left_once(cluster):
    """Whatever is proposed meanwhile: exactly two membership entries a change."""
    net = cluster("a")
    net.elect("a")
    for voters in ("abc", "a"):
        net.drops = lambda sender, to, message: isinstance(message, AppendReply)
        change(net, "a", voters)
        for _ in range(3):
            net["a"].propose([b"x"])
            net.deliver()
        net.heal()
        net.elapse(0.5)
        net["a"].propose([b"y"])
        net.deliver()
        net.elapse(0.5)
    kinds = [entry.kind for entry in net.members["a"].disk.entries]

    assert (4, ("a",)) == (kinds.count(EntryKind.MEMBERSHIP), net["a"].membership.all_voters)
    assert net["a"].commit == net["a"].log.last.index


def test_a_joint_configuration_is_left_once_also_while_others_are_committed_behind_it(leader):
    """Entries that follow the joint one become committed, one by one, before the new set is."""
    leader.engine.change_membership(("a", "b"), (), {})
    for _ in range(3):
        leader.engine.propose([b"x"])
        leader.drain()
    lasts = []
    for index in (2, 3, 4, 5):
        acknowledge(leader, "b", index)
        lasts.append((leader.engine.commit, leader.engine.log.last.index))

    assert [(2, 6), (3, 6), (4, 6), (5, 6)] == lasts

    acknowledge(leader, "b")

    assert (6, 6, NO_END) == (
        *(leader.engine.commit, leader.engine.log.last.index, leader.engine.history.pending_index),
    )


def test_a_candidate_needs_both_sets(solo, membership, appoint, vote):
    """As soon as the joint entry is in its log, committed or not."""
    member = solo(pre_vote=False, check_quorum=False)
    joint = membership("abc", joint_with="ade")
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 0, (appoint(1, 1, joint),)))
    member.elapse(2.1)
    assert Role.CANDIDATE is member.engine.role

    assert ["b", "c", "d", "e"] == [to for to, _ in member.take_sent(RequestVote)]

    asked = member.engine.candidacy.vote
    for voter in "bc":
        member.receive(voter, VoteReply(asked, asked, True))

    assert Role.CANDIDATE is member.engine.role

    member.receive("e", VoteReply(asked, asked, True))

    assert Role.LEADER is member.engine.role


def test_a_new_leader_finishes_a_joint_configuration_left_behind(cluster):
    """The old one died right after the joint entry had spread."""
    net = cluster("abc")
    net.elect("a")
    net.drops = lambda sender, to, message: isinstance(message, AppendReply)
    change(net, "a", "bcd")
    assert net["b"].membership.is_joint
    net.crash("a")
    net.heal()
    net.elect("b")
    net.elapse(0.5)

    assert {("b", "c", "d")} == {net[node].membership.all_voters for node in "bcd"}
    assert {(False, NO_END)} == {(net[n].membership.is_joint, net[n].history.pending_index) for n in "bcd"}


def test_a_new_leader_finishes_a_joint_configuration_that_it_knows_to_be_committed(solo, membership, appoint, vote):
    """It takes its own first entry to be committed before the new set may follow."""
    joint = membership("abc", joint_with="abd")
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 1, (appoint(1, 1, joint),)))
    assert (1, NO_END) == (member.engine.commit, member.engine.history.pending_index)
    member.become_leader()
    assert 2 == member.engine.log.last.index
    acknowledge(member, "b")

    assert (2, membership("abd")) == (member.engine.commit, member.engine.membership)


def test_majorities_of_both_sets_can_always_elect(cluster):
    """One of each set is down, and not all others have the newest configuration: what is in the log counts."""
    net = cluster("abc")
    net.elect("a")
    net.drops = lambda sender, to, message: to == "c" and isinstance(message, AppendEntries)
    change(net, "a", "ade")
    net.heal()
    net.crash("c")
    net.crash("e")
    net.crash("a")
    net.restart("a")
    net.elapse(20)

    assert 1 == len(net.leaders())


# -- truncation, and what is derived from the log -----------------------------------------------------------------


def test_truncating_two_configurations_at_once_brings_back_the_one_before(solo, membership, appoint, run, vote, at):
    """Also after a restart in between: what is in force comes from the log, not from a remembered predecessor."""
    joint, later = membership("abc", joint_with="bcd"), membership("bcd")
    member = solo(terms=[1], commit=1)
    entries = (appoint(2, 2, joint), run(2, 3), appoint(2, 4, later))
    member.receive("b", AppendEntries(vote(2), 1, at(1, 1), 1, entries))

    assert (later, Role.FOLLOWER, 2) == (
        *(member.engine.membership, member.engine.role, member.engine.history.pending_index),
    )

    for restart in (False, True):
        if restart:
            member.start()
        assert later == member.engine.membership

    member.receive("c", AppendEntries(vote(3, "c"), 1, at(1, 1), 1, (run(3, 2, by="c"),)))

    assert (membership("abc"), Role.FOLLOWER, NO_END) == (
        *(member.engine.membership, member.engine.role, member.engine.history.pending_index),
    )


def test_truncating_the_later_of_two_configurations_leaves_the_earlier(solo, membership, appoint, run, vote, at):
    """The joint one is in force again, and pending."""
    joint = membership("abc", joint_with="abd")
    member = solo()
    entries = (appoint(2, 1, joint), appoint(2, 2, membership("abd")))
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 0, entries))
    member.receive("c", AppendEntries(vote(3, "c"), 1, at(2, 1), 0, (run(3, 2, by="c"),)))

    assert (joint, 1) == (member.engine.membership, member.engine.history.pending_index)


def test_truncation_of_other_entries_leaves_the_membership(solo, membership, appoint, run, vote, at):
    """And tells nobody that it changed."""
    member = solo()
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 0, (appoint(2, 1, membership("ab")), run(2, 2, 3))))
    member.events.clear()
    member.receive("c", AppendEntries(vote(3, "c"), 1, at(2, 1), 0, (run(3, 2, by="c"),)))

    assert membership("ab") == member.engine.membership
    assert [] == member.take_events(MembershipChanged)


def test_history_knows_the_addresses_of_everybody_who_is_or_may_be_a_member(solo, membership, appoint, vote):
    """Of the committed configuration and of those behind it."""
    member = solo()
    member.receive("b", AppendEntries(vote(2), 1, NO_LOG, 0, (appoint(2, 1, membership("bcd")),)))

    assert {node: NodeInfo(f"at-{node}") for node in "abcd"} == member.engine.history.nodes()
    assert member.engine.log.last == member.engine.history.effective_id


# -- leaving ------------------------------------------------------------------------------------------------------


def test_a_removed_leader_does_not_count_itself(solo):
    """Of b, c, d two must have the entry that removes it, and everything that it appends until then."""
    member = solo(voters="abcd")
    member.become_leader()
    acknowledge(member, "bcd", 1)
    member.engine.change_membership(tuple("bcd"), (), {})
    member.drain()
    acknowledge(member, "bc")
    assert (2, 3, False) == (*(member.engine.commit, member.engine.log.last.index, member.engine.membership.is_joint),)
    acknowledge(member, "b")

    assert (2, Role.LEADER) == (member.engine.commit, member.engine.role)

    acknowledge(member, "c")

    assert (3, Role.LEARNER) == (member.engine.commit, member.engine.role)


@pytest.fixture
def leaving(solo):
    """Member "a" leads and is out: the new set, b, c and d, is in its log and not committed."""
    member = solo(voters="abcd")
    member.become_leader()
    acknowledge(member, "bcd", 1)
    member.engine.change_membership(tuple("bcd"), (), {})
    member.drain()
    acknowledge(member, "bcd", 2)
    assert (2, 3, tuple("bcd")) == (
        *(member.engine.commit, member.engine.log.last.index, member.engine.membership.all_voters),
    )
    member.events.clear()
    return member


def test_a_removed_leader_confirms_no_read_by_its_own_answer(leaving):
    """Of b, c, d two must answer."""
    leaving.engine.read(1, lease=False, now=leaving.now)
    leaving.drain()
    number = leaving.engine.leadership.round
    leaving.receive("b", AppendReply(leaving.engine.vote, number, 2))

    assert [] == [event for event in leaving.events if isinstance(event, ReadReady)]

    leaving.receive("c", AppendReply(leaving.engine.vote, number, 2))

    assert [ReadReady([1], 2)] == leaving.take_events(ReadReady)


def test_a_removed_leader_does_not_count_as_in_touch_with_itself(leaving):
    """Only b still answers: there is no lease any more, and after an election timeout no leader."""
    ready, over = [], leaving.now + leaving.engine.lease
    while leaving.now < over + 2:
        leaving.elapse(0.1)
        if leaving.engine.leadership is not None:
            leaving.receive("b", AppendReply(leaving.engine.vote, leaving.engine.leadership.round, 2))
        if leaving.engine.leadership is not None and leaving.now > over:
            leaving.engine.read(1, lease=True, now=leaving.now)
            leaving.drain()
            ready += leaving.take_events(ReadReady)

    assert [] == ready
    assert leaving.engine.leadership is None


def test_a_leader_that_is_out_hands_over_and_never_campaigns_again(cluster):
    """At once, so that nobody waits for a timeout."""
    net = cluster("abc")
    net.elect("a")
    before = net.clock.now
    change(net, "a", "bc")

    assert (net["a"].role, before) == (Role.LEARNER, net.clock.now)
    assert 1 == len(net.leaders())

    (leader,) = net.leaders()
    term = net[leader].vote
    net.elapse(10)
    net["a"].campaign(net.members["a"].now)
    net.deliver()

    assert ([leader], term) == (net.leaders(), net[leader].vote)


def test_a_leader_alone_can_not_leave_to_nobody(cluster):
    """It hands the cluster to one other member, which is dead, and keeps trying in the joint configuration."""
    net = cluster("a")
    net.elect("a")
    net.add("b")
    net.crash("b")
    net["a"].change_membership(("b",), (), {"b": NodeInfo("at-b")})
    net.elapse(0.5)

    assert (True, "a") == (net["a"].membership.is_joint, net["a"].leader)

    net.restart("b")
    net.elapse(8)

    assert (["b"], ("b",)) == (net.leaders(), net["b"].membership.all_voters)


def test_who_is_out_stands_by_until_that_is_committed(cluster):
    """The new set, b alone, lacks the entry that says so; a and c have it, and b needs one of their logs."""
    net = cluster("abc")
    net.elect("a")
    net.elapse(0.2)
    net.drops = lambda sender, to, message: to == "b" and getattr(message, "last_index", 0) > 2
    change(net, "a", "b")
    assert [2, 3, 3] == [net[node].log.last.index for node in "bac"]
    net.crash("a")
    net.heal()
    net.elapse(30)

    assert (["b"], ("b",)) == (net.leaders(), net["b"].membership.all_voters)
    assert NO_END == net["b"].history.pending_index


def test_who_is_out_counts_neither_its_own_vote_nor_its_own_log(solo, membership, appoint, vote):
    """When it has to campaign: the new set decides alone."""
    member = solo(terms=[1], commit=1, pre_vote=False)
    member.receive("b", AppendEntries(vote(1), 1, member.engine.log.last, 1, (appoint(1, 2, membership("b")),)))
    member.elapse(3)

    assert (Role.CANDIDATE, ["b"]) == (member.engine.role, [to for to, _ in member.take_sent(RequestVote)][:1])

    asked = member.engine.candidacy.vote
    member.receive("b", VoteReply(asked, asked, True))
    member.drain()

    assert (Role.LEADER, 1) == (member.engine.role, member.engine.commit)

    acknowledge(member, "b")

    assert (Role.LEARNER, 3) == (member.engine.role, member.engine.commit)


def test_a_removed_follower_learns_that_it_is_out(cluster):
    """It gets the entry and the news of its commit, is a learner of nobody from then on, and hears no more."""
    net = cluster("abc")
    net.elect("a")
    change(net, "a", "ab")
    net.elapse(0.2)

    assert (Role.LEARNER, net["a"].commit, NO_END) == (net["c"].role, net["c"].commit, net["c"].history.pending_index)
    assert ["b"] == list(net["a"].leadership.progress)

    net.delivered.clear()
    net.elapse(5)

    assert "c" not in {name for sender, to, _ in net.delivered for name in (sender, to)}


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_removed_follower_that_does_not_know_disturbs_nobody(cluster, pre_vote):
    """It was cut off; its campaigns are refused, and raise nobody's term."""
    net = cluster("abc", pre_vote=pre_vote)
    net.elect("a")
    net.isolate("c")
    change(net, "a", "ab")
    net.elapse(5)
    assert ("a", "b") == net["a"].membership.all_voters
    term = net["a"].vote
    net.heal()
    net.elapse(20)

    assert (["a"], term) == (net.leaders(), net["a"].vote)


def test_a_learner_that_leaves_with_a_change_of_voters_is_told_too(cluster):
    """It is out from the joint entry on, and gets the log until the new set is committed."""
    net = cluster("abc", learners="x")
    net.elect("a")
    change(net, "a", "abd")
    net.elapse(0.2)

    assert net["a"].commit == net["x"].commit == net["c"].commit
    assert ["b", "d"] == sorted(net["a"].leadership.progress)
    assert ["a", "b", "d"] == sorted(net["a"].leadership.match)


def test_fewer_voters_commit_what_waited_for_more(cluster):
    """Two of five are dead; leaving them out needs no answer of theirs."""
    net = cluster("abcde")
    net.elect("a")
    net.crash("d")
    net.crash("e")
    change(net, "a", "abc")
    net.crash("c")
    net["a"].propose([b"x"])
    net.deliver()

    assert net["a"].log.last.index == net["a"].commit


def test_a_single_leader_takes_in_two_others_and_stays(cluster):
    """It was alone for long, so nobody had ever confirmed it; the new voters have the usual time for that."""
    net = cluster("a")
    net.elect("a")
    net.elapse(60)
    term = net["a"].vote
    change(net, "a", "abc")
    net.elapse(3)

    assert (["a"], term) == (net.leaders(), net["a"].vote)
    assert {("a", "b", "c")} == {net[node].membership.all_voters for node in "abc"}


def test_a_promoted_learner_that_has_not_heard_of_it_still_votes(cluster):
    """The other new voter needs its vote when the leader dies."""
    net = cluster("ab", learners="c")
    net.elect("a")
    net.elapse(0.2)
    net.drops = lambda sender, to, message: to == "c" and isinstance(message, AppendEntries) and bool(message.runs)
    net["a"].change_membership(tuple("abc"), (), {})
    net.elapse(0.2)
    net["a"].propose([b"x"])
    net.deliver()
    assert Role.LEARNER is net["c"].role
    net.crash("a")
    net.heal()
    net.elect("b")
    net.elapse(0.3)

    assert (Role.FOLLOWER, net["b"].log.last) == (net["c"].role, net["c"].log.last)


# -- incarnations -------------------------------------------------------------------------------------------------


def test_the_disk_that_a_member_showed_first_is_written_down(leader):
    """Once; what is known already is not changed, strangers are not added."""
    leader.engine.learn_incarnations({"b": "disk-1", "z": "disk-9"})
    leader.drain()
    acknowledge(leader, "b")
    leader.engine.learn_incarnations({"b": "disk-2"})
    leader.drain()

    assert NodeInfo("at-b", "disk-1") == leader.engine.membership.nodes["b"]
    assert (["a", "b", "c"], 2) == (sorted(leader.engine.membership.nodes), leader.engine.log.last.index)


def test_writing_down_a_disk_leaves_everything_else_as_it_is(solo, membership):
    """Learners stay learners, and voters voters."""
    member = solo(learners="x")
    member.become_leader()
    acknowledge(member, "bc")
    member.engine.learn_incarnations({"b": "disk-1", "x": "disk-2"})
    known = membership("abc", learners="x")
    nodes = {**known.nodes, "b": NodeInfo("at-b", "disk-1"), "x": NodeInfo("at-x", "disk-2")}

    assert (known.voters, known.learners, nodes) == (
        *(member.engine.membership.voters, member.engine.membership.learners, member.engine.membership.nodes),
    )


@pytest.mark.parametrize("reason", ["follower", "own term", "pending", "transfer", "joint"])
def test_incarnations_wait_while_no_change_is_possible(solo, leader, reason):
    """Nothing is appended; the node says it again later."""
    member = leader
    if reason == "follower":
        member = solo()
    elif reason == "own term":
        member = solo()
        member.become_leader()
    elif reason == "pending":
        member.engine.learn_incarnations({"b": "disk-1"})
    elif reason == "joint":
        member.engine.change_membership(("a", "b"), (), {})
    else:
        member.engine.transfer_leadership("b", member.now)
    member.drain()
    before = member.engine.log.last
    member.engine.learn_incarnations({"c": "disk-1"})

    assert before == member.engine.log.last


# -- the three cases of the 2015 flaw -----------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("abcdx", "abcdy"), ("abc", "bcd"), ("abcdx", "abc")])
def test_two_leaders_never_go_on_from_different_uncommitted_changes(cluster, first, second):
    """Add and add, remove and remove, add and remove: a change that did not spread, then another leader's."""
    net = cluster("abcd")
    net.elect("a")
    net.isolate("a")
    change(net, "a", first)
    net.isolate("a")
    net.elapse(8)
    (other,) = [node for node in net.leaders() if node != "a"]
    change(net, other, second)
    net.isolate("a")
    net.elapse(1)
    committed = net[other].commit
    ids = [net[other].log.id_at(index) for index in range(1, committed + 1)]
    net.heal()
    for node in net.members:
        if node != "a":
            net.cut("a", node)
    net.cuts -= {frozenset(("a", node)) for node in ("x", "b")}
    net.elapse(10)
    net.heal()
    net.elapse(10)

    assert 1 == len(net.leaders())
    assert ids == [net[net.leaders()[0]].log.id_at(index) for index in range(1, committed + 1)]
    assert tuple(second) == net[net.leaders()[0]].membership.all_voters


def test_an_order_to_campaign_to_who_is_out_means_nothing(solo, membership, appoint, vote):
    """A removed member and a learner can't be made leader by a leader that does not know it yet."""
    member = solo()
    member.receive("b", AppendEntries(vote(1), 1, NO_LOG, 1, (appoint(1, 1, membership("bc", learners="a")),)))
    assert Role.LEARNER is member.engine.role
    member.take_sent()
    before = member.state()
    member.receive("b", TimeoutNow(vote(1), 5))

    assert before == member.state()

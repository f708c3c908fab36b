"""Members come and go through the node's own calls."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from raftcore.engine.output import MembershipChanged
from raftcore.errors import ConfigError, MembershipRefused, NotAppended, PeerRefused, WaitTimeout
from raftcore.messages import AppendEntries, AppendReply, Hello, RequestVote, SnapshotChunk, VoteReply
from raftcore.types import LeaderId, LogId, Membership, NodeInfo, Vote


@pytest.mark.parametrize("asked", ["n1", "n2"])
def test_a_learner_joins_by_the_log_and_is_promoted(run, cluster, asked):
    """Asked on the leader or elsewhere; the new member holds what was written before it came."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"x")
            await c.start("n4", members={})
            await c[asked].node.add_learner("n4", "address-4")
            await c["n4"].node.wait_for(lambda status: status.learners == ["n4"])
            await c[asked].node.change_membership(["n1", "n2", "n3", "n4"])
            status = await c["n4"].node.wait_for(lambda status: status.role == "follower")
            await c["n4"].node.read()

            assert [["n1", "n2", "n3", "n4"]] == status.voters
            assert [b"x"] == c["n4"].machine.kept
            assert [] == c["n1"].wire.of_kind(SnapshotChunk)

    run(main)


def test_a_learner_joins_by_a_snapshot(run, cluster, eventually):
    """What the log no longer holds comes from the snapshot, the rest from the log."""

    async def main():
        async with cluster(policy={"trailing_entries": 0}) as c:
            for payload in (b"1", b"2"):
                await c["n1"].node.propose(payload)
            await c["n1"].node.trigger.snapshot()
            await c["n1"].node.propose(b"3")
            await c.start("n4", members={})
            await c["n1"].node.add_learner("n4", "address-4")
            await c["n4"].node.read()

            assert [b"1", b"2", b"3"] == c["n4"].machine.kept
            assert 1 == len(c["n4"].machine.restored)

    run(main)


def test_a_voter_is_removed_and_no_longer_counts(run, cluster):
    """The two that remain go on without it, and it does not disturb them."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.change_membership(["n1", "n2"])
            status = await c["n3"].node.wait_for(lambda status: status.voters == [["n1", "n2"]])
            await c["n3"].node.close()

            assert "learner" == status.role
            assert b"x!" == await c["n1"].node.propose(b"x")
            assert ["n1", "n2"] == sorted(c["n1"].node.status().nodes)

    run(main)


def test_a_leader_that_removes_itself_hands_over(run, cluster):
    """The call returns, somebody else leads, and what was proposed is not lost."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"x")
            await c["n1"].node.change_membership(["n2", "n3"])
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"))

            assert "leader" != c["n1"].node.status().role
            assert b"y!" == await c["n2"].node.propose(b"y")
            assert [b"x", b"y"] == await c["n2"].node.query(lambda machine: machine.kept)

    run(main)


def test_a_member_can_not_be_added_twice(run, cluster):
    """On the leader it is seen at once, on a follower that does not know yet by the leader."""

    async def main():
        async with cluster() as c:
            with pytest.raises(MembershipRefused, match="node 'n2' is a member already, at address-2; remove it first"):
                await c["n1"].node.add_learner("n2", "address-9")

    run(main)


def test_learners_added_through_a_follower_with_an_old_view_do_not_drop_others(run, cluster):
    """The follower has not heard of n4 yet when it asks for n5."""

    async def main():
        async with cluster() as c:
            c.hub.cut("n1", "n2")
            await c["n1"].node.add_learner("n4", "address-4", wait=False)
            held_back = c["n2"].node.status().learners
            asked = asyncio.ensure_future(c["n2"].node.add_learner("n5", "address-5", wait=False))
            await asyncio.sleep(0)
            c.hub.heal()
            await asked

            assert [] == held_back
            assert ["n4", "n5"] == c["n1"].node.status().learners

    run(main)


def test_waiting_for_a_member_that_never_comes_ends(run, cluster):
    """It names the member and the entry; on a node that does not lead there is nothing to wait for."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.add_learner("n4", "address-4", wait=False)
            with pytest.raises(WaitTimeout, match=r"that member n4 has caught up to entry \d+ did not come true"):
                await c["n1"].node.caught_up("n4", 0.02)
            await c["n2"].node.caught_up("n4", 0.02)

    run(main)


def test_a_second_change_is_refused_while_one_is_under_way(run, cluster):
    """It was not done and may be asked for again."""

    async def main():
        async with cluster() as c:
            first = asyncio.ensure_future(c["n1"].node.change_membership(["n1", "n2"], ["n3"]))
            await asyncio.sleep(0)
            with pytest.raises(MembershipRefused, match="another change of membership is under way"):
                await c["n1"].node.change_membership(["n1", "n3"], ["n2"])
            await first

            assert (["n1", "n2"], ["n3"]) == (c["n1"].node.status().voters[0], c["n1"].node.status().learners)

    run(main)


def test_leadership_is_handed_to_whom_it_was_asked_for(run, cluster):
    """Named or not; to itself, to a stranger or while one is under way it is refused."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.transfer_leadership("n3")
            await c["n3"].node.wait_for(lambda status: status.role == "leader")
            with pytest.raises(MembershipRefused, match="'n3' is not another voter"):
                await c["n3"].node.transfer_leadership("n3")
            first = asyncio.ensure_future(c["n3"].node.transfer_leadership())
            await asyncio.sleep(0)
            with pytest.raises(NotAppended, match="leadership is already being handed to"):
                await c["n3"].node.transfer_leadership()
            await first
            leader = await c.leader()

            assert "n3" != leader.id

    run(main)


@pytest.mark.parametrize("asked", ["n1", "n3"])
def test_a_transfer_to_a_member_that_does_not_answer_ends(run, cluster, asked):
    """The leader goes on leading, and whoever asked hears it, also through another member."""

    async def main():
        async with cluster() as c:
            c["n1"].wire.drop = lambda peer, message: peer == "n2" and not isinstance(message, AppendEntries)
            with pytest.raises(
                WaitTimeout, match=r"n2 did not take over leadership within 0.15 s; node n1 goes on leading"
            ):
                await c[asked].node.transfer_leadership("n2")

            assert "leader" == c["n1"].node.status().role

    run(main)


def test_a_single_voter_has_nobody_to_hand_over_to(run, cluster):
    """The refusal says so; closing it needs no transfer."""

    async def main():
        async with cluster(1) as c:
            with pytest.raises(MembershipRefused, match="there is no other voter to hand leadership to"):
                await c["n1"].node.transfer_leadership()

    run(main)


def test_a_wiped_member_is_refused_until_it_is_removed_and_added_anew(run, cluster, eventually):
    """It has forgotten what it promised; with a new place in the cluster it may begin again."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"x")
            await c["n1"].node.wait_for(lambda status: all(info.incarnation for info in status.nodes.values()))
            await c["n3"].node.close()
            await c.start("n3", pristine=True)
            await eventually(lambda: c["n1"].witness.details("peer_refused"))
            reason = c["n1"].witness.details("peer_refused")[0]["reason"]
            await c["n3"].node.close(transfer=False)
            await c["n1"].node.change_membership(["n1", "n2"])
            await c["n1"].node.add_learner("n3", "address-3", wait=False)
            await c.start("n3", members={})
            await c["n1"].node.caught_up("n3")
            await c["n1"].node.change_membership(["n1", "n2", "n3"])
            await c["n3"].node.read()

            assert "node 'n3' has come back with another disk (incarnation" in reason
            assert reason.endswith("remove it from the cluster and add it anew")
            assert [b"x"] == c["n3"].machine.kept

    run(main)


def test_a_member_that_is_wiped_before_its_disk_is_written_down_is_refused_too(run, cluster, eventually):
    """Nobody leads yet; whoever has seen the first disk does not believe the second."""

    async def main():
        async with cluster(0) as c:
            c.members = {f"n{number}": f"address-{number}" for number in (1, 2, 3)}
            for name in ("n1", "n3"):
                c.node(name)
                await c[name].node.start()
                c[name].node.runtime.election(False)
            await eventually(lambda: c["n1"].witness.details("peer_up"))
            await c["n3"].node.close()
            await c.start("n3", pristine=True)
            await eventually(lambda: c["n1"].witness.details("peer_refused"))
            reason = c["n1"].witness.details("peer_refused")[0]["reason"]

            assert {""} == {info.incarnation for info in c["n1"].node.status().nodes.values()}
            assert "node 'n3' has come back with another disk (incarnation" in reason

    run(main)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello("other", "n9", "i", "a", (1, 1)), "node 'n9' belongs to cluster 'other', this node .n1. to 'test'"),
        (Hello("test", "n1", "i", "a", (1, 1)), "another process at a calls itself 'n1' too"),
        (
            Hello("test", "n9", "i", "a", (1, 1), "node"),
            "node 'n9' has raft.vote_order = 'node', this node .n1. 'standard'",
        ),
        (Hello("test", "n9", "i", "a", (2, 3)), r"node 'n9' speaks versions 2..3 of the protocol, this node .n1. 1..1"),
    ],
)
def test_strangers_are_refused_with_the_reason(run, cluster, hello, reason):
    """Wrong cluster, taken name, no common version, another order of votes."""

    async def main():
        async with cluster(1) as c:
            with pytest.raises(PeerRefused, match=reason):
                c["n1"].node.member.admit(hello)

            assert [hello.node] == [detail["peer"] for detail in c["n1"].witness.details("peer_refused")]

    run(main)


def test_a_cluster_begins_only_once(run, cluster):
    """`bootstrap` on a member of a cluster, or with members that this node is none of, is refused."""

    async def main():
        async with cluster() as c:
            with pytest.raises(MembershipRefused, match="node n1 already belongs to a cluster"):
                await c["n1"].node.bootstrap(c.members)
            with pytest.raises(MembershipRefused, match=r"node 'n1' is not among the members \['n8'\]"):
                await c["n1"].node.bootstrap({"n8": "address-8"})

    run(main)


def test_a_second_node_of_the_same_name_is_refused_at_its_start(run, cluster):
    """And lets go of everything that it had opened."""

    async def main():
        async with cluster(1) as c:
            first = c.places.pop("n1")
            with pytest.raises(ConfigError, match="node 'n1' is on this hub already"):
                await c.start("n1", pristine=True)
            second = c["n1"]
            await second.node.close()
            c.places["first"] = first

            assert [["close"], ["open", "close"], ["close"]] == [
                second.log.calls,
                second.machine.calls,
                second.sink.calls,
            ]

    run(main)


def test_a_change_that_is_based_on_older_members_is_refused(run, cluster) -> None:
    """Two operators who each promote a learner, by lists that were right when they were read, leave nobody out."""

    async def main():
        async with cluster(3) as c:
            n1 = c["n1"].node
            for name in ("n4", "n5"):
                await c.start(name, members={})
                await n1.add_learner(name, f"address-{name[1:]}")
            seen = n1.status()
            voters = seen.voters[-1]
            await n1.change_membership([*voters, "n4"], based_on=seen.membership_index)
            with pytest.raises(MembershipRefused, match=r"the members have changed since they were looked at"):
                await c["n2"].node.change_membership([*voters, "n5"], based_on=seen.membership_index)

            assert ["n1", "n2", "n3", "n4"] == n1.status().voters[-1]
            assert "n5" in n1.status().learners

    run(main)


def test_who_does_not_lead_hears_a_member_with_another_disk_out_but_does_not_count_it(run, cluster):
    """It may have been removed and added anew without this node's knowing, and lead by now. Its votes and
    acknowledgements are dropped until the membership here says that this is its disk."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.wait_for(lambda status: all(info.incarnation for info in status.nodes.values()))
            await c["n2"].node.wait_for(lambda status: all(info.incarnation for info in status.nodes.values()))
            follower = c["n2"].node.member
            leader_vote, refused = follower.engine.vote, follower.refused_messages
            other = msgspec.structs.replace(c["n3"].node.member.hello, incarnation="another disk")
            with pytest.raises(PeerRefused, match="has come back with another disk"):
                c["n1"].node.member.admit(other)
            follower.admit(other)

            assert ["n3"] == [detail["peer"] for detail in c["n2"].witness.details("peer_refused")]
            for message in (
                RequestVote(Vote(LeaderId(99, "n3"), False), LogId(LeaderId(99, "n3"), 99)),
                VoteReply(Vote(LeaderId(99, "n3"), False), Vote(LeaderId(99, "n2"), False), granted=True),
                AppendReply(Vote(LeaderId(99, "n3"), True), 1, 99),
            ):
                follower.deliver("n3", message)
            await follower.until(lambda: follower.refused_messages == refused + 3)
            assert leader_vote == follower.engine.vote

            entry = Membership(
                (("n1", "n2", "n3"),), (), {**follower.engine.membership.nodes, "n3": NodeInfo("a", "another disk")}
            )
            follower._membership_changed(MembershipChanged(entry))
            assert {"n3": "another disk"} == follower._doubted  # what counts is what is in force
            follower.engine.membership = entry
            follower._membership_changed(MembershipChanged(entry))
            assert {} == follower._doubted

    run(main)

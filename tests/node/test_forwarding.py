"""Commands on a member that does not lead: passed on, held, refused, lost."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from raftcore.errors import (
    MembershipRefused,
    NodeStopped,
    NotAppended,
    NotLeader,
    OutcomeUnknown,
    PayloadTooLarge,
    WaitTimeout,
)
from raftcore.messages import Forward, ForwardReply
from raftcore.types import NO_VOTE


def test_a_follower_passes_proposals_to_the_leader(run, cluster):
    """Both ways to propose work on any member and give the state machine's answers."""

    async def main():
        async with cluster() as c:
            node = c["n2"].node
            single, many = node.propose(b"1"), node.propose_many([b"2", b"3"])

            assert [b"1!", [b"2!", b"3!"]] == [await single, await many]
            assert [b"1", b"2", b"3"] == c["n1"].machine.kept
            assert 1 == len(c["n2"].wire.of_kind(Forward))

    run(main)


def test_what_is_passed_on_at_once_is_bounded(run, cluster):
    """Proposals of one turn go in several messages, calls of `propose_many` whole; answers come in order."""

    async def main():
        async with cluster(limits={"max_batch_bytes": 30, "max_payload_bytes": 10}) as c:
            node = c["n2"].node
            many = node.propose_many([b"a" * 9, b"b" * 9, b"c" * 9])
            singles = [node.propose(b"%08d" % number) for number in range(9)]
            with pytest.raises(
                PayloadTooLarge, match=r"4 payloads of 36 bytes together are over limits.max_batch_bytes"
            ):
                node.propose_many([b"d" * 9] * 4)

            assert [b"a" * 9 + b"!", b"b" * 9 + b"!", b"c" * 9 + b"!"] == await many
            assert [b"%08d!" % number for number in range(9)] == await asyncio.gather(*singles)
            assert [27, 24, 24, 24] == [sum(map(len, sent.payloads)) for sent in c["n2"].wire.of_kind(Forward)]

    run(main)


def test_a_follower_passes_membership_and_leadership_commands_on(run, cluster):
    """Any member takes them."""

    async def main():
        async with cluster() as c:
            await c["n2"].node.change_membership(["n1", "n2"], ["n3"])
            await c["n2"].node.transfer_leadership("n2")

            assert c["n2"].node is await c.leader()
            assert ["n3"] == c["n2"].node.status().learners

    run(main)


def test_an_error_of_the_leader_reaches_the_caller_on_the_follower(run, cluster):
    """It is of the same class and carries the same words."""

    async def main():
        async with cluster() as c:
            with pytest.raises(MembershipRefused, match="node 'n9' is not a member and has no address"):
                await c["n2"].node.change_membership(["n9"])
            with pytest.raises(MembershipRefused, match="'n9' is not another voter"):
                await c["n2"].node.transfer_leadership("n9")

    run(main)


def test_a_leader_refuses_forwarded_payloads_over_its_own_limit(run, cluster):
    """Limits may differ between members; what the leader refuses was not appended."""

    async def main():
        async with cluster() as c:
            small = msgspec.structs.replace(c.limits, max_payload_bytes=10)
            await c["n1"].node.close()
            await c.leader()
            await c.start("n1", limits=small)
            await c["n1"].node.wait_for(lambda status: status.leader is not None)
            await c["n1"].node.transfer_leadership("n1")
            with pytest.raises(PayloadTooLarge, match=r"is over limits.max_payload_bytes"):
                await c["n2"].node.propose(b"x" * 11)

            assert 0 == c["n2"].node.status().pending_proposals

    run(main)


def test_without_forwarding_a_follower_names_the_leader(run, cluster):
    """The runtime switch makes proposals end as `NotLeader`; the error says who leads."""

    async def main():
        async with cluster() as c:
            c["n2"].node.runtime.forwarding(False)
            with pytest.raises(NotLeader, match="node n2 does not lead; n1 does") as caught:
                await c["n2"].node.propose(b"x")
            c["n2"].node.runtime.forwarding(True)

            assert "n1" == caught.value.leader
            assert b"y!" == await c["n2"].node.propose(b"y")

    run(main)


def test_proposals_are_held_until_somebody_leads(run, cluster):
    """Proposed while nobody leads, served when a leader appears."""

    async def main():
        async with cluster(0) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            held, read = node.propose(b"x"), asyncio.ensure_future(node.read())
            await c.start("n2")

            assert b"x!" == await held
            assert 2 <= await read

    run(main)


def test_a_held_proposal_ends_as_not_appended(run, cluster):
    """When no leader takes it in time it is safe to try again, and the error says so."""

    async def main():
        async with cluster(0, limits={"proposal_timeout_ms": 30}) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            with pytest.raises(NotAppended, match=r"no leader took the proposal within 0.03 s .*; it was not appended"):
                await node.propose(b"x")

            assert 0 == node.status().pending_proposals

    run(main)


def test_a_forwarded_proposal_without_an_answer_ends_as_unknown(run, cluster):
    """The leader may have appended it: its outcome is not known."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 30}) as c:
            c["n1"].wire.drop = lambda peer, message: isinstance(message, ForwardReply)
            with pytest.raises(OutcomeUnknown, match=r"no answer within 0.03 s .*; the proposal may yet be committed"):
                await c["n2"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)

            assert [b"x"] == c["n2"].machine.kept
            assert {} == c["n2"].node.member.forwarding._open
            assert 0 == c["n2"].node.status().pending_proposals

    run(main)


def test_a_late_answer_to_a_forwarded_proposal_is_dropped(run, cluster, eventually):
    """So is one from a node that was not asked."""

    async def main():
        async with cluster() as c:
            c["n1"].wire.drop = lambda peer, message: isinstance(message, ForwardReply)
            waiting = c["n2"].node.propose(b"x")
            await eventually(lambda: c["n1"].wire.of_kind(ForwardReply))
            reply = c["n1"].wire.of_kind(ForwardReply)[0]
            c["n2"].node.member.deliver("n3", reply)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asked_by_a_stranger = waiting.done()
            c["n2"].node.member.deliver("n1", reply)
            c["n2"].node.member.deliver("n1", reply)

            assert not asked_by_a_stranger
            assert b"x!" == await waiting

    run(main)


def test_an_answer_that_does_not_fit_leaves_the_outcome_unknown(run, cluster):
    """A leader that answers fewer commands than it was sent, or with an error of no known class."""

    async def main():
        async with cluster() as c:
            node = c["n2"].node
            c["n1"].wire.alter = lambda m: ForwardReply(m.vote, m.request, []) if isinstance(m, ForwardReply) else m
            with pytest.raises(OutcomeUnknown, match="leader n1 gave an answer that does not fit"):
                await node.propose(b"x")
            for name in ("KeyError", "ReadUnavailable", "errors"):
                c["n1"].wire.alter = lambda m, name=name: (
                    ForwardReply(m.vote, m.request, [], (name, "text")) if isinstance(m, ForwardReply) else m
                )
                with pytest.raises(OutcomeUnknown):
                    await node.propose(b"x")

    run(main)


def test_a_lost_connection_ends_forwarded_commands(run, cluster, eventually):
    """The answers that the leader owed will not come: proposals end at once, and so does a change of members."""

    async def main():
        async with cluster() as c:
            c["n1"].wire.drop = lambda peer, message: isinstance(message, ForwardReply)
            proposal = c["n2"].node.propose(b"x")
            change = asyncio.ensure_future(c["n2"].node.change_membership(["n1", "n2"], ["n3"]))
            await eventually(lambda: len(c["n2"].wire.of_kind(Forward)) == 2)
            await c["n1"].node.close(transfer=False)
            for waiting in (proposal, change):
                with pytest.raises(OutcomeUnknown, match="connection to leader n1 was lost before it answered"):
                    await waiting

    run(main)


def test_proposals_wait_while_the_leader_cannot_be_reached(run, cluster, eventually):
    """After the connection broke nothing is sent into the void: it is held, and served by the next leader."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.close(transfer=False)
            waiting, reading = c["n2"].node.propose(b"x"), asyncio.ensure_future(c["n2"].node.read())

            assert b"x!" == await waiting
            assert 2 <= await reading

    run(main)


def test_held_proposals_go_on_when_the_leader_can_be_reached_again(run, cluster):
    """A connection that comes back is enough; it takes no new leader."""

    async def main():
        async with cluster() as c:
            member = c["n2"].node.member
            member.peer_down("n1", "the cable")
            waiting, reading = c["n2"].node.propose(b"x"), asyncio.ensure_future(c["n2"].node.read())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            held = len(member.proposals.held)
            member.peer_up("n1")

            assert 1 == held
            assert b"x!" == await waiting
            assert 2 <= await reading

    run(main)


def test_a_proposal_refused_by_the_old_leader_goes_to_the_new_one(run, cluster, eventually):
    """The refusal may arrive when the next leader is known already; nobody would call again then."""

    async def main():
        async with cluster() as c:
            refusals = []

            def hold_back(peer, message):
                if isinstance(message, ForwardReply) and message.error is not None:
                    refusals.append(message)
                return isinstance(message, ForwardReply)

            c["n1"].wire.drop = hold_back
            c["n2"].wire.drop = lambda peer, message: isinstance(message, Forward)
            waiting = c["n2"].node.propose(b"x")
            await eventually(lambda: c["n2"].wire.of_kind(Forward))
            await c["n1"].node.transfer_leadership("n3")
            await c["n2"].node.wait_for(lambda status: status.leader == "n3")
            request = c["n2"].wire.of_kind(Forward)[0]
            c["n1"].node.member.deliver("n2", request)
            await eventually(lambda: refusals)
            c["n2"].wire.drop = lambda peer, message: False
            c["n2"].node.member.deliver("n1", refusals[0])

            assert b"x!" == await asyncio.wait_for(waiting, 1)

    run(main)


def test_a_late_refusal_does_not_hide_a_leader_that_leads_again(run, cluster, eventually):
    """n1 refused when it did not lead; it leads again, so proposals go to it."""

    async def main():
        async with cluster() as c:
            c["n2"].wire.drop = lambda peer, message: isinstance(message, Forward)
            waiting = c["n2"].node.propose(b"x")
            await eventually(lambda: c["n2"].wire.of_kind(Forward))
            request = c["n2"].wire.of_kind(Forward)[0]
            await c["n1"].node.transfer_leadership("n3")
            await c["n3"].node.transfer_leadership("n1")
            await c["n2"].node.wait_for(lambda status: status.leader == "n1")
            c["n2"].wire.drop = lambda peer, message: False
            c["n2"].node.member.deliver("n1", ForwardReply(NO_VOTE, request.request, [], ("NotLeader", "not any more")))

            assert b"x!" == await asyncio.wait_for(waiting, 1)
            assert b"y!" == await asyncio.wait_for(c["n2"].node.propose(b"y"), 1)

    run(main)


def test_a_leader_that_is_deposed_leaves_forwarded_outcomes_unknown(run, cluster, eventually):
    """What was in the old leader's log may yet be committed; the follower's caller hears that."""

    async def main():
        async with cluster() as c:
            c.hub.cut("n1", "n3")
            c["n1"].wire.drop = lambda peer, message: not isinstance(message, ForwardReply)
            waiting = c["n2"].node.propose(b"x")
            with pytest.raises(OutcomeUnknown, match="lost leadership before the proposal was committed"):
                await waiting

    run(main)


def test_proposals_during_a_transfer_are_held_and_then_served(run, cluster, eventually):
    """They end up with the new leader, wherever they were proposed."""

    async def main():
        async with cluster() as c:
            transfer = asyncio.ensure_future(c["n1"].node.transfer_leadership("n2"))
            await asyncio.sleep(0)
            at_leader, at_follower = c["n1"].node.propose(b"1"), c["n3"].node.propose(b"2")
            await transfer

            assert [b"1!", b"2!"] == [await at_leader, await at_follower]

    run(main)


def test_proposals_during_a_transfer_that_fails_are_served_by_the_old_leader(run, cluster):
    """The target does not answer; after an election timeout the leader goes on, with what it has held."""

    async def main():
        async with cluster() as c:
            c.hub.cut("n1", "n2")
            c.hub.cut("n2", "n1")
            transfer = asyncio.ensure_future(c["n1"].node.transfer_leadership("n2"))
            await asyncio.sleep(0)
            waiting = c["n1"].node.propose(b"x")

            assert b"x!" == await waiting
            with pytest.raises(WaitTimeout, match="did not take over leadership"):
                await transfer

    run(main)


@pytest.mark.parametrize("kind", ["propose", "read", "change", "transfer", "nonsense"])
@pytest.mark.parametrize("payloads", [[], [b"\xc1"]])
def test_a_malformed_command_from_a_peer_is_refused_and_counted(run, cluster, eventually, kind, payloads):
    """It neither stops the node nor reaches its log."""

    async def main():
        if (kind, payloads) == ("propose", [b"\xc1"]):
            return  # any bytes are a proposal
        async with cluster() as c:
            node = c["n1"].node
            before = node.status()
            node.member.deliver("n2", Forward(NO_VOTE, 7, kind, payloads))
            await eventually(lambda: node.status().refused_messages == before.refused_messages + 1)

            assert b"x!" == await node.propose(b"x")
            assert before.last_index + 1 == node.status().last_index

    run(main)


def test_a_command_with_nobody_leading_was_not_done(run, cluster):
    """It never left this node, so its outcome is known."""

    async def main():
        async with cluster(0, limits={"proposal_timeout_ms": 30}) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            with pytest.raises(NotLeader, match=r"no leader could be reached within 0.03 s"):
                await node.change_membership(["n1"])
            with pytest.raises(NotAppended):
                await node.transfer_leadership()

    run(main)


@pytest.mark.parametrize("asked", ["n1", "n2"])
def test_a_command_that_takes_too_long_has_an_unknown_outcome(run, cluster, asked):
    """On the leader and through a follower; the text names the limit."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 60}, check_quorum=False) as c:
            c["n1"].wire.drop = lambda peer, message: not isinstance(message, ForwardReply)
            with pytest.raises(OutcomeUnknown, match=r"change was not finished within 0.06 s .*; it may yet be"):
                await c[asked].node.change_membership(["n1", "n2"], ["n3"])

    run(main)


def test_a_command_whose_leader_is_deposed_has_an_unknown_outcome(run, cluster):
    """The change is in the old leader's log, the others may or may not hold it."""

    async def main():
        async with cluster() as c:
            c["n1"].wire.drop = lambda peer, message: True
            with pytest.raises(OutcomeUnknown, match="stopped leading before the change of membership was committed"):
                await c["n1"].node.change_membership(["n1", "n2"], ["n3"])

    run(main)


def test_stopping_ends_a_forwarded_command(run, cluster, eventually):
    """Its caller does not wait for an answer that nobody will take."""

    async def main():
        async with cluster() as c:
            c["n2"].wire.drop = lambda peer, message: isinstance(message, Forward)
            change = asyncio.ensure_future(c["n2"].node.change_membership(["n1", "n2"], ["n3"]))
            await eventually(lambda: c["n2"].wire.of_kind(Forward))
            await c["n2"].node.close()
            with pytest.raises(OutcomeUnknown, match="node n2 stopped"):
                await asyncio.wait_for(change, 1)
            with pytest.raises(NodeStopped, match="node n2 is closed"):
                await c["n2"].node.change_membership(["n1", "n2"], ["n3"])

    run(main)


def test_a_request_that_arrives_twice_is_served_once(run, cluster):
    """A network may deliver a message twice; the command in it happens once."""

    async def main():
        async with cluster() as c:
            assert b"1!" == await c["n2"].node.propose(b"1")
            (sent,) = c["n2"].wire.of_kind(Forward)
            c["n1"].node.member.deliver("n2", sent)
            assert b"2!" == await c["n2"].node.propose(b"2")

            assert [b"1", b"2"] == c["n1"].machine.kept

    run(main)


def test_what_is_remembered_of_served_requests_is_bounded(run, cluster, monkeypatch):
    """The oldest is forgotten first, and everything of a member that has left."""
    monkeypatch.setattr("raftcore.node.forwarding.REMEMBERED", 3)

    async def main():
        async with cluster(1) as c:
            forwarding = c["n1"].node.member.forwarding
            first = [forwarding.is_new("n2", request) for request in (1, 2, 3, 4)]
            again = [forwarding.is_new("n2", request) for request in (4, 3, 2, 1)]
            forwarding.removed("n2")

            assert [True] * 4 == first
            assert [False, False, False, True] == again
            assert forwarding.is_new("n2", 4)

    run(main)


def test_an_answer_to_what_was_asked_before_a_restart_answers_nothing(run, cluster):
    """Each process begins to number its requests somewhere else, so an old answer does not meet a new request."""

    async def main():
        async with cluster() as c:
            await c["n2"].node.propose(b"1")
            (before,) = c["n2"].wire.of_kind(Forward)
            await c.restart("n2")
            await c["n2"].node.propose(b"2")
            after = c["n2"].wire.of_kind(Forward)[-1]

            assert abs(after.request - before.request) > 1_000_000

    run(main)

"""Proposals on the leader: answers, order, batches, limits."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.errors import NodeStopped, Overloaded, PayloadTooLarge
from raftcore.messages import Forward


def test_a_proposal_is_answered_by_the_state_machine(run, cluster):
    """Awaiting a proposal gives the answer, and every member applies it."""

    async def main():
        async with cluster() as c:
            answer = await c["n1"].node.propose(b"a")
            await c.applied(c["n1"].node.status().applied)

            assert b"a!" == answer
            assert [[b"a"]] * 3 == [c[name].machine.kept for name in c.members]

    run(main)


def test_concurrent_proposals_are_applied_in_the_order_of_the_calls(run, cluster):
    """Each caller gets its own answer, and the log has the order in which `propose` was called."""

    async def main():
        async with cluster() as c:
            payloads = [b"%d" % number for number in range(500)]
            answers = await asyncio.gather(*[c["n1"].node.propose(payload) for payload in payloads])

            assert [payload + b"!" for payload in payloads] == answers
            assert payloads == c["n1"].machine.kept

    run(main)


def test_proposals_of_one_turn_are_one_run(run, cluster):
    """What is proposed before the next turn travels, is written and is applied as one."""

    async def main():
        async with cluster(1) as c:
            before = len(c["n1"].machine.runs)
            await asyncio.gather(*[c["n1"].node.propose(b"x") for _ in range(100)])

            assert 1 == len(c["n1"].machine.runs) - before

    run(main)


def test_many_proposals_share_one_future(run, cluster):
    """`propose_many` gives the answers in order; none at all is answered at once."""

    async def main():
        async with cluster() as c:
            node = c["n1"].node
            single, many = node.propose(b"0"), node.propose_many([b"1", b"2"])
            last = node.propose(b"3")

            assert [] == await node.propose_many([])
            assert [b"0!", [b"1!", b"2!"], b"3!"] == [await single, await many, await last]

    run(main)


def test_a_large_batch_becomes_several_runs_with_answers_in_order(run, cluster):
    """A batch over the size of a message is cut into runs; callers see nothing of it."""

    async def main():
        async with cluster(max_message_bytes=1000) as c:
            payloads = [b"%03d" % number * 20 for number in range(60)]
            alone = c["n1"].node.propose(payloads[0])
            answers = await c["n1"].node.propose_many(payloads[1:])

            assert [payload + b"!" for payload in payloads] == [await alone, *answers]
            assert len(c["n1"].machine.runs) > 3

    run(main)


def test_a_batch_is_answered_when_applies_cut_it_differently(run, cluster, journal):
    """A batch whose entries become durable here in parts is answered once, with everything in order."""

    async def main():
        async with cluster(machine=lambda: journal(blocking=True), max_message_bytes=500, cache_bytes=400) as c:
            payloads = [b"%02d" % number * 30 for number in range(30)]
            answers = await c["n1"].node.propose_many(payloads)

            assert [payload + b"!" for payload in payloads] == answers

    run(main)


@pytest.mark.parametrize("payload", ["text", bytearray(b"x"), memoryview(b"x")])
def test_a_payload_that_is_not_bytes_is_a_type_error(run, cluster, payload):
    """The caller hears at once what is wrong, from both ways to propose."""

    async def main():
        async with cluster(1) as c:
            with pytest.raises(TypeError, match=r"a payload must be bytes, not \w+; encode it first"):
                c["n1"].node.propose(payload)
            with pytest.raises(TypeError, match="a payload must be bytes"):
                c["n1"].node.propose_many([b"fine", payload])

            assert 0 == c["n1"].node.status().pending_proposals

    run(main)


def test_a_payload_over_the_limit_is_refused(run, cluster):
    """The limit itself is allowed."""

    async def main():
        async with cluster(1, limits={"max_payload_bytes": 10}) as c:
            assert b"0123456789!" == await c["n1"].node.propose(b"0123456789")
            with pytest.raises(PayloadTooLarge, match=r"11 bytes is over limits.max_payload_bytes \(10\); split it"):
                c["n1"].node.propose(b"01234567890")
            with pytest.raises(PayloadTooLarge, match="11 bytes is over"):
                c["n1"].node.propose_many([b"", b"01234567890"])

    run(main)


def test_too_many_proposals_are_refused_until_some_are_answered(run, cluster):
    """The bound counts proposals that wait, and is free again when they are answered."""

    async def main():
        async with cluster(1, limits={"max_pending_proposals": 3}) as c:
            node = c["n1"].node
            waiting = [node.propose(b"x"), node.propose_many([b"y", b"z"])]
            with pytest.raises(
                Overloaded, match=r"3 proposals \(3 bytes\) wait already and 1 \(1 bytes\) more do not fit"
            ):
                node.propose(b"w")
            with pytest.raises(Overloaded, match=r"limits.max_pending_proposals is 3"):
                node.propose_many([b"w"])
            await asyncio.gather(*waiting)

            assert b"w!" == await node.propose(b"w")

    run(main)


def test_too_many_bytes_are_refused_until_some_are_answered(run, cluster):
    """The bound counts payload bytes too."""

    async def main():
        async with cluster(1, limits={"max_pending_bytes": 10}) as c:
            node = c["n1"].node
            waiting = node.propose(b"12345678")
            with pytest.raises(Overloaded, match=r"limits.max_pending_bytes 10\); try again when some are answered"):
                node.propose(b"abc")
            with pytest.raises(Overloaded, match="max_pending_bytes"):
                node.propose_many([b"abc"])
            await waiting

            assert b"abc!" == await node.propose(b"abc")
            assert 0 == node.status().pending_bytes

    run(main)


def test_what_is_not_committed_is_bounded(run, cluster):
    """A leader whose log can't be committed refuses more than `max_uncommitted_bytes`."""

    async def main():
        async with cluster(max_uncommitted_bytes=1000, check_quorum=False) as c:
            c.isolate("n1")
            node = c["n1"].node
            waiting = [node.propose(b"x" * 1000)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"bytes are not committed yet \(raft.max_uncommitted_bytes is 1000\)"):
                await node.propose(b"y")
            c.hub.heal()

            assert b"x" * 1000 + b"!" == await waiting[0]

    run(main)


def test_a_caller_that_is_cancelled_disturbs_no_other(run, cluster):
    """The command takes effect all the same, and the others of its batch get their answers."""

    async def main():
        async with cluster() as c:
            node = c["n1"].node
            first, second, third = node.propose(b"1"), node.propose_many([b"2", b"3"]), node.propose(b"4")
            first.cancel()
            second.cancel()

            assert b"4!" == await third
            assert [b"1", b"2", b"3", b"4"] == c["n1"].machine.kept
            assert 0 == node.status().pending_proposals

    run(main)


def test_a_cancelled_caller_in_a_batch_of_singles_is_passed_over(run, cluster):
    """The same without `propose_many` in the batch."""

    async def main():
        async with cluster(1) as c:
            first, second = c["n1"].node.propose(b"1"), c["n1"].node.propose(b"2")
            first.cancel()

            assert b"2!" == await second

    run(main)


def test_what_is_proposed_at_once_is_passed_on_in_messages_of_bounded_size(run, cluster):
    """A follower's proposals of one turn become several messages, and every caller gets its own answer."""

    async def main():
        limits = {"max_batch_bytes": 100, "max_payload_bytes": 60}
        async with cluster(limits=limits) as c:
            payloads = [bytes([65 + n]) * 40 for n in range(9)]
            singles = [c["n2"].node.propose(payload) for payload in payloads[:6]]
            many = c["n2"].node.propose_many(payloads[6:8])
            last = c["n2"].node.propose(payloads[8])

            assert [payload + b"!" for payload in payloads[:6]] == await asyncio.gather(*singles)
            assert [payload + b"!" for payload in payloads[6:8]] == await many
            assert payloads[8] + b"!" == await last
            sizes = [sum(map(len, m.payloads)) for m in c["n2"].wire.of_kind(Forward)]
            assert [80, 80, 80, 80, 40] == sizes

    run(main)


def test_a_call_of_propose_many_that_is_too_large_is_refused(run, cluster):
    """It would not fit into one message to the leader."""

    async def main():
        async with cluster(1, limits={"max_batch_bytes": 100, "max_payload_bytes": 60}) as c:
            message = r"3 payloads of 120 bytes together are over limits.max_batch_bytes \(100\); make several calls"
            with pytest.raises(PayloadTooLarge, match=message):
                c["n1"].node.propose_many([b"x" * 40] * 3)

            assert 0 == c["n1"].node.status().pending_proposals

    run(main)


def test_a_node_that_is_not_started_says_so(run, cluster):
    """Every call before `start` names the remedy."""

    async def main():
        async with cluster(0) as c:
            node = c.node("n1")
            with pytest.raises(NodeStopped, match="node n1 is not started: use `async with node`"):
                node.propose(b"x")
            with pytest.raises(NodeStopped, match="not started"):
                await node.read()

    run(main)


def test_a_closed_node_takes_nothing(run, cluster):
    """Proposals and reads are refused at once."""

    async def main():
        async with cluster(1) as c:
            node = c["n1"].node
            await node.close()
            for ask in (node.propose, lambda payload: node.propose_many([payload])):
                with pytest.raises(NodeStopped, match="node n1 is closed"):
                    ask(b"x")
            with pytest.raises(NodeStopped, match="node n1 is closed"):
                await node.read()

    run(main)

"""Reads: linearizable, by lease, stale; on the leader and elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.errors import NodeStopped, Overloaded, ReadUnavailable
from raftcore.messages import AppendEntries, AppendReply, Forward, ForwardReply
from raftcore.types import NO_VOTE


@pytest.mark.parametrize("consistency", ["linearizable", "lease"])
@pytest.mark.parametrize("reader", ["n1", "n2"])
def test_a_read_sees_what_was_acknowledged_before_it(run, cluster, consistency, reader):
    """On the leader and on a follower, with and without a lease."""

    async def main():
        async with cluster() as c:
            for number in range(20):
                await c["n1"].node.propose(b"%d" % number)
                index = await c[reader].node.read(consistency)
                kept = list(c[reader].machine.kept)

                assert number + 1 == len(kept)
                assert c[reader].node.status().applied == index

    run(main)


def test_a_stale_read_asks_nobody(run, cluster):
    """It gives what is applied here, cut off or not."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            c.isolate("n2")
            before = len(c["n2"].wire.of_kind(Forward))

            assert c["n2"].node.status().applied == await c["n2"].node.read("stale")
            assert before == len(c["n2"].wire.of_kind(Forward))

    run(main)


def test_reads_of_one_turn_share_one_confirmation(run, cluster):
    """A hundred callers cost a follower one message, and the leader one round."""

    async def main():
        async with cluster() as c:
            indexes = await asyncio.gather(*[c["n2"].node.read() for _ in range(100)])

            assert 1 == len(set(indexes))
            assert 1 == len(c["n2"].wire.of_kind(Forward))

    run(main)


def test_a_read_waits_until_the_entry_is_applied(run, cluster, journal, eventually):
    """A confirmed index that the state machine has not reached is not served yet."""

    async def main():
        async with cluster(machine=lambda: journal(blocking=True)) as c:
            c["n2"].machine.gate.close()
            await c["n1"].node.propose(b"x")
            early = asyncio.ensure_future(c["n2"].node.read())
            await eventually(lambda: c["n2"].node.member.reading._confirmed)
            done_early = early.done()
            c["n2"].machine.gate.open()

            assert not done_early
            assert c["n1"].node.status().applied == await early
            assert [b"x"] == c["n2"].machine.kept

    run(main)


def test_reads_end_when_there_is_no_quorum(run, cluster):
    """On a leader without followers, and on a follower without anybody."""

    async def main():
        async with cluster(limits={"read_timeout_ms": 40}, check_quorum=False) as c:
            c.isolate("n1")
            c.isolate("n2")
            for name in ("n1", "n2"):
                with pytest.raises(ReadUnavailable, match=r"no confirmation within 0.04 s \(limits.read_timeout_ms\)"):
                    await c[name].node.read()

                assert 0 == c[name].node.status().pending_reads
                assert {} == c[name].node.member.forwarding._open

    run(main)


def test_a_held_read_ends_when_nobody_leads(run, cluster):
    """It has a deadline like any other."""

    async def main():
        async with cluster(0, limits={"read_timeout_ms": 30}) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            for consistency in ("linearizable", "lease"):
                with pytest.raises(ReadUnavailable, match="a read with consistency 'stale' needs none"):
                    await node.read(consistency)

    run(main)


def test_an_old_leader_behind_a_partition_serves_no_stale_read(run, cluster, eventually):
    """While the others go on under a new leader, it answers nothing; healed, it answers with what they wrote."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"old")
            c.isolate("n1")
            reads = [asyncio.ensure_future(c["n1"].node.read()) for _ in range(3)]
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"))
            await c["n2"].node.propose(b"new")
            late = [asyncio.ensure_future(c["n1"].node.read(kind)) for kind in ("linearizable", "lease")]
            await asyncio.sleep(0.02)
            answered = [read.done() for read in [*reads, *late]]
            c.hub.heal()
            await asyncio.gather(*reads, *late)

            assert not any(answered)
            assert [b"old", b"new"] == c["n1"].machine.kept

    run(main)


def test_a_leader_without_its_followers_serves_reads_only_within_its_lease(run, cluster):
    """The lease ends before anybody else can lead; a linearizable read is not served at all."""

    async def main():
        async with cluster(election_timeout_ms=(100, 200)) as c:
            node = c["n1"].node
            first = await node.read()
            c.isolate("n1")
            by_lease = await node.read("lease")
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"))
            late = asyncio.ensure_future(node.read("lease"))
            await asyncio.sleep(0.01)

            assert first == by_lease
            assert not late.done()
            c.hub.heal()
            assert first < await late

    run(main)


def test_reads_and_queries_are_linearizable_unless_they_say_otherwise(run, cluster):
    """A node that is cut off answers neither; asked for something stale it does."""

    async def main():
        async with cluster(limits={"read_timeout_ms": 50}, check_quorum=False) as c:
            await c["n1"].node.propose(b"old")
            c.isolate("n1")
            with pytest.raises(ReadUnavailable):
                await c["n1"].node.read()
            with pytest.raises(ReadUnavailable):
                await c["n1"].node.query(lambda machine: list(machine.kept))

            assert [b"old"] == await c["n1"].node.query(lambda machine: list(machine.kept), "stale")

    run(main)


def test_reads_are_bounded(run, cluster):
    """One more than the limit is refused, and the text names the limit."""

    async def main():
        async with cluster(1, limits={"max_pending_reads": 2}) as c:
            node = c["n1"].node
            waiting = [asyncio.ensure_future(node.read()) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match=r"2 reads wait already \(limits.max_pending_reads is 2\)"):
                await node.read()
            await asyncio.gather(*waiting)

            assert 2 <= await node.read()

    run(main)


def test_a_cancelled_reader_disturbs_no_other(run, cluster, journal, eventually):
    """Whether it is cancelled before or after the confirmation, whether the read succeeds or ends."""

    async def main():
        async with cluster(limits={"read_timeout_ms": 100}, check_quorum=False) as c:
            node = c["n2"].node
            first, second = asyncio.ensure_future(node.read()), asyncio.ensure_future(node.read())
            await asyncio.sleep(0)
            first.cancel()

            assert 2 <= await second
            c.isolate("n2")
            third, fourth = asyncio.ensure_future(node.read()), asyncio.ensure_future(node.read())
            await asyncio.sleep(0)
            third.cancel()
            with pytest.raises(ReadUnavailable):
                await fourth

    run(main)


def test_a_read_asked_of_a_leader_that_is_gone_is_asked_of_the_next(run, cluster, eventually):
    """A read may be asked twice, so it does not end with the leader that had it."""

    async def main():
        async with cluster() as c:
            c.hub.cut("n2", "n1")
            c.hub.cut("n3", "n1")
            waiting = asyncio.ensure_future(c["n2"].node.read())
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"))

            assert 3 <= await waiting
            assert {} == c["n2"].node.member.forwarding._open

    run(main)


def test_a_leader_that_steps_down_hands_its_reads_on(run, cluster, eventually):
    """Reads of its own callers, and of a follower's, are confirmed by the next leader."""

    async def main():
        async with cluster() as c:
            c.isolate("n1")
            c.hub._cuts.discard(("n2", "n1"))
            c.hub._cuts.discard(("n1", "n2"))
            c.hub._route()
            c["n2"].wire.drop = lambda peer, message: isinstance(message, AppendReply)
            c["n1"].wire.drop = lambda peer, message: isinstance(message, AppendEntries)
            own, forwarded = asyncio.ensure_future(c["n1"].node.read()), asyncio.ensure_future(c["n2"].node.read())
            await c["n1"].node.wait_for(lambda status: status.role != "leader")
            c["n1"].wire.drop = c["n2"].wire.drop = lambda peer, message: False
            c.hub.heal()

            assert 3 <= await own
            assert 3 <= await forwarded

    run(main)


def test_a_node_that_does_not_lead_confirms_nothing(run, cluster, eventually):
    """A member with an old idea of who leads is told so."""

    async def main():
        async with cluster() as c:
            c["n2"].node.member.deliver("n3", Forward(NO_VOTE, 9, "read", [b"\x91\xc2"]))
            await eventually(lambda: c["n2"].wire.of_kind(ForwardReply))
            reply = c["n2"].wire.of_kind(ForwardReply)[0]

            assert ("NotLeader", "node n2 does not lead") == reply.error

    run(main)


def test_a_read_that_the_leader_could_not_confirm_in_time_is_asked_again(run, cluster, eventually):
    """An error that does not deny leadership is no reason to shun the leader."""

    async def main():
        async with cluster() as c:
            fails = [True]

            def alter(message):
                if isinstance(message, ForwardReply) and fails:
                    fails.pop()
                    return ForwardReply(message.vote, message.request, [], ("ReadUnavailable", "not now"))
                return message

            c["n1"].wire.alter = alter

            assert 2 <= await asyncio.wait_for(c["n2"].node.read(), 1)
            assert b"x!" == await asyncio.wait_for(c["n2"].node.propose(b"x"), 1)

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("reader", ["n1", "n2"])
def test_a_query_never_runs_beside_an_apply(run, cluster, journal, blocking, reader):
    """Queries and applies, many of both, on a state machine that notices."""

    async def main():
        async with cluster(machine=lambda: journal(blocking=blocking)) as c:
            machine, node = c[reader].machine, c[reader].node

            def ask(asked):
                with asked.alone():
                    return len(asked.kept)

            async def write():
                for _ in range(30):
                    await c["n1"].node.propose(b"x")

            async def query(consistency):
                return [await node.query(ask, consistency) for _ in range(30)]

            *_, seen = await asyncio.gather(write(), write(), query("lease"), query("stale"), query("linearizable"))

            assert 0 == machine.overlaps
            assert sorted(seen) == seen
            assert 60 == await node.query(ask)

    run(main)


def test_a_query_of_a_blocking_state_machine_waits_for_the_apply(run, cluster, journal, eventually):
    """Even a stale one, and even two of them at a time."""

    async def main():
        async with cluster(1, machine=lambda: journal(blocking=True)) as c:
            place = c["n1"]
            place.machine.gate.close()
            waiting = place.node.propose(b"x")
            await eventually(lambda: place.machine.gate.waiting)
            queries = [
                asyncio.ensure_future(place.node.query(lambda machine: list(machine.kept), "stale")) for _ in range(2)
            ]
            await asyncio.sleep(0.01)
            early = [query.done() for query in queries]
            place.machine.gate.open()

            assert [False, False] == early
            assert [[b"x"], [b"x"]] == await asyncio.gather(*queries)
            assert b"x!" == await waiting

    run(main)


def test_a_query_that_raises_does_so_at_its_caller_only(run, cluster, journal):
    """The node goes on."""

    async def main():
        for blocking in (False, True):
            async with cluster(1, machine=lambda blocking=blocking: journal(blocking=blocking)) as c:
                with pytest.raises(ZeroDivisionError):
                    await c["n1"].node.query(lambda machine: 1 // 0)

                assert b"x!" == await c["n1"].node.propose(b"x")
                await c["n1"].node.close()
                c.places.clear()

    run(main)


def test_stopping_ends_reads_and_queries(run, cluster, journal, eventually):
    """Waiting ones get `NodeStopped`, later ones too, stale ones included."""

    async def main():
        async with cluster(machine=lambda: journal(blocking=True)) as c:
            place = c["n2"]
            place.machine.gate.close()
            await c["n1"].node.propose(b"x")
            await eventually(lambda: place.machine.gate.waiting)
            waiting = [
                asyncio.ensure_future(place.node.read()),
                asyncio.ensure_future(place.node.query(lambda machine: 1)),
                asyncio.ensure_future(place.node.query(lambda machine: 1, "stale")),
            ]
            await eventually(lambda: place.node.member.reading._confirmed)
            closing = asyncio.ensure_future(place.node.close())
            await eventually(lambda: place.node.member.stopped)
            place.machine.gate.open()
            await closing
            waiting.append(asyncio.ensure_future(place.node.read("stale")))
            waiting.append(asyncio.ensure_future(place.node.query(lambda machine: 1, "stale")))
            for one in waiting:
                with pytest.raises(NodeStopped, match="node n2 is closed"):
                    await one

    run(main)

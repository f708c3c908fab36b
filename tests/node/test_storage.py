"""The way to the disk: one write at a time, nothing promised before it is durable, and no second try."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.engine.output import EntriesWanted
from raftcore.errors import InvariantViolation, NodeStopped, OutcomeUnknown
from raftcore.messages import AppendReply, VoteReply


def test_writes_go_one_at_a_time_and_what_waits_becomes_one(run, cluster, eventually):
    """Group commit: a slow disk makes larger batches, not longer queues."""

    async def main():
        async with cluster(1, blocking_log=True) as c:
            place = c["n1"]
            place.log.gate.close()
            first = place.node.propose(b"0")
            await eventually(lambda: place.log.gate.waiting)
            before = len(place.log.batches)
            rest = []
            for number in range(1, 100):
                rest.append(place.node.propose(b"%d" % number))
                await asyncio.sleep(0)
            place.log.gate.open()
            await asyncio.gather(first, *rest)

            assert 2 == len(place.log.batches) - before
            assert 1 == place.log.most_at_once
            assert [b"%d" % number for number in range(100)] == place.machine.kept

    run(main)


def test_nothing_is_acknowledged_before_it_is_durable(run, cluster, eventually):
    """A follower's acknowledgement, and the leader's own part of a quorum, wait for the disk."""

    async def main():
        async with cluster(blocking_log=True) as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            for name in ("n1", "n2"):
                c[name].log.gate.close()
            index = c["n1"].node.status().last_index + 1
            waiting = c["n1"].node.propose(b"y")
            await eventually(lambda: c["n3"].node.status().durable == index)
            await eventually(lambda: c["n2"].log.gate.waiting)
            for _ in range(3):
                c["n1"].node.trigger.heartbeat()
                await asyncio.sleep(0.005)
            early = waiting.done(), max(reply.match for reply in c["n2"].wire.of_kind(AppendReply))
            c["n2"].log.gate.open()
            committed = await c["n1"].node.wait_for(lambda status: status.commit == index)
            c["n1"].log.gate.open()

            assert (False, index - 1) == early
            assert "leader" == committed.role
            assert b"y!" == await waiting

    run(main)


def test_a_vote_leaves_only_when_it_is_durable(run, cluster, eventually):
    """Also a candidate's request waits for its own."""

    async def main():
        async with cluster(blocking_log=True, election_timeout_ms=(60, 120)) as c:
            await c["n1"].node.propose(b"x")
            c["n3"].log.gate.close()
            c["n3"].node.runtime.election(False)
            c["n3"].wire.sent.clear()
            await c["n1"].node.close(transfer=False)
            await eventually(lambda: c["n3"].log.gate.waiting)
            await asyncio.sleep(0.03)
            given = [reply for reply in c["n3"].wire.of_kind(VoteReply) if reply.granted and not reply.pre]
            role = c["n2"].node.status().role
            c["n3"].log.gate.open()
            await c["n2"].node.wait_for(lambda status: status.role == "leader")

            assert [] == given
            assert "leader" != role

    run(main)


@pytest.mark.parametrize("blocking_log", [False, True])
def test_a_failing_write_stops_the_node_and_the_others_go_on(run, cluster, blocking_log):
    """At once and for good: everybody who waits is told, nothing is acknowledged, nothing is written again."""

    async def main():
        async with cluster(blocking_log=blocking_log) as c:
            await c["n1"].node.propose(b"x")
            place = c["n1"]
            place.log.fail_on = len(place.log.batches) + 1
            proposals = [place.node.propose(b"lost?"), place.node.propose_many([b"lost?", b"lost?"])]
            watch = asyncio.ensure_future(place.node.wait_for(lambda status: False))
            for waiting in proposals:
                with pytest.raises(
                    OutcomeUnknown, match="node n1 stopped; the proposal may be committed by the others"
                ):
                    await waiting
            with pytest.raises(NodeStopped, match=r"node n1 has stopped: .*input/output error"):
                await watch
            sent, batches = len(place.wire.sent), len(place.log.batches)
            place.node.member.deliver("n2", c["n2"].wire.sent[-1][1])
            answer = await c["n2"].node.propose(b"y")
            with pytest.raises(NodeStopped, match="input/output error") as caught:
                place.node.propose(b"z")

            assert b"y!" == answer
            assert (sent, batches) == (len(place.wire.sent), len(place.log.batches))
            assert isinstance(caught.value.__cause__, OSError)
            assert "stopped" == place.node.status().role
            assert [] == place.node.member._inbox

    run(main)


def test_a_follower_whose_write_fails_acknowledges_nothing(run, cluster, eventually):
    """The others still have a quorum."""

    async def main():
        async with cluster(blocking_log=True) as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            index = c["n1"].node.status().last_index + 1
            c["n2"].log.fail_on = len(c["n2"].log.batches) + 1
            answer = await c["n1"].node.propose(b"y")
            await eventually(lambda: c["n2"].node.member.stopped)

            assert b"y!" == answer
            assert max(reply.match for reply in c["n2"].wire.of_kind(AppendReply)) < index

    run(main)


def test_a_stalled_disk_is_reported_and_causes_no_election(run, cluster):
    """Heartbeats need no disk, so a write longer than the election timeout unseats nobody."""

    async def main():
        async with cluster(blocking_log=True, limits={"storage_stall_ms": 50}) as c:
            await c["n1"].node.propose(b"x")
            term = c["n1"].node.status().term
            for place in c.places.values():
                place.log.delay = 0.4
            answer = await c["n1"].node.propose(b"y")
            stalls = c["n1"].witness.details("storage_stalled")
            for place in c.places.values():
                place.log.delay = 0

            assert b"y!" == answer
            assert [(term, "n1")] * 3 == [(node.status().term, node.status().leader) for node in c.running()]
            assert 0.3 < stalls[0]["seconds"] < 5

    run(main)


def test_closing_finishes_the_write_under_way(run, cluster, eventually):
    """What was on its way to the disk is there afterwards; the store is closed behind it, once."""

    async def main():
        async with cluster(1, blocking_log=True) as c:
            place = c["n1"]
            place.log.gate.close()
            waiting = place.node.propose(b"x")
            await eventually(lambda: place.log.gate.waiting)
            closing = asyncio.ensure_future(place.node.close())
            with pytest.raises(OutcomeUnknown):
                await waiting
            early = list(place.log.calls)
            place.log.gate.open()
            await closing
            await c.start("n1")
            await c["n1"].node.read()

            assert [] == early
            assert ["close"] == place.log.calls
            assert [b"x"] == c["n1"].machine.kept

    run(main)


@pytest.mark.parametrize("name", ["written", "entries_read"])
def test_a_broken_rule_outside_of_a_turn_stops_the_node(run, cluster, monkeypatch, name):
    """What the engine finds when a write or a read of the log ends is not lost in a callback."""

    async def main():
        async with cluster(1) as c:
            member = c["n1"].node.member

            def broken(*_: object) -> None:
                raise InvariantViolation("the log would have a hole")

            monkeypatch.setattr(member.engine, name, broken)
            if name == "written":
                with pytest.raises(OutcomeUnknown):
                    await c["n1"].node.propose(b"x")
            else:
                member._fetch(EntriesWanted("n2", 1, 2))
            with pytest.raises(NodeStopped, match="node n1 has stopped: the log would have a hole"):
                await c["n1"].node.wait_stopped()

    run(main)

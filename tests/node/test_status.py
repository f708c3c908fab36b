"""What a node shows of itself, how to wait for it, and the switches and triggers."""

from __future__ import annotations

import asyncio
import re

import pytest

from raftcore.contracts import Event
from raftcore.errors import NodeStopped, WaitTimeout
from raftcore.messages import AppendEntries, RequestVote


def test_the_status_of_a_leader_and_of_a_follower(run, cluster, status_when):
    """Positions agree once everything is applied; only the leader lists peers."""

    async def main():
        async with cluster() as c:
            await c["n1"].node.propose(b"x")
            leader = await status_when(
                c["n1"].node, lambda s: s.applied == s.last_index and all(p.match == s.commit for p in s.peers.values())
            )
            follower = await status_when(c["n2"].node, lambda s: s.applied == leader.applied)

            assert ("leader", "follower") == (leader.role, follower.role)
            assert ("n1", "test", "n1") == (leader.node, leader.cluster, leader.leader)
            assert ["n2", "n3"] == sorted(leader.peers)
            assert {} == follower.peers
            assert [["n1", "n2", "n3"]] == follower.voters
            assert leader.last_index == leader.durable == leader.commit
            assert {"pipeline"} == {peer.state for peer in leader.peers.values()}
            assert all(info.incarnation for info in leader.nodes.values())

    run(main)


def test_watching_shows_changes_until_the_node_stops(run, cluster):
    """The first status comes at once, later ones after changes, and the stream ends with the node."""

    async def main():
        async with cluster(1) as c:
            seen = []

            async def watch():
                nonlocal seen
                async for status in c["n1"].node.watch():
                    seen += [status.applied]

            watcher = asyncio.ensure_future(watch())
            await asyncio.sleep(0)
            before = list(seen)
            await c["n1"].node.propose(b"x")
            await asyncio.sleep(0)
            await c["n1"].node.close()
            await watcher

            assert 1 == len(before)
            assert before[0] + 1 in seen

    run(main)


def test_a_watch_begun_after_the_end_is_empty(run, cluster):
    """There is nothing to see any more."""

    async def main():
        async with cluster(1) as c:
            await c["n1"].node.close()

            assert [] == [status async for status in c["n1"].node.watch()]

    run(main)


def test_waiting_in_vain_says_what_was_waited_for_and_how_things_stand(run, cluster):
    """The error names the condition, the time, and the state of the node."""

    async def main():
        async with cluster() as c:
            text = (
                r"node n2: that the moon is full did not come true within 0.02 s; it is follower of term 1, leader n1, "
            )
            with pytest.raises(WaitTimeout, match=text + r"commit \d+, applied \d+"):
                await c["n2"].node.wait_for(lambda status: False, 0.02, "that the moon is full")

    run(main)


def test_waiting_ends_with_the_node(run, cluster):
    """Whoever waits, even without a limit, hears that the node is closed."""

    async def main():
        async with cluster(1) as c:
            waiting = asyncio.ensure_future(c["n1"].node.wait_for(lambda status: False, None))
            await asyncio.sleep(0)
            await c["n1"].node.close()
            with pytest.raises(NodeStopped, match="node n1 is closed"):
                await waiting

            assert "stopped" == (await c["n1"].node.wait_for(lambda status: status.role == "stopped")).role

    run(main)


def test_a_cancelled_waiter_does_no_harm(run, cluster):
    """The next turn passes it over."""

    async def main():
        async with cluster(1) as c:
            waiting = asyncio.ensure_future(c["n1"].node.wait_for(lambda status: False))
            await asyncio.sleep(0)
            waiting.cancel()

            assert b"x!" == await c["n1"].node.propose(b"x")

    run(main)


def test_wait_stopped_returns_when_closed_and_raises_when_failed(run, cluster):
    """A failure comes with its cause; an unfinished start needs no waiting."""

    async def main():
        async with cluster(2) as c:
            await c["n1"].node.close()
            await c["n1"].node.wait_stopped()
            c["n2"].node.member.fail(ValueError("broken"))
            with pytest.raises(NodeStopped, match="node n2 has stopped: broken") as caught:
                await c["n2"].node.wait_stopped()

            assert isinstance(caught.value.__cause__, ValueError)

    run(main)


def test_the_election_trigger_makes_a_node_campaign(run, cluster):
    """On a node that has heard no leader; on a leader it changes nothing."""

    async def main():
        async with cluster(election_timeout_ms=(100, 5000)) as c:
            term = c["n1"].node.status().term
            c["n1"].node.trigger.election()
            await c["n1"].node.propose(b"x")
            same = c["n1"].node.status().term
            await c["n1"].node.close(transfer=False)
            await asyncio.sleep(0.11)  # the lease of the old leader: its followers grant nobody a vote within it
            c["n2"].node.trigger.election()
            await c["n2"].node.wait_for(lambda status: status.role == "leader", 1)

            assert term == same

    run(main)


def test_the_heartbeat_trigger_shows_the_leader_now(run, cluster):
    """Every follower hears from it in this turn; on a follower nothing happens."""

    async def main():
        async with cluster(heartbeat_ms=1000, election_timeout_ms=(3000, 6000)) as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            before = [len(c[name].wire.of_kind(AppendEntries)) for name in ("n1", "n2")]
            c["n1"].node.trigger.heartbeat()
            c["n2"].node.trigger.heartbeat()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            after = [len(c[name].wire.of_kind(AppendEntries)) for name in ("n1", "n2")]

            assert [2, 0] == [now - then for now, then in zip(after, before, strict=True)]

    run(main)


def test_heartbeats_can_be_switched_off_and_on(run, cluster):
    """Without them the followers elect somebody else, although the leader lives."""

    async def main():
        async with cluster(check_quorum=False) as c:
            c["n1"].node.runtime.heartbeat(False)
            await c["n1"].node.wait_for(lambda status: status.role != "leader")
            c["n1"].node.runtime.heartbeat(True)
            await c.leader()

            assert 1 < c["n1"].node.status().term

    run(main)


def test_elections_can_be_switched_off_and_on(run, cluster):
    """Nobody campaigns when the leader is gone, until somebody may."""

    async def main():
        async with cluster() as c:
            for name in ("n2", "n3"):
                c[name].node.runtime.election(False)
            await c["n1"].node.close(transfer=False)
            await asyncio.sleep(0.35)  # longer than the longest election timeout
            asked = [len(c[name].wire.of_kind(RequestVote)) for name in ("n2", "n3")]
            c["n2"].node.runtime.election(True)
            await c["n2"].node.wait_for(lambda status: status.role == "leader")

            assert [0, 0] == asked
            assert [] == c["n3"].wire.of_kind(RequestVote)

    run(main)


def test_time_can_be_switched_off_and_on(run, cluster):
    """Without ticks there is no election; proposals still time out."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 30}) as c:
            for name in ("n2", "n3"):
                c[name].node.runtime.tick(False)
            await c["n1"].node.close(transfer=False)
            with pytest.raises(Exception, match=r"within 0.03 s"):
                await c["n2"].node.propose(b"x")
            await asyncio.sleep(0.35)  # longer than the longest election timeout
            asked = [len(c[name].wire.of_kind(RequestVote)) for name in ("n2", "n3")]
            c["n2"].node.runtime.tick(True)
            await c["n2"].node.wait_for(lambda status: status.role == "leader")

            assert [0, 0] == asked

    run(main)


def test_an_observer_that_raises_does_no_harm(run, cluster, caplog):
    """It is logged, others are told, and the node goes on."""

    async def main():
        async with cluster(1) as c:
            c["n1"].witness.fails = True
            await c["n1"].node.trigger.snapshot()

            assert b"x!" == await c["n1"].node.propose(b"x")
            assert "observer Witness failed on snapshot_saved" in caplog.text

    run(main)


def test_every_event_that_the_contract_names_happens(run, cluster, eventually):
    """The docstring's list and what nodes really say are the same names."""

    async def main():
        names = set(re.findall(r"``(\w+)``", Event.__doc__.partition("`detail`")[0]))
        async with cluster(policy={"trailing_entries": 0}, limits={"storage_stall_ms": 1}, blocking_log=True) as c:
            await c["n3"].node.close()
            await c["n1"].node.propose(b"x")
            await c["n1"].node.trigger.snapshot()
            await eventually(lambda: c["n1"].node.status().purged)
            await c.start("n3")
            await c["n3"].node.wait_for(lambda status: status.snapshot > 0)
            c["n1"].log.delay = 0.01
            await c["n1"].node.propose(b"y")
            c["n1"].log.delay = 0
            c["n2"].node.member.fail(OSError("broken"))
            await c["n3"].node.close(transfer=False)
            before = c["n3"].witness.events
            await c.start("n3", pristine=True)
            await eventually(lambda: c["n1"].witness.details("peer_refused"))
            seen = {event.name for place in c.places.values() for event in [*place.witness.events, *before]}

            assert names == seen
            assert {"leader": "n1", "term": 1} in c["n1"].witness.details("leader")
            assert {"role": "leader", "term": 1, "leader": "n1"} in c["n1"].witness.details("role")
            assert [["n1", "n2", "n3"]] == c["n1"].witness.details("membership")[-1]["voters"]
            assert c["n1"].witness.details("storage_stalled")[0]["seconds"] >= 0.001
            assert ["broken"] == [detail["error"] for detail in c["n2"].witness.details("stopped")]
            assert {"peer": "n3"} in c["n1"].witness.details("peer_up")
            assert "n3" in [detail["peer"] for detail in c["n1"].witness.details("peer_down")]
            assert ["n3"] == [detail["peer"] for detail in c["n1"].witness.details("snapshot_sent")]

    run(main)

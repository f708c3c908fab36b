"""Taking snapshots: when, of what, and what is kept."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.contracts import WriteBatch
from raftcore.errors import NodeStopped
from raftcore.types import Entries, EntryKind, LeaderId, LogId, Membership, NodeInfo, Vote
from raftcore.wire import encode_membership


async def _write(node, count, first=0):
    await node.propose_many([b"%d" % number for number in range(first, first + count)])


def test_the_policy_takes_a_snapshot_after_so_many_entries(run, cluster, eventually):
    """And purges the log but for what trails."""

    async def main():
        async with cluster(1, policy={"every_entries": 10, "trailing_entries": 3}) as c:
            for number in range(12):
                await c["n1"].node.propose(b"%d" % number)
            await eventually(lambda: c["n1"].node.status().purged)
            status = c["n1"].node.status()

            assert 1 == len(c["n1"].witness.details("snapshot_saved"))
            assert 10 <= status.snapshot <= 12
            assert status.snapshot - 3 == status.purged

    run(main)


def test_without_a_policy_there_is_none(run, cluster):
    """Zero means never by itself, also after a restart."""

    async def main():
        async with cluster(1, policy={"every_entries": 0}) as c:
            await _write(c["n1"].node, 50)
            await c.restart("n1")
            await c["n1"].node.propose(b"x")

            assert [] == c["n1"].sink.list()
            assert 51 == len(c["n1"].machine.kept)

    run(main)


def test_only_so_many_snapshots_are_kept(run, cluster, eventually):
    """The newest ones; the others are deleted from the sink."""

    async def main():
        async with cluster(1, policy={"keep": 2}) as c:
            metas = []
            for number in range(4):
                await _write(c["n1"].node, 1, number)
                metas.append(await c["n1"].node.trigger.snapshot())
            await c["n1"].node.trigger.purge()
            await eventually(lambda: len(c["n1"].sink.list()) == 2)  # the last build prunes too, beside this

            assert metas[:1:-1] == c["n1"].sink.list() == c["n1"].node.member.snapshots.known

    run(main)


def test_a_snapshot_of_what_has_one_is_the_one(run, cluster):
    """Nothing was applied since: no second stream of bytes under one id; the view is closed."""

    async def main():
        async with cluster(1) as c:
            first = await c["n1"].node.trigger.snapshot()
            second = await c["n1"].node.trigger.snapshot()

            assert first is second
            assert 1 == len(c["n1"].witness.details("snapshot_saved"))
            assert c["n1"].witness.details("snapshot_saved")[0]["bytes"] == first.size

    run(main)


def test_a_snapshot_asked_for_while_one_is_built_is_a_newer_one(run, cluster, eventually):
    """The one under way may be older than what the caller saw."""

    async def main():
        async with cluster(1) as c:
            place = c["n1"]
            place.machine.view_gate.close()
            first = asyncio.ensure_future(place.node.trigger.snapshot())
            cancelled = asyncio.ensure_future(place.node.trigger.snapshot())
            await eventually(lambda: place.machine.view_gate.waiting)
            await place.node.propose(b"x")
            second = asyncio.ensure_future(place.node.trigger.snapshot())
            third = asyncio.ensure_future(place.node.trigger.snapshot())
            await asyncio.sleep(0)
            cancelled.cancel()
            place.machine.view_gate.open()

            assert (await first).last.index < (await second).last.index == place.node.status().applied
            assert await second is await third

    run(main)


def test_a_snapshot_is_of_one_moment_while_applies_go_on(run, cluster, eventually, journal):
    """What is applied during the build is not in it; applies do not wait for it."""

    async def main():
        for blocking in (False, True):
            async with cluster(1, machine=lambda blocking=blocking: journal(blocking=blocking)) as c:
                place = c["n1"]
                await _write(place.node, 3)
                place.machine.view_gate.close()
                building = asyncio.ensure_future(place.node.trigger.snapshot())
                await eventually(lambda place=place: place.machine.view_gate.waiting)
                await _write(place.node, 3, 3)
                place.machine.view_gate.open()
                meta = await building
                fresh = journal()
                fresh.restore(meta, place.sink.open(meta.id))

                assert [b"0", b"1", b"2"] == fresh.kept
                assert 6 == len(place.machine.kept)
                assert 1 == place.machine.views_closed
                await place.node.close()
                c.places.clear()

    run(main)


def test_a_view_that_fails_stops_the_node_and_leaves_nothing(run, cluster):
    """What was written is thrown away, and whoever asked hears that the node has stopped."""

    async def main():
        async with cluster(1) as c:
            c["n1"].machine.view_failure = OSError("told to")
            with pytest.raises(NodeStopped, match="node n1 has stopped: told to"):
                await c["n1"].node.trigger.snapshot()
            with pytest.raises(NodeStopped):
                await c["n1"].node.trigger.snapshot()

            assert 1 == c["n1"].sink.aborted
            assert [] == c["n1"].sink.list()

    run(main)


def test_closing_ends_a_build(run, cluster, eventually):
    """It is aborted, and whoever asked for it, or for the next one, hears why."""

    async def main():
        async with cluster(1) as c:
            place = c["n1"]
            place.machine.view_gate.close()
            first = asyncio.ensure_future(place.node.trigger.snapshot())
            await eventually(lambda: place.machine.view_gate.waiting)
            second = asyncio.ensure_future(place.node.trigger.snapshot())
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(place.node.close())
            await eventually(lambda: place.node.member.stopped)
            place.machine.view_gate.open()
            await closing
            for waiting in (first, second):
                with pytest.raises(NodeStopped, match="node n1 is closed"):
                    await waiting
            with pytest.raises(NodeStopped, match="node n1 is closed"):
                await place.node.trigger.purge()

            assert 1 == place.sink.aborted
            assert 1 == place.machine.views_closed

    run(main)


def test_two_prunings_at_a_time_delete_each_snapshot_once(run, cluster, eventually):
    """With several to delete, the second begins while the first waits for the sink."""

    async def main():
        async with cluster(1, policy={"keep": 5}) as c:
            for number in range(5):
                await _write(c["n1"].node, 1, number)
                await c["n1"].node.trigger.snapshot()
            from raftcore.node import SnapshotPolicy

            node = await c.restart("n1", snapshot_policy=SnapshotPolicy(every_entries=0, keep=1))
            c["n1"].sink.delete_gate.close()
            first = asyncio.ensure_future(node.trigger.purge())
            await eventually(lambda: c["n1"].sink.delete_gate.waiting)
            second = asyncio.ensure_future(node.trigger.purge())
            await asyncio.sleep(0)
            c["n1"].sink.delete_gate.open()
            await asyncio.gather(first, second)

            assert 4 == len(c["n1"].sink.deleted) == len(set(c["n1"].sink.deleted))
            assert 1 == len(c["n1"].sink.list())

    run(main)


def test_a_purge_that_fails_stops_the_node(run, cluster):
    """A store that can't forget is broken like one that can't write."""

    async def main():
        async with cluster(1, policy={"trailing_entries": 0}) as c:
            c["n1"].log.fail_purge = True
            await c["n1"].node.propose(b"x")
            await c["n1"].node.trigger.snapshot()
            with pytest.raises(NodeStopped, match="input/output error"):
                await c["n1"].node.wait_stopped()

    run(main)


def test_a_snapshot_asked_for_during_an_apply_is_labelled_with_what_it_holds(run, cluster, eventually, journal):
    """The apply has taken effect in its thread, and the loop does not know yet: the view must wait until it does."""

    async def main():
        async with cluster(1, machine=lambda: journal(blocking=True)) as c:
            place = c["n1"]
            place.machine.gate.close()
            waiting = place.node.propose(b"x")
            await eventually(lambda: place.machine.gate.waiting)
            building = asyncio.ensure_future(place.node.trigger.snapshot())
            await asyncio.sleep(0.01)
            place.machine.gate.open()
            meta = await building
            fresh = journal()
            fresh.restore(meta, place.sink.open(meta.id))

            assert b"x!" == await waiting
            assert ([b"x"], place.machine.last) == (fresh.kept, meta.last)

    run(main)


def test_a_snapshot_says_who_the_members_are(run, cluster):
    """Learners, addresses and disks too: a restart knows them all when the log has forgotten who they are."""

    async def main():
        async with cluster(2, policy={"trailing_entries": 0}) as c:
            node = c["n1"].node
            await node.add_learner("n9", "address-9", wait=False)
            await c.start("n3", members={})
            await node.add_learner("n3", "address-3")
            await node.wait_for(lambda status: status.nodes["n3"].incarnation)
            await node.read()
            meta = await node.trigger.snapshot()
            await node.trigger.purge()
            known = node.member.engine.membership
            purged = node.status().purged
            again = await c.restart("n1")

            assert (("n1", "n2"),) == known.voters
            assert ("n3", "n9") == known.learners
            assert known == meta.membership
            assert purged == meta.last.index
            assert known == again.member.engine.membership

    run(main)


def test_a_snapshot_names_no_member_that_came_after_it(run, cluster, journal):
    """The log holds a newer membership behind what is applied, and nobody knows yet whether that is committed."""

    async def main():
        c = cluster(1)
        one, two = ({f"n{number}": NodeInfo(f"address-{number}") for number in range(1, end)} for end in (2, 3))
        leader, known = LeaderId(1, "n1"), Membership((("n1",),), (), one)
        runs = [
            Entries(leader, 1, EntryKind.MEMBERSHIP, [encode_membership(known)]),
            Entries(leader, 2, EntryKind.NORMAL, [b"x"]),
            Entries(leader, 3, EntryKind.MEMBERSHIP, [encode_membership(Membership((("n1",),), ("n2",), two))]),
        ]
        node = c.node("n1", machine=journal(durable=[(LogId(leader, 2), [b"x"])]))
        c["n1"].log.write(WriteBatch(vote=Vote(leader, True), runs=runs, committed=2))
        await node.start()
        try:
            node.runtime.election(False)
            meta = await node.trigger.snapshot()

            assert (LogId(leader, 2), LogId(leader, 1), known) == (meta.last, meta.membership_at, meta.membership)
        finally:
            await node.close()

    run(main)

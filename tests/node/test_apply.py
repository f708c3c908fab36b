"""From the log to the state machine."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.errors import NodeStopped, OutcomeUnknown, StorageError
from raftcore.messages import AppendEntries
from raftcore.types import Entries, EntryKind


@pytest.mark.parametrize("blocking", [False, True])
def test_a_durable_state_machine_goes_on_where_it_was(run, cluster, journal, blocking):
    """After a restart only what it has not applied yet is applied; nothing twice."""

    async def main():
        disk = []
        async with cluster(1, machine=lambda: journal(blocking=blocking, durable=disk)) as c:
            await c["n1"].node.propose_many([b"1", b"2"])
            await c.restart("n1")
            runs = list(c["n1"].machine.runs)
            await c["n1"].node.propose(b"3")

            assert [] == runs
            assert [b"1", b"2", b"3"] == c["n1"].machine.kept

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("blocking_log", [False, True])
def test_entries_that_memory_no_longer_holds_are_read_from_the_store(run, cluster, journal, blocking, blocking_log):
    """A restart with a tiny cache replays the whole log, in order, once."""

    async def main():
        async with cluster(
            1, machine=lambda: journal(blocking=blocking), blocking_log=blocking_log, cache_bytes=200
        ) as c:
            payloads = [b"%d" % number for number in range(100)]
            for payload in payloads:
                await c["n1"].node.propose(payload)
            before = len(c["n1"].log.reads)
            await c.restart("n1")
            await c["n1"].node.read()

            assert payloads == c["n1"].machine.kept
            assert len(c["n1"].log.reads) > before + 1

    run(main)


def test_a_follower_far_behind_is_fed_from_the_store(run, cluster):
    """The leader's memory no longer holds what it lacks, and nothing was purged."""

    async def main():
        async with cluster(cache_bytes=200, blocking_log=True) as c:
            await c["n3"].node.close(transfer=False)
            payloads = [b"%d" % number for number in range(100)]
            for payload in payloads:
                await c["n1"].node.propose(payload)
            await c.start("n3")
            await c["n3"].node.read()

            assert payloads == c["n3"].machine.kept
            assert [] == c["n3"].machine.restored

    run(main)


def test_a_read_overtaken_by_a_purge_is_no_failure(run, cluster, eventually):
    """The follower gets the snapshot instead."""

    async def main():
        async with cluster(cache_bytes=200, blocking_log=True, policy={"trailing_entries": 0}) as c:
            await c["n3"].node.close(transfer=False)
            payloads = [b"%d" % number for number in range(50)]
            for payload in payloads:
                await c["n1"].node.propose(payload)
            log = c["n1"].log
            fetching = c["n1"].node.member._read_log

            def late(first, stop, limit):
                log.fail_read = True
                return fetching(first, stop, limit)

            c["n1"].node.member._read_log = late
            log.read_gate.close()
            await c.start("n3")
            await eventually(lambda: log.read_gate.waiting)
            await c["n1"].node.trigger.snapshot()
            await eventually(lambda: c["n1"].node.status().purged)
            log.read_gate.open()
            await c["n3"].node.read()

            assert payloads == c["n3"].machine.kept
            assert 1 == len(c["n3"].machine.restored)

    run(main)


@pytest.mark.parametrize("blocking_log", [False, True])
def test_a_read_for_a_follower_that_fails_stops_the_node(run, cluster, blocking_log):
    """A store that can't be read is broken."""

    async def main():
        async with cluster(cache_bytes=200, blocking_log=blocking_log) as c:
            await c["n3"].node.close(transfer=False)
            for number in range(50):
                await c["n1"].node.propose(b"%d" % number)
            c["n1"].log.fail_read = True
            await c.start("n3")
            with pytest.raises(NodeStopped, match="input/output error"):
                await c["n1"].node.wait_stopped()

    run(main)


def test_a_read_for_the_state_machine_that_fails_stops_the_node(run, cluster, eventually):
    """The same on the way to the state machine."""

    async def main():
        async with cluster(1, cache_bytes=200, blocking_log=True) as c:
            for number in range(50):
                await c["n1"].node.propose(b"%d" % number)
            await c["n1"].node.close()
            node = c.node("n1")
            await node.start()
            c["n1"].log.fail_read = True
            with pytest.raises(NodeStopped, match="input/output error"):
                await node.wait_stopped()

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            b"raise",
            r"state machine Journal failed on entries \d+..\d+: ValueError: told to; it is not known how many of",
        ),
        (b"short", r"state machine Journal gave 0 answers to the 1 entries \d+..\d+; apply must answer every entry"),
    ],
)
def test_a_state_machine_that_fails_stops_the_node(run, cluster, journal, blocking, payload, text):
    """Whoever waits hears that the outcome is not known; nothing is applied after it."""

    async def main():
        async with cluster(1, machine=lambda: journal(blocking=blocking)) as c:
            with pytest.raises(OutcomeUnknown, match="node n1 stopped; the proposal may be committed"):
                await c["n1"].node.propose(payload)
            with pytest.raises(NodeStopped, match=text) as caught:
                c["n1"].node.propose(b"x")

            assert isinstance(caught.value.__cause__, StorageError)
            assert b"x" not in c["n1"].machine.kept

    run(main)


def test_a_state_machine_that_fails_on_what_was_read_back_stops_the_node(run, cluster):
    """Not only in a turn: the answer of the store arrives outside of one."""

    async def main():
        async with cluster(1, cache_bytes=200, blocking_log=True) as c:
            for number in range(50):
                await c["n1"].node.propose(b"%d" % number)
            await c["n1"].node.close()
            node = c.node("n1")
            c["n1"].machine.apply = lambda run: 1 // 0
            await node.start()
            with pytest.raises(NodeStopped, match="state machine Journal failed on entries"):
                await node.wait_stopped()

    run(main)


def test_a_state_machines_own_error_is_passed_on(run, cluster):
    """An error of the library's own tree keeps its class and its words."""

    async def main():
        async with cluster(1) as c:

            def fail(run):
                raise StorageError("the disk is full")

            c["n1"].machine.apply = fail
            with pytest.raises(OutcomeUnknown):
                await c["n1"].node.propose(b"x")
            with pytest.raises(NodeStopped, match="node n1 has stopped: the disk is full"):
                await c["n1"].node.wait_stopped()

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
def test_catching_up_goes_in_bounded_batches(run, cluster, journal, blocking):
    """After a restart each apply is at most so many bytes, and other things get their turns between."""

    async def main():
        async with cluster(
            1, machine=lambda: journal(blocking=blocking), limits={"apply_batch_bytes": 500}, max_message_bytes=400
        ) as c:
            payloads = [b"%03d" % number * 10 for number in range(60)]
            await c["n1"].node.propose_many(payloads)
            await c.restart("n1")
            turns = []

            async def other():
                while len(c["n1"].machine.kept) < len(payloads):
                    turns.append(len(c["n1"].machine.kept))
                    await asyncio.sleep(0)

            await other()

            assert payloads == c["n1"].machine.kept
            assert max(last - first + 1 for first, last in c["n1"].machine.runs) <= 500 // 48
            assert len(set(turns)) > 3

    run(main)


def test_only_what_is_durable_here_is_applied(run, cluster, eventually):
    """Committed by the other two is not enough for this node."""

    async def main():
        async with cluster(blocking_log=True) as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            c["n1"].log.gate.close()
            waiting = c["n1"].node.propose(b"y")
            await c["n2"].node.wait_for(lambda status: status.applied > c["n1"].node.status().durable)
            await eventually(lambda: c["n1"].node.status().commit > c["n1"].node.status().durable)
            early = list(c["n1"].machine.kept)
            c["n1"].log.gate.open()

            assert [b"x"] == early
            assert b"y!" == await waiting

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_run_of_which_only_a_part_is_committed_is_applied_in_part(run, cluster, journal, eventually, blocking):
    """The commit index, not the run's end, says how far."""

    async def main():
        async with cluster(machine=lambda: journal(blocking=blocking)) as c:
            c.hub.cut("n1", "n2")
            engine = c["n2"].node.member.engine
            last = engine.log.last
            entries = Entries(engine.vote.leader, last.index + 1, EntryKind.NORMAL, [b"1", b"2", b"3", b"4"])
            for commit in (last.index + 2, last.index + 3):
                message = AppendEntries(engine.vote, engine.leader_round, last, commit, (entries,))
                c["n2"].node.member.deliver("n1", message)
                await eventually(lambda commit=commit: c["n2"].node.status().applied >= commit)

                assert [b"1", b"2", b"3"][: commit - last.index] == c["n2"].machine.kept

    run(main)


@pytest.mark.parametrize("blocking", [False, True])
def test_nothing_is_applied_beside_what_must_be_alone(run, cluster, journal, eventually, blocking):
    """A restore, or whatever else has the state to itself in a thread; entries wait, and then follow in order."""

    async def main():
        async with cluster(1, machine=lambda: journal(blocking=blocking)) as c:
            place = c["n1"]

            def alone():
                with place.machine.alone():
                    place.machine.view_gate.pass_through()
                    return list(place.machine.kept)

            await place.node.propose(b"before")
            place.machine.view_gate.close()
            call = asyncio.ensure_future(place.node.member.applier.exclusive(alone, long=True))
            await eventually(lambda: place.machine.view_gate.waiting)
            waiting = [place.node.propose(b"%d" % number) for number in range(3)]
            await place.node.wait_for(lambda status: status.commit >= status.applied + 3)
            for _ in range(5):
                place.node.member.wake()
                await asyncio.sleep(0.001)
            early = [proposal.done() for proposal in waiting], place.machine.overlaps
            place.machine.view_gate.open()

            assert [b"before"] == await call
            assert [b"0!", b"1!", b"2!"] == await asyncio.gather(*waiting)
            assert ([False] * 3, 0) == early
            assert [b"before", b"0", b"1", b"2"] == place.machine.kept

    run(main)

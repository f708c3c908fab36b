"""The end of a node: in order, once, with everybody told and nothing left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from raftcore.errors import NodeStopped, NotAppended, OutcomeUnknown, RaftCoreError, StorageError


def test_a_leader_hands_over_before_it_closes(run, cluster):
    """The others have a leader without waiting for a timeout; `transfer=False` skips it."""

    async def main():
        async with cluster(election_timeout_ms=(2000, 4000), heartbeat_ms=50) as c:
            begun = asyncio.get_running_loop().time()
            await c["n1"].node.close()
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"))

            assert asyncio.get_running_loop().time() - begun < 1.5

    run(main)


def test_closing_does_not_wait_for_a_handover_for_ever(run, cluster, caplog):
    """Nobody is there to take over; it goes on without, and says so."""

    async def main():
        async with cluster(limits={"shutdown_ms": 20}, check_quorum=False) as c:
            c.isolate("n1")
            await c["n1"].node.close()

            assert "leadership was not handed over before closing" in caplog.text

    run(main)


def test_a_handover_that_fails_does_not_keep_a_node_from_closing(run, cluster, caplog):
    """The target did not take it within an election timeout."""

    async def main():
        async with cluster(check_quorum=False) as c:
            c.isolate("n1")
            await c["n1"].node.close()

            assert "did not take over leadership" in caplog.text

    run(main)


def test_parts_are_let_go_in_order_and_once(run, cluster):
    """Transport, log, state machine, snapshots; a second close does nothing."""

    async def main():
        order = []
        async with cluster(1) as c:
            place = c["n1"]
            for name, part, call in (
                ("transport", place.wire, "stop"),
                ("log", place.log, "close"),
                ("machine", place.machine, "close"),
                ("snapshots", place.sink, "close"),
            ):
                real = getattr(part, call)

                def noted(real=real, name=name):
                    order.append(name)
                    return real()

                setattr(part, call, noted)
            directory = place.node._directory.close
            place.node._directory.close = lambda: (order.append("directory"), directory())
            await place.node.close()
            await place.node.close()

            assert ["transport", "log", "machine", "snapshots", "directory"] == order

    run(main)


def test_no_thread_of_a_node_outlives_it(run, cluster, eventually, journal):
    """Its three workers end."""

    def threads():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("raftcore")]

    async def main():
        async with cluster(1, blocking_log=True, machine=lambda: journal(blocking=True)) as c:
            await c["n1"].node.propose(b"x")
            await c["n1"].node.trigger.snapshot()
            during = threads()
            await c["n1"].node.close()
            await eventually(lambda: not threads())

            assert 3 <= len(during)

    run(main)


def test_everybody_who_waits_is_told(run, cluster, eventually):
    """Proposals in each of their places, reads, conditions, commands: each within the closing itself."""

    async def main():
        async with cluster(0) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            held, many = node.propose(b"held"), node.propose_many([b"a", b"b"])
            await asyncio.sleep(0)
            new = node.propose(b"new")
            others = [
                asyncio.ensure_future(one)
                for one in (
                    node.read(),
                    node.read("lease"),
                    node.query(lambda machine: 1),
                    node.wait_for(lambda status: False),
                    node.change_membership(["n1"]),
                    node.transfer_leadership(),
                )
            ]
            await asyncio.sleep(0)
            await node.close()
            for waiting in (held, many, new):
                with pytest.raises(
                    NotAppended, match="node n1 stopped before the proposal was appended: ask another member"
                ):
                    await waiting
            for waiting in others:
                with pytest.raises(NodeStopped, match="node n1 is closed"):
                    await waiting

            assert 0 == node.status().pending_proposals

    run(main)


def test_proposals_that_no_turn_has_seen_are_told_too(run, cluster):
    """Made in the moment when the node stops: they were never appended."""

    async def main():
        async with cluster(1) as c:
            node = c["n1"].node
            waiting = [node.propose(b"x"), node.propose_many([b"y", b"z"])]
            await node.close(transfer=False)
            for future in waiting:
                with pytest.raises(NotAppended, match="node n1 stopped before the proposal was appended"):
                    await asyncio.wait_for(future, 1)

    run(main)


def test_proposals_that_were_passed_on_or_appended_have_an_unknown_outcome(run, cluster, eventually):
    """The follower's is on its way to the leader, the leader's is in its log."""

    async def main():
        async with cluster(check_quorum=False) as c:
            c["n1"].wire.drop = lambda peer, message: True
            appended, forwarded = c["n1"].node.propose(b"x"), c["n2"].node.propose(b"y")
            await eventually(lambda: c["n2"].node.member.proposals.forwarded)
            await eventually(lambda: c["n1"].node.member.proposals.appended)
            for name, waiting in (("n2", forwarded), ("n1", appended)):
                await c[name].node.close(transfer=False)
                with pytest.raises(
                    OutcomeUnknown, match=f"node {name} stopped; the proposal may be committed by the others"
                ):
                    await waiting

                assert {} == c[name].node.member.forwarding._open

    run(main)


@pytest.mark.parametrize("part", ["open", "start", "restore", "transport"])
def test_a_start_that_fails_leaves_nothing_open(run, cluster, part):
    """Whatever fails: everything is closed, the lock is free, and closing the node again does nothing."""

    async def main():
        async with cluster(0) as c:
            node = c.node("n1", members={"n1": "address-1"})
            place = c["n1"]

            def fail(*arguments):
                raise StorageError("told to")

            async def fail_later(*arguments):
                raise StorageError("told to")

            owner, name, how = {
                "open": (place.log, "open", fail),
                "start": (place.sink, "start", fail),
                "restore": (place.machine, "open", fail),
                "transport": (place.wire, "start", fail_later),
            }[part]
            setattr(owner, name, how)
            with pytest.raises(StorageError, match="told to"):
                await node.start()
            await node.close()
            delattr(owner, name)
            await c.start("n1", members={"n1": "address-1"})

            assert ["close"] == place.log.calls
            assert ["close"] == place.sink.calls
            assert b"x!" == await c["n1"].node.propose(b"x")

    run(main)


@pytest.mark.parametrize("part", ["wire", "log", "machine", "sink"])
def test_a_part_that_fails_to_close_keeps_no_other_open(run, cluster, part):
    """The failure is raised when all the rest is closed."""

    async def main():
        async with cluster(1) as c:
            place = c["n1"]
            call = "stop" if part == "wire" else "close"
            real = getattr(place, part)
            closes = getattr(real, call)

            def fail():
                raise StorageError("told to")

            async def stop():
                await closes()
                fail()

            setattr(real, call, stop if part == "wire" else fail)
            with pytest.raises(StorageError, match="told to"):
                await place.node.close()
            rest = [getattr(place, name).calls[-1] for name in ("wire", "log", "machine", "sink") if name != part]
            delattr(real, call)
            await c.start("n1")

            assert ["close"] * 2 == [call for call in rest if call == "close"][:2]
            assert b"x!" == await c["n1"].node.propose(b"x")

    run(main)


def test_a_cancelled_start_leaves_nothing_open(run, cluster, eventually):
    """The disk was slow, and whoever waited has given up."""

    async def main():
        async with cluster(1, blocking_log=True) as c:
            await c["n1"].node.propose(b"x")
            await c["n1"].node.close()
            c["n1"].log.calls.clear()
            c["n1"].log.read_gate.close()
            c.node("n1")
            starting = asyncio.ensure_future(c["n1"].node.start())
            await eventually(lambda: c["n1"].log.read_gate.waiting)
            starting.cancel()
            await asyncio.sleep(0)
            c["n1"].log.read_gate.open()
            with pytest.raises(asyncio.CancelledError):
                await starting

            assert ["close"] == c["n1"].log.calls
            assert ["open", "close"] == c["n1"].machine.calls

    run(main)


def test_leaving_the_block_closes_the_node(run, cluster):
    """With an error no time is spent on handing over."""

    async def main():
        async with cluster(0) as c:
            async with c.node("n1", members={"n1": "address-1"}) as node:
                await node.propose(b"x")
            with pytest.raises(NodeStopped, match="node n1 is closed"):
                node.propose(b"y")
            with pytest.raises(ZeroDivisionError):
                async with c.node("n1"):
                    raise ZeroDivisionError

            assert ["open", "close"] == c["n1"].machine.calls

    run(main)


def test_a_task_that_fails_while_the_node_closes_is_no_second_failure(run, cluster, eventually):
    """The node is closed, and the close goes through."""

    async def main():
        async with cluster(1) as c:
            place = c["n1"]

            async def fail_at_the_end():
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    raise OSError("told to")

            place.node.member.spawn(fail_at_the_end())
            await asyncio.sleep(0)
            await place.node.close()
            await place.node.wait_stopped()

            assert place.node.member.failure is None

    run(main)


def test_a_failed_node_is_closed_like_any_other(run, cluster):
    """Its connections have ended already; the rest is let go of when it is closed."""

    async def main():
        async with cluster() as c:
            place = c["n3"]
            place.node.member.fail(OSError("told to"))
            place.node.member.fail(OSError("again"))
            await c["n1"].node.wait_for(lambda status: True)
            with pytest.raises(NodeStopped, match="told to"):
                await place.node.wait_stopped()
            await asyncio.sleep(0)
            stopped = list(place.wire.calls)
            await place.node.close()

            assert ["stop"] == stopped == place.wire.calls
            assert ["close"] == place.log.calls
            assert "n3" in [detail["peer"] for detail in c["n1"].witness.details("peer_down")]

    run(main)


def test_a_node_is_started_once(run, cluster):
    """A second start is refused, and does the running node no harm."""

    async def main():
        async with cluster(1) as c:
            node = c["n1"].node
            with pytest.raises(RaftCoreError, match="node n1 was started before; make a new Node of it"):
                await node.start()

            assert b"x!" == await node.propose(b"x")

    run(main)

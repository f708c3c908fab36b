"""Deadlines: none is missed, whatever else the timer is set for."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
import uvloop

from raftcore.errors import NotAppended, OutcomeUnknown, ReadUnavailable


class EarlyLoop(asyncio.SelectorEventLoop):
    """A loop whose timers fire half a millisecond too early, as those of loops that count in milliseconds do."""

    def call_at(self, when, callback, *args, context=None):
        return super().call_at(when - 0.0005, callback, *args, context=context)


@pytest.mark.parametrize("loop", [EarlyLoop, uvloop.new_event_loop])
def test_timers_that_fire_too_early_delay_nothing(run, cluster, loop):
    """Followers notice that the leader is gone, and proposals end in time."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 400}) as c:
            for _ in range(3):
                leader = await c.leader()
                await leader.propose(b"x")
                await c.restart(leader.id)
            await c["n1"].node.close()
            await c["n2"].node.close()
            with pytest.raises((NotAppended, OutcomeUnknown)):
                await c["n3"].node.propose(b"x")

    run(main, loop)


def test_proposals_and_reads_of_different_times_all_end(run, cluster):
    """Held ones, one after the other, on a node that hears nobody and whose election timer keeps firing between."""

    async def main():
        async with cluster(
            0, limits={"proposal_timeout_ms": 80, "read_timeout_ms": 50}, election_timeout_ms=(30, 40), heartbeat_ms=10
        ) as c:
            c.members = {"n1": "address-1", "n2": "address-2"}
            node = await c.start("n1")
            loop = asyncio.get_running_loop()

            async def propose(delay):
                await asyncio.sleep(delay)
                begun = loop.time()
                with pytest.raises(NotAppended):
                    await node.propose(b"x")
                return loop.time() - begun

            async def read(delay):
                await asyncio.sleep(delay)
                begun = loop.time()
                with pytest.raises(ReadUnavailable):
                    await node.read()
                return loop.time() - begun

            delays = [0, 0.01, 0.025, 0.04]
            lasted = await asyncio.gather(*map(propose, delays), *map(read, delays))

            assert all(0.079 <= seconds < 0.5 for seconds in lasted[:4])
            assert all(0.049 <= seconds < 0.5 for seconds in lasted[4:])
            assert (0, 0) == (node.status().pending_proposals, node.status().pending_reads)

    run(main)


def test_appended_proposals_end_on_a_leader_without_followers(run, cluster):
    """They may yet be committed; a forwarded one ends at the leader and at the follower."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 60}, check_quorum=False) as c:
            c["n1"].wire.drop = lambda peer, message: True
            own = c["n1"].node.propose(b"x")
            forwarded = c["n2"].node.propose(b"y")
            for waiting in (own, forwarded):
                with pytest.raises(OutcomeUnknown, match=r"no answer within 0.06 s .limits.proposal_timeout_ms."):
                    await waiting
            await asyncio.sleep(0.01)

            assert 0 == c["n1"].node.status().pending_proposals

    run(main)


def test_a_proposal_that_timed_out_does_not_mix_up_later_answers(run, cluster):
    """It is committed after all; the answers of those behind it are still their own."""

    async def main():
        async with cluster(limits={"proposal_timeout_ms": 150}, check_quorum=False) as c:
            c["n1"].wire.drop = lambda peer, message: True
            early = c["n1"].node.propose_many([b"1", b"2"])
            await asyncio.sleep(0.1)
            late = [c["n1"].node.propose(b"3"), c["n1"].node.propose(b"4")]
            with pytest.raises(OutcomeUnknown):
                await early
            c["n1"].wire.drop = lambda peer, message: False

            assert [b"3!", b"4!"] == await asyncio.gather(*late)
            assert [b"1", b"2", b"3", b"4"] == c["n1"].machine.kept

    run(main)


def test_the_wall_clock_does_not_matter(run, cluster, monkeypatch):
    """It jumps by hours, back and forth: nobody campaigns for that, and a lease ends when its time is over."""

    async def main():
        async with cluster(limits={"read_timeout_ms": 100}) as c:
            now, jumps = time.time, itertools.cycle([0, 3600, -7200, 60])
            monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
            monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
            before = c["n1"].node.status()
            for number in range(5):
                await c["n1"].node.propose(b"%d" % number)
                await c["n1"].node.read("lease")
                await asyncio.sleep(0.02)
            after = c["n1"].node.status()
            c.isolate("n1")
            await c["n2"].node.wait_for(lambda status: status.leader in ("n2", "n3"), 5)
            with pytest.raises(ReadUnavailable):
                await c["n1"].node.read("lease")

            assert (before.term, "n1") == (after.term, after.leader)

    run(main)

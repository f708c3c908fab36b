"""Snapshots on their way to a member that is too far behind."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from raftcore.messages import AppendEntries, SnapshotChunk, SnapshotReply, SnapshotStatus
from raftcore.node import snapshots

PAYLOADS = [b"%03d" % number * 10 for number in range(20)]
CHUNK = 100


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """A chunk without an answer is sent again after a moment."""
    monkeypatch.setattr(snapshots, "RESEND_SECONDS", 0.03)


async def _left_behind(c, payloads=PAYLOADS):
    """n3 away, and everything it lacks only in a snapshot."""
    await c["n3"].node.close(transfer=False)
    await c["n1"].node.propose_many(payloads)
    await c["n1"].node.trigger.snapshot()
    await c["n1"].node.trigger.purge()

    assert c["n1"].node.status().purged == c["n1"].node.status().snapshot


@pytest.fixture
def behind(cluster):
    """A cluster whose snapshots travel in several chunks and whose log keeps nothing behind them."""

    def make(**options):
        policy = {"trailing_entries": 0, "chunk_bytes": CHUNK, **options.pop("policy", {})}
        return cluster(policy=policy, **options)

    return make


def _offsets(place):
    return [chunk.offset for chunk in place.wire.of_kind(SnapshotChunk)]


def test_a_member_far_behind_gets_the_snapshot_in_chunks(run, behind):
    """Each chunk once, in order, then the log goes on."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            await c.start("n3")
            await c["n1"].node.propose(b"more")
            await c["n3"].node.read()
            size = c["n1"].sink.list()[0].size

            assert [*PAYLOADS, b"more"] == c["n3"].machine.kept
            assert list(range(0, size, CHUNK)) == _offsets(c["n1"])
            assert c["n1"].sink.list()[0] == c["n3"].sink.list()[0]
            assert c["n3"].witness.details("snapshot_installed")[0]["from"] == "n1"

    run(main)


def test_an_empty_snapshot_travels_too(run, behind):
    """A state of no bytes is a state."""

    async def main():
        async with behind() as c:
            for place in c.places.values():
                place.machine._view = lambda kept: iter(())
                place.machine.restore = lambda meta, chunks: list(chunks)
            await _left_behind(c)
            machine = c.machine()
            machine.restore = lambda meta, chunks: machine.restored.append(list(chunks))
            await c.start("n3", machine=machine)
            await c["n3"].node.read()

            assert [[]] == machine.restored

    run(main)


@pytest.mark.parametrize("lost", [SnapshotChunk, SnapshotReply])
def test_a_lost_message_is_sent_again(run, behind, lost):
    """Every third chunk, or answer, is lost; no chunk is sent more often than that explains."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            counted = []

            def drop(peer, message):
                if type(message) is lost:
                    counted.append(message)
                    return len(counted) % 3 == 0
                return False

            c["n1"].wire.drop = drop
            await c.start("n3")
            c["n3"].wire.drop = drop
            await c["n3"].node.read()
            chunks = -(-c["n1"].sink.list()[0].size // CHUNK)

            assert PAYLOADS == c["n3"].machine.kept
            assert chunks < len(_offsets(c["n1"])) <= 2 * chunks

    run(main)


def test_an_answer_that_comes_late_doubles_nothing(run, behind, eventually):
    """A chunk that was sent twice is answered twice; the second answer asks for what is on its way already."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            doubled = []

            def alter(message):
                if isinstance(message, SnapshotReply) and not doubled:
                    doubled.append(message)
                    c["n1"].node.member.deliver("n3", message)
                return message

            c.node("n3")
            c["n3"].wire.alter = alter
            await c["n3"].node.start()
            await c["n3"].node.read()

            assert doubled
            assert len(set(_offsets(c["n1"]))) == len(_offsets(c["n1"]))

    run(main)


def test_a_connection_lost_in_the_middle_resumes_where_it_was(run, behind, eventually):
    """After the gap the first new chunk is the one that was missing; nothing begins from 0 again."""

    async def main():
        async with behind(policy={"idle_timeout_ms": 60}) as c:
            await _left_behind(c)
            half = 3 * CHUNK

            def drop(peer, message):
                return isinstance(message, SnapshotChunk) and message.offset >= half

            c["n1"].wire.drop = drop
            await c.start("n3")
            await eventually(lambda: _offsets(c["n1"]).count(half) > 1)
            await eventually(lambda: _offsets(c["n1"]).count(0) > 1)  # given up, and asked where it stood
            begun = len(_offsets(c["n1"]))
            c["n1"].wire.drop = lambda peer, message: False
            await c["n3"].node.read()
            taken = [reply.offset for reply in c["n3"].wire.of_kind(SnapshotReply)]

            assert PAYLOADS == c["n3"].machine.kept
            assert {0, half} >= {offset for offset in _offsets(c["n1"])[begun:] if offset <= half}
            assert sorted(taken) == taken
            assert (c["n1"].sink.list()[0].id, half) in c["n1"].sink.opened

    run(main)


def test_a_damaged_stream_is_thrown_away_and_sent_again(run, behind, caplog):
    """The digest of the whole does not fit: nothing is installed, and the next attempt is."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            altered = []

            def alter(message):
                if isinstance(message, SnapshotChunk) and message.offset == CHUNK and not altered:
                    altered.append(message)
                    return msgspec.structs.replace(message, data=b"\x00" * len(message.data))
                return message

            c["n1"].wire.alter = alter
            await c.start("n3")
            await c["n3"].node.read()
            statuses = [reply.status for reply in c["n3"].wire.of_kind(SnapshotReply)]

            assert PAYLOADS == c["n3"].machine.kept
            assert 1 == statuses.count(SnapshotStatus.FAILED)
            assert 1 == c["n3"].sink.aborted
            assert 1 == len(c["n3"].machine.restored)
            assert "it is sent again" in caplog.text

    run(main)


def test_the_log_is_kept_while_a_member_installs(run, behind, eventually):
    """Newer snapshots do not purge what it will need behind its own, nor delete the one that it is sent."""

    async def main():
        async with behind(policy={"keep": 1}) as c:
            await _left_behind(c)
            sent = c["n1"].sink.list()[0]
            c.node("n3")
            c["n3"].machine.restore_gate.close()
            await c["n3"].node.start()
            await eventually(lambda: c["n3"].machine.restore_gate.waiting)
            for number in range(3):
                await c["n1"].node.propose(b"%d" % number)
                await c["n1"].node.trigger.snapshot()
            await c["n1"].node.trigger.purge()
            during, kept = c["n1"].node.status().purged, c["n1"].sink.list()
            c["n3"].machine.restore_gate.open()
            await c["n3"].node.read()
            await eventually(lambda: len(c["n1"].sink.list()) == 1)

            assert sent.last.index == during
            assert sent in kept
            assert [*PAYLOADS, b"0", b"1", b"2"] == c["n3"].machine.kept
            assert 1 == len(c["n3"].machine.restored)

    run(main)


def test_a_snapshot_that_is_not_needed_changes_nothing(run, behind, eventually):
    """An old one is answered as installed, whole or in part, and the state stays."""

    async def main():
        async with behind() as c:
            await c["n1"].node.propose(b"x")
            meta = await c["n1"].node.trigger.snapshot()
            await c["n1"].node.propose(b"y")
            await c.applied(c["n1"].node.status().applied)
            before = c["n2"].node.status()
            member = c["n1"].node.member
            chunk = SnapshotChunk(member.engine.vote, member.engine.leadership.round, meta, 0, b"garbage", True)
            c["n2"].node.member.deliver("n1", chunk)
            c["n2"].node.member.snapshots.arrived("n1", chunk)
            await eventually(lambda: len(c["n2"].wire.of_kind(SnapshotReply)) == 2)
            after = c["n2"].node.status()

            assert [SnapshotStatus.INSTALLED] * 2 == [r.status for r in c["n2"].wire.of_kind(SnapshotReply)]
            assert ([b"x", b"y"], []) == (c["n2"].machine.kept, c["n2"].machine.restored)
            assert (before.applied, before.last_index, before.snapshot) == (
                after.applied,
                after.last_index,
                after.snapshot,
            )
            assert [] == c["n2"].sink.list()

    run(main)


def test_applies_that_overtake_a_snapshot_win(run, behind, eventually, journal):
    """The log arrived after all while the snapshot was being received: the newer state stays."""

    async def main():
        async with behind(machine=lambda: journal(blocking=True)) as c:
            c["n3"].machine.gate.close()
            await c["n1"].node.propose_many(PAYLOADS)
            await eventually(lambda: c["n3"].machine.gate.waiting)
            meta = await c["n1"].node.trigger.snapshot()
            applier, engine = c["n3"].node.member.applier, c["n3"].node.member.engine
            member = c["n3"].node.member
            committed, engine.commit = engine.commit, 1  # as if the snapshot had come first
            data = b"".join(c["n1"].sink.open(meta.id))
            chunk = SnapshotChunk(engine.vote, engine.leader_round, meta, 0, data, True)
            member.snapshots.arrived("n1", chunk)
            await eventually(lambda: engine.installing)
            engine.commit = committed
            c["n3"].machine.gate.open()
            await eventually(lambda: engine.installing is None)
            await eventually(lambda: applier.applied.index >= committed)

            assert PAYLOADS == c["n3"].machine.kept
            assert [] == c["n3"].machine.restored

    run(main)


def test_a_snapshot_that_can_not_be_read_is_replaced(run, behind, caplog, journal, eventually):
    """The follower gets a new one, taken for it."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            damaged = c["n1"].sink.list()[0]
            from raftcore.errors import CorruptData

            reading = c["n1"].sink.open

            def fail(id, offset=0):
                if id == damaged.id and offset == 0 and not caplog.text.count("taking another"):
                    raise CorruptData(f"snapshot {id} is damaged")
                return reading(id, offset)

            c["n1"].sink.open = fail
            await c["n1"].node.propose(b"more")
            await c.start("n3")
            await c["n3"].node.read()

            assert [*PAYLOADS, b"more"] == c["n3"].machine.kept
            assert "is damaged; taking another" in caplog.text
            assert damaged not in c["n1"].node.member.snapshots.known

    run(main)


def test_a_leader_without_a_snapshot_takes_one_for_a_member_that_needs_it(run, behind, caplog):
    """The only one was damaged, and taken off the list before it was asked for."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            c["n1"].node.member.snapshots.known.clear()
            await c.start("n3")
            await c["n3"].node.read()

            assert PAYLOADS == c["n3"].machine.kept

    run(main)


def test_a_build_that_ends_after_an_installation_does_not_displace_it(run, behind, eventually):
    """With one snapshot to keep, the newer one stays: the log begins behind it."""

    async def main():
        async with behind(policy={"keep": 1}) as c:
            await c["n1"].node.propose(b"x")
            await c.applied(c["n1"].node.status().applied)
            c["n3"].machine.view_gate.close()
            building = asyncio.ensure_future(c["n3"].node.trigger.snapshot())
            await eventually(lambda: c["n3"].machine.view_gate.waiting)
            c["n1"].wire.drop = lambda peer, message: (
                peer == "n3" and isinstance(message, AppendEntries) and message.runs
            )
            await c["n1"].node.propose_many(PAYLOADS)
            await c["n1"].node.trigger.snapshot()
            await eventually(lambda: c["n3"].machine.restored)
            c["n1"].wire.drop = lambda peer, message: False
            c["n3"].machine.view_gate.open()
            await building
            await c["n3"].node.read()
            await eventually(lambda: len(c["n3"].sink.list()) == 1)
            newest = c["n1"].sink.list()[0]
            await c.restart("n3")
            await c["n3"].node.read()

            assert newest.last.index == c["n3"].sink.list()[0].last.index
            assert [b"x", *PAYLOADS] == c["n3"].machine.kept

    run(main)


def test_half_a_snapshot_is_thrown_away_when_another_begins_or_none_comes(run, behind, eventually):
    """A new leader sends its own; one that stops sending leaves nothing behind."""

    async def main():
        async with behind(policy={"idle_timeout_ms": 30}) as c:
            await _left_behind(c)
            await c.start("n3")
            await c["n3"].node.read()
            member = c["n3"].node.member
            future = msgspec.structs.replace(
                c["n1"].sink.list()[0], id="a", last=c["n1"].sink.list()[0].last._replace(index=999)
            )
            for name in ("a", "b"):
                meta = msgspec.structs.replace(future, id=name)
                member.snapshots.arrived("n1", SnapshotChunk(member.engine.vote, 0, meta, 0, b"half", False))
            await eventually(lambda: c["n3"].sink.aborted == 2)

            assert member.snapshots._incoming is None

    run(main)


def test_a_leader_that_is_deposed_stops_sending(run, behind, eventually):
    """The task ends, and the next leader brings the member its own snapshot."""

    async def main():
        async with behind() as c:
            await _left_behind(c)
            await c["n2"].node.trigger.snapshot()
            await c["n2"].node.trigger.purge()
            c["n1"].wire.drop = lambda peer, message: isinstance(message, SnapshotChunk) and message.offset > 0
            await c.start("n3")
            await eventually(lambda: len(_offsets(c["n1"])) > 1)
            await c["n1"].node.transfer_leadership("n2")
            await eventually(lambda: not c["n1"].node.member.snapshots._answers)
            await c["n3"].node.read()

            assert PAYLOADS == c["n3"].machine.kept
            assert _offsets(c["n2"])
            assert 1 == c["n3"].sink.aborted

    run(main)


def test_reports_and_chunks_too_many_are_dropped(run, behind, eventually):
    """Queues are bounded; what is dropped is sent again."""

    async def main():
        async with behind() as c:
            work = c["n1"].node.member.snapshots
            work._answers["n9"] = asyncio.Queue(maxsize=16)
            reply = SnapshotReply(c["n1"].node.member.engine.vote, 0, "x", SnapshotStatus.WANT, 0)
            for _ in range(20):
                work.answered("n9", reply)
                work.answered("nobody", reply)
            chunk = SnapshotChunk(reply.vote, 0, (await c["n1"].node.trigger.snapshot()), 0, b"", False)
            for _ in range(20):
                work.arrived("n2", chunk)

            assert 16 == work._answers.pop("n9").qsize()
            assert 16 == work._chunks.qsize()

    run(main)

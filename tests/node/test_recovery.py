"""Starting from what the disks hold, and refusing what can't be true."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from raftcore.contracts import LogState, WriteBatch
from raftcore.errors import CorruptData
from raftcore.messages import AppendEntries
from raftcore.node.recovery import verified
from raftcore.types import Entries, EntryKind, LeaderId, LogId, Membership, NodeInfo, SnapshotMeta, Vote
from raftcore.wire import encode_membership

N1 = Membership((("n1",),), (), {"n1": NodeInfo("address-1")})


def _run(first, *payloads, term=1):
    return Entries(LeaderId(term, "n1"), first, EntryKind.NORMAL, list(payloads))


def _id(index, term=1):
    return LogId(LeaderId(term, "n1"), index)


def _snapshot(place, journal, index, kept, term=1, damaged=False):
    """A committed snapshot in the node's sink."""
    data = b"".join(msgspec.msgpack.encode(payload) for payload in [b"", *kept])
    meta = SnapshotMeta(f"{index:020d}", _id(index, term), N1, _id(1), len(data), hashlib.sha256(data).hexdigest())
    writer = place.sink.begin(meta)
    writer.write(data)
    writer.commit(meta)
    if damaged:
        place.sink.damage(meta.id)
    return meta


@pytest.fixture
def disk(cluster, journal):
    """Make a node n1 of its own, not started, with a log of so many entries: a membership and payloads b"2", b"3", …"""

    def make(entries=5, *, term=1, durable=None, **options):
        c = cluster(1, **options)
        c.node("n1", machine=journal(durable=durable))
        if entries:
            first = Entries(LeaderId(term, "n1"), 1, EntryKind.MEMBERSHIP, [encode_membership(N1)])
            rest = _run(2, *[b"%d" % index for index in range(2, entries + 1)], term=term)
            vote = Vote(LeaderId(term, "n1"), True)
            c["n1"].log.write(WriteBatch(vote=vote, runs=[first, rest] if entries > 1 else [first], committed=entries))
            c["n1"].log.batches.clear()
        return c

    return make


async def _kept(c):
    """Start n1 and give what its state machine holds when everything is applied."""
    node = c["n1"].node
    await node.start()
    await node.read()
    return c["n1"].machine.kept


async def _refused(c, text):
    with pytest.raises(CorruptData, match=text):
        await c["n1"].node.start()

    assert [] == c["n1"].log.batches  # refusing changes nothing
    assert ["close"] == c["n1"].log.calls
    assert ["open", "close"] == c["n1"].machine.calls
    assert ["close"] == c["n1"].sink.calls


def _closing(main_of):
    async def main(c):
        try:
            await main_of(c)
        finally:
            await c["n1"].node.close()

    return main


def test_a_log_alone_is_replayed(run, disk):
    """Vote, entries and members come back, and the commit hint serves."""

    @_closing
    async def main(c):
        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert 2 == c["n1"].node.status().term
        assert [["n1"]] == c["n1"].node.status().voters

    run(lambda: main(disk()))


def test_a_snapshot_and_the_log_behind_it_are_one_state(run, disk, journal):
    """Nothing is applied twice, and the members come from both."""

    @_closing
    async def main(c):
        meta = _snapshot(c["n1"], journal, 3, [b"2", b"3"])

        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert [3] == c["n1"].machine.restored
        assert meta.last.index == c["n1"].node.status().snapshot
        assert min(first for first, _ in c["n1"].machine.runs) == 4

    run(lambda: main(disk()))


def test_a_log_that_ends_before_the_snapshot_gives_way(run, disk, journal):
    """An installed snapshot was durable, the log's reset was not yet."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 9, [b"new"], term=2)

        assert [b"new"] == await _kept(c)
        assert _id(9, 2) == c["n1"].log.batches[0].reset
        assert _id(9, 2) == c["n1"].log.open().purged

    run(lambda: main(disk()))


def test_a_log_that_gives_way_takes_no_vote_with_it(run, disk, journal):
    """What was promised since the snapshot's last entry was written still holds."""

    @_closing
    async def main(c):
        vote = Vote(LeaderId(7, "n2"), False)
        c["n1"].log.write(WriteBatch(vote=vote))
        _snapshot(c["n1"], journal, 9, [b"new"], term=2)
        await c["n1"].node.start()
        promised = c["n1"].node.member.engine.vote

        assert vote == promised
        assert vote == c["n1"].log.open().vote

    run(lambda: main(disk()))


def test_a_log_that_disagrees_with_the_snapshot_gives_way(run, disk, journal):
    """It holds another leader's entry where the snapshot ends: what follows it was never committed."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 3, [b"new"], term=2)

        assert [b"new"] == await _kept(c)
        assert _id(3, 2) == c["n1"].log.batches[0].reset

    run(lambda: main(disk()))


def test_an_older_snapshot_serves_when_the_newest_is_damaged(run, disk, journal, caplog):
    """As long as the log reaches back to it; the damage is reported."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 3, [b"2", b"3"])
        newest = _snapshot(c["n1"], journal, 4, [b"2", b"3", b"4"], damaged=True)

        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert [3] == c["n1"].machine.restored
        assert f"snapshot {newest.id} is damaged" in caplog.text

    run(lambda: main(disk()))


def test_a_damaged_snapshot_is_passed_over_when_the_log_holds_everything(run, disk, journal):
    """The log begins at 1, so it alone will do."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 4, [b"2", b"3", b"4"], damaged=True)

        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert [] == c["n1"].machine.restored

    run(lambda: main(disk()))


def test_a_damaged_snapshot_that_nothing_can_replace_is_refused(run, disk, journal):
    """The log begins behind it, and the older one ends before the log begins."""

    async def main():
        c = disk()
        _snapshot(c["n1"], journal, 2, [b"2"])
        meta = _snapshot(c["n1"], journal, 4, [b"2", b"3", b"4"], damaged=True)
        c["n1"].log.purge(_id(4))
        await _refused(
            c, f"snapshot {meta.id}: .* bytes with SHA-256 .*, its manifest says .*; delete it so that an older"
        )

    run(main)


@pytest.mark.parametrize("chunks", [[b"ab"], [b"a", b"b"], [b"", b"a", b"", b"b"]])
@pytest.mark.parametrize(("size", "digest_of"), [(2, b"ax"), (3, b"ab"), (1, b"ab")])
def test_a_stream_that_is_not_what_its_manifest_says_is_never_handed_over_whole(chunks, size, digest_of):
    """Its last bytes are held back until the whole is known to be right, so that nobody takes it for a snapshot."""
    meta = SnapshotMeta("s", _id(1), N1, _id(1), size, hashlib.sha256(digest_of).hexdigest())
    taken = []
    with pytest.raises(CorruptData, match=r"snapshot s: 2 bytes with SHA-256 .*; delete it so that an older one"):
        taken.extend(verified(meta, iter(chunks)))

    assert b"ab" != b"".join(taken)


def test_a_stream_that_is_what_its_manifest_says_is_handed_over():
    """All of it, in order; an empty one as well."""
    for chunks in ([b"a", b"b"], [b"ab"], []):
        data = b"".join(chunks)
        meta = SnapshotMeta("s", _id(1), N1, _id(1), len(data), hashlib.sha256(data).hexdigest())

        assert data == b"".join(verified(meta, iter(chunks)))


def test_a_purged_log_without_a_snapshot_is_refused(run, disk):
    """Also when the state machine is durable: who the members are is not known."""

    async def main():
        c = disk()
        c["n1"].log.purge(_id(3))
        await _refused(
            c, "the log begins behind entry 3, but the state ends at 0 and no snapshot covers what is between"
        )
        c = disk(durable=[(_id(4), [b"2", b"3", b"4"])])
        c["n1"].log.purge(_id(3))
        await _refused(c, "the log begins behind entry 3")

    run(main)


def test_a_log_that_begins_behind_every_snapshot_is_refused(run, disk, journal):
    """A gap between the two is lost data."""

    async def main():
        c = disk()
        _snapshot(c["n1"], journal, 2, [b"2"])
        c["n1"].log.purge(_id(4))
        await _refused(c, "the log begins behind entry 4")

    run(main)


def test_a_state_machine_ahead_of_the_log_is_refused(run, disk):
    """The log has lost what was acknowledged."""

    async def main():
        c = disk(durable=[(_id(9), [b"x"])])
        await _refused(c, "the state machine has applied entry 9, but the log ends at 5: the log has lost entries")

    run(main)


def test_a_state_machine_that_disagrees_with_the_log_is_refused(run, disk):
    """The two are not of the same node."""

    async def main():
        c = disk(durable=[(_id(4, 7), [b"x"])])
        await _refused(c, "the state machine has applied entry 4 of .*term=7.*, but the log holds one of .*term=1")

    run(main)


def test_a_durable_state_machine_older_than_the_snapshot_is_brought_to_it(run, disk, journal):
    """Its own entries are not applied again."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 4, [b"2", b"3", b"4"])

        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert [4] == c["n1"].machine.restored

    run(lambda: main(disk(durable=[(_id(2), [b"2"])])))


def test_a_durable_state_machine_newer_than_the_snapshot_is_left_alone(run, disk, journal):
    """And the entries behind it are applied once."""

    @_closing
    async def main(c):
        _snapshot(c["n1"], journal, 3, [b"2", b"3"])

        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert [] == c["n1"].machine.restored

    run(lambda: main(disk(durable=[(_id(4), [b"2", b"3", b"4"])])))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([_run(3, b"3")], "log store: entry 2 is missing, the next one is 3"),
        ([_run(2, b"2", term=5), _run(3, b"3", term=4)], "entry 3 is of .*term=4.*, behind an entry of .*term=5"),
        ([], "log store: it ends at 1 when read, but says that it ends at 5"),
        (
            [_run(2, b"2", b"3", b"4", b"5", term=2)],
            r"log store: its last entry is .*term=2.*, but it says that it is .*term=1",
        ),
    ],
)
def test_a_log_that_is_not_what_it_says_is_refused(run, disk, answer, text):
    """Holes, mixed logs, lost ends."""

    async def main():
        c = disk()
        read = c["n1"].log.read
        c["n1"].log.read = lambda start, stop, size: answer if start > 1 else [read(1, 2, size)[0]]
        await _refused(c, text)

    run(main)


def test_a_store_that_ends_before_it_begins_is_refused(run, disk):
    """Its own report contradicts itself."""

    async def main():
        c = disk(0)
        c["n1"].log.open = lambda: LogState(last=_id(5))
        await _refused(c, "log store: it ends at 0 when read, but says that it ends at 5")

    run(main)


def test_a_membership_that_is_overwritten_after_a_restart_gives_way_to_the_one_before(run, disk):
    """Every membership of the log is read back, not only the newest."""

    @_closing
    async def main(c):
        nodes = {name: NodeInfo(f"address-{name[1:]}") for name in ("n1", "n2", "n3")}
        joint = Membership((("n1",), ("n1", "n2", "n3")), (), nodes)
        entry = Entries(LeaderId(1, "n1"), 6, EntryKind.MEMBERSHIP, [encode_membership(joint)])
        c["n1"].log.write(WriteBatch(runs=[entry], committed=5))
        node = c["n1"].node
        await node.start()
        before = node.status().voters
        leader = LeaderId(2, "n2")
        blank = Entries(leader, 6, EntryKind.BLANK, [b""])
        node.member.deliver("n2", AppendEntries(Vote(leader, True), 1, _id(5), 5, (blank,)))
        status = await node.wait_for(lambda status: status.term > 1)

        assert [["n1"], ["n1", "n2", "n3"]] == before
        assert [["n1"]] == status.voters

    run(lambda: main(disk()))


def test_reading_a_long_log_reports_its_progress(run, disk, caplog, monkeypatch):
    """So that whoever waits knows why."""
    from raftcore.node import recovery

    monkeypatch.setattr(recovery, "PROGRESS_EVERY", 2)
    monkeypatch.setattr(recovery, "SCAN_BYTES", 2)
    caplog.set_level("INFO")

    @_closing
    async def main(c):
        assert [b"2", b"3", b"4", b"5"] == await _kept(c)
        assert "of 5" in caplog.text

    run(lambda: main(disk()))


def test_restarting_every_node_of_a_cluster_keeps_everything(run, cluster):
    """One after the other, then all at once; with snapshots and without."""

    async def main():
        async with cluster(policy={"every_entries": 7, "trailing_entries": 2}) as c:
            payloads = []
            for turn in range(2):
                for number in range(10):
                    payloads.append(b"%d-%d" % (turn, number))
                    leader = await c.leader()
                    await leader.propose(payloads[-1])
                for name in c.members:
                    await c.restart(name)
                await c.leader()
            for place in c.places.values():
                await place.node.close(transfer=False)
            await asyncio.gather(*[c.start(name) for name in c.members])
            leader = await c.leader()
            await leader.propose(b"end")
            for name in c.members:
                await c[name].node.read()

            assert [[*payloads, b"end"]] * 3 == [c[name].machine.kept for name in c.members]

    run(main)

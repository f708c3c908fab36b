from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore.backends.directory import DirectorySnapshots
from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.contracts import SnapshotSink
from raftcore.errors import StorageError
from raftcore.sim.disk import Disk
from raftcore.sim.disk_snapshots import DiskSnapshots
from raftcore.types import LeaderId, LogId, Membership, NodeInfo, SnapshotMeta

MIB = 1024 * 1024
Save = Callable[..., SnapshotMeta]


@pytest.fixture(params=["memory", "directory", "simulated disk"])
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotSink:
    """Every sink that comes with raftcore, started."""
    make: dict[str, Callable[[], SnapshotSink]] = {
        "memory": MemorySnapshots,
        "directory": lambda: DirectorySnapshots(tmp_path / "snapshots"),
        "simulated disk": lambda: DiskSnapshots(Disk(random.Random(1))),
    }
    sink = make[request.param]()
    sink.start()
    return sink


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345])
def test_what_was_committed_is_read_from_any_offset(sink: SnapshotSink, save: Save, size: int) -> None:
    """In chunks of at most a MiB; the chunks of the writer do not matter."""
    data = random.Random(size).randbytes(size)
    save(sink, "s", data, chunk=300_000)
    for offset in {0, 1, size // 2, MIB, size - 1, size}:
        if 0 <= offset <= size:
            chunks = list(sink.open("s", offset))

            assert data[offset:] == b"".join(chunks)
            assert all(0 < len(chunk) <= MIB for chunk in chunks)


def test_everything_of_its_description_is_kept(sink: SnapshotSink, save: Save) -> None:
    """Position, membership, size and digest."""
    nodes = {"n1": NodeInfo("127.0.0.1:1", "disk 1"), "n2": NodeInfo("127.0.0.1:2")}
    membership = Membership((("n1",), ("n1", "n2")), (), nodes)
    meta = save(sink, "s", b"state", membership=membership)

    assert [meta] == sink.list()
    assert membership == sink.list()[0].membership
    assert (5, hashlib.sha256(b"state").hexdigest()) == (meta.size, meta.digest)


def test_the_newest_comes_first(sink: SnapshotSink, save: Save) -> None:
    """By position in the log, a later term before a greater index."""
    for name, term, index in (("a", 1, 90), ("b", 2, 50), ("c", 1, 10)):
        save(sink, name, b"", last=LogId(LeaderId(term, "n1"), index))

    assert ["b", "a", "c"] == [meta.id for meta in sink.list()]


def test_a_snapshot_does_not_exist_before_it_is_committed(sink: SnapshotSink, save: Save) -> None:
    """Nor after it was thrown away, nor when the node ends in between."""
    meta = save(sink, "whole", b"x")
    started = sink.begin(SnapshotMeta("half", meta.last, meta.membership, meta.membership_at))
    started.write(b"abc")
    aborted = sink.begin(SnapshotMeta("aborted", meta.last, meta.membership, meta.membership_at))
    aborted.write(b"abc")
    aborted.abort()

    assert ["whole"] == [meta.id for meta in sink.list()]
    for name in ("half", "aborted"):
        with pytest.raises(StorageError, match=r"list\(\) names those that exist"):
            sink.open(name)
    started.abort()


def test_a_deleted_snapshot_is_gone_but_a_reader_that_has_begun_goes_on(sink: SnapshotSink, save: Save) -> None:
    """Deleting what is not there does nothing."""
    data = random.Random(1).randbytes(2 * MIB)
    save(sink, "s", data)
    chunks = sink.open("s")
    first = next(chunks)
    sink.delete("s")
    sink.delete("s")

    assert [] == sink.list()
    assert data == first + b"".join(chunks)
    with pytest.raises(StorageError, match=r"list\(\) names those that exist"):
        sink.open("s")


def test_two_can_be_written_at_once(sink: SnapshotSink, save: Save) -> None:
    """One of the node's own, and one that another member sends; even with the same id."""
    meta = save(sink, "other", b"")
    begun = [sink.begin(SnapshotMeta("s", meta.last, meta.membership, meta.membership_at)) for _ in range(2)]
    for writer in begun:
        writer.write(b"same bytes")
    finished = SnapshotMeta("s", meta.last, meta.membership, meta.membership_at, 10, "")
    for writer in begun:
        writer.commit(finished)

    assert b"same bytes" == b"".join(sink.open("s"))
    assert 2 == len(sink.list())


def test_a_commit_with_another_size_or_id_is_refused(sink: SnapshotSink, save: Save) -> None:
    """Then bytes were lost on the way."""
    meta = save(sink, "s", b"12345")
    for wrong in (
        SnapshotMeta("t", meta.last, meta.membership, meta.membership_at, 4, "aa"),
        SnapshotMeta("u", meta.last, meta.membership, meta.membership_at, 5, "aa"),
    ):
        writer = sink.begin(SnapshotMeta("t", meta.last, meta.membership, meta.membership_at))
        writer.write(b"12345")
        with pytest.raises(StorageError, match=rf"'t' of 5 bytes can't be committed as '[tu]' of {wrong.size} bytes"):
            writer.commit(wrong)

    assert [meta] == sink.list()


@pytest.mark.parametrize("offset", [-1, 6])
def test_an_offset_outside_is_refused(sink: SnapshotSink, save: Save, offset: int) -> None:
    """Only a damaged request asks for it."""
    save(sink, "s", b"12345")

    with pytest.raises(StorageError, match=f"snapshot 's' has 5 bytes, it can't be read from byte {offset} on"):
        sink.open("s", offset)

from __future__ import annotations

import copy
import hashlib
import random

import pytest

from raftcore.errors import CorruptData, StorageError
from raftcore.sim.disk import Disk
from raftcore.sim.disk_snapshots import PART_BYTES, PLACE, DiskSnapshots, DiskSnapshotWriter
from raftcore.types import NO_MEMBERSHIP, LeaderId, LogId, SnapshotMeta

SEEDS = range(200)


def described(id: str, data: bytes, index: int = 7) -> SnapshotMeta:
    """The description of a snapshot of these bytes."""
    last = LogId(LeaderId(1, "n1"), index)
    return SnapshotMeta(
        id, last, NO_MEMBERSHIP, LogId(LeaderId(1, "n1"), 1), len(data), hashlib.sha256(data).hexdigest()
    )


def begun(sink: DiskSnapshots, id: str, data: bytes) -> DiskSnapshotWriter:
    """A snapshot of which everything is written, in chunks of an odd size."""
    writer = sink.begin(described(id, b""))
    for at in range(0, len(data), 1000):
        writer.write(data[at : at + 1000])
    return writer


def save(sink: DiskSnapshots, id: str, data: bytes, index: int = 7) -> SnapshotMeta:
    """Save a snapshot."""
    meta = described(id, data, index)
    begun(sink, id, data).commit(meta)
    return meta


def started(disk: Disk) -> DiskSnapshots:
    """A sink on that disk."""
    sink = DiskSnapshots(disk)
    sink.start()
    return sink


def content(sink: DiskSnapshots) -> dict[str, bytes]:
    """The bytes of every snapshot that is listed, read to the end."""
    return {meta.id: b"".join(sink.open(meta.id)) for meta in sink.list()}


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 123])
def test_what_was_committed_is_read_from_any_offset(size: int) -> None:
    """Also by another sink on the same disk."""
    data = random.Random(size).randbytes(size)
    disk = Disk(random.Random(1))
    meta = save(started(disk), "s", data)
    sink = started(disk)

    assert [meta] == sink.list()
    for offset in (0, 1, PART_BYTES, size // 2, size - 1, size):
        if 0 <= offset <= size:
            assert data[offset:] == b"".join(sink.open("s", offset))


def test_the_newest_is_listed_first() -> None:
    """By its place in the log."""
    sink = started(Disk(random.Random(1)))
    for name, index in (("a", 9), ("b", 12), ("c", 3)):
        save(sink, name, b"", index)

    assert ["b", "a", "c"] == [meta.id for meta in sink.list()]


def test_what_is_not_committed_does_not_exist() -> None:
    """Begun, thrown away, and refused because bytes are missing; nothing of it is left behind."""
    disk = Disk(random.Random(1))
    sink = started(disk)
    begun(sink, "begun", b"abc")
    begun(sink, "aborted", b"abc").abort()
    with pytest.raises(StorageError, match="'s' of 3 bytes can't be committed as 's' of 4 bytes; take it again"):
        begun(sink, "s", b"abc").commit(described("s", b"abcd"))

    assert [] == sink.list()
    assert [f"{PLACE}1.tmp"] == disk.names()
    for name in ("begun", "aborted", "s"):
        with pytest.raises(StorageError, match=rf"snapshots/{name}\.manifest: no such snapshot; list\(\) names"):
            sink.open(name)


@pytest.mark.parametrize("offset", [-1, 4])
def test_an_offset_outside_is_refused(offset: int) -> None:
    """Only a damaged request asks for it."""
    sink = started(Disk(random.Random(1)))
    save(sink, "s", b"abc")

    with pytest.raises(StorageError, match=f"'s' has 3 bytes, it can't be read from byte {offset} on"):
        sink.open("s", offset)


def test_who_reads_a_snapshot_is_not_disturbed_when_it_is_deleted() -> None:
    """Deleting what is not there does nothing."""
    data = bytes(3 * PART_BYTES)
    disk = Disk(random.Random(1))
    sink = started(disk)
    save(sink, "s", data)
    chunks = sink.open("s")
    sink.delete("s")
    sink.delete("s")

    assert data == b"".join(chunks)
    assert ([], []) == (sink.list(), disk.names())


def test_starting_removes_what_a_crash_has_left_and_only_that() -> None:
    """Also other files on the same disk stay."""
    disk = Disk(random.Random(1))
    sink = started(disk)
    save(sink, "s", b"abc")
    begun(sink, "t", b"abc")
    for name in (f"{PLACE}u.data", "log.tmp"):
        disk.open(name)
    started(disk)

    assert ["log.tmp", f"{PLACE}s.data", f"{PLACE}s.manifest"] == disk.names()


# -- crashes ----------------------------------------------------------------------------------------------------------


class Life:
    """Snapshots that are written by two threads, deleted, crashed and listed again at random.

    `model`: what exists for certain. `under_way`: what the calls of this step lead to, None for a deletion.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"life {seed}")
        self.disk = Disk(random.Random(seed))
        self.sink = started(self.disk)
        self.model: dict[str, bytes] = {}
        self.under_way: dict[str, bytes | None] = {}
        self.writers: list[tuple[str, bytes, DiskSnapshotWriter]] = []
        self.count = 0

    def step(self) -> None:
        """Up to two calls at once; at times a crash or a fault before they have finished."""
        rng, calls = self.rng, []
        self.disk.fail_next_sync = fault = rng.random() < 0.05
        while len(self.writers) < 2:
            self.count += 1
            data = rng.randbytes(rng.choice([0, 10, 1000, 2 * PART_BYTES, 10_000]))
            self.writers.append((f"s{self.count}", data, begun(self.sink, f"s{self.count}", data)))
        self.under_way = {}
        for _ in range(rng.choice([1, 1, 2])):
            calls.append(self.disk.begin_call())
            try:
                self.call()
            except StorageError:
                assert fault
            self.disk.end_call()
        if not fault and rng.random() < 0.85:
            for call in calls:
                call.finish()
            self.finished(list(self.under_way))
            return
        if not fault and rng.random() < 0.5:
            calls[0].finish()
            self.finished(list(self.under_way)[:1])
        self.crash()

    def call(self) -> None:
        """Delete a snapshot, or commit one."""
        there = sorted(self.model.keys() - self.under_way.keys())
        if there and self.rng.random() < 0.4:
            name = self.rng.choice(there)
            self.under_way[name] = None
            self.sink.delete(name)
        else:
            name, data, writer = self.writers.pop(self.rng.randrange(len(self.writers)))
            self.under_way[name] = data
            writer.commit(described(name, data))

    def finished(self, names: list[str]) -> None:
        for name in names:
            data = self.under_way.pop(name)
            if data is None:
                del self.model[name]
            else:
                self.model[name] = data

    def crash(self) -> None:
        """Each of the calls in flight has happened, or has not. What is found is there to stay."""
        self.disk.crash(power=self.rng.random() < 0.6)
        while self.rng.random() < 0.3:  # once more, while it is started
            self.disk.begin_call()
            started(self.disk)
            self.disk.end_call()
            self.disk.crash(power=self.rng.random() < 0.6)
        self.writers.clear()
        call = self.disk.begin_call()
        self.sink = started(self.disk)
        self.disk.end_call()
        call.finish()
        found = content(self.sink)
        for name in self.model.keys() | self.under_way.keys() | found.keys():
            allowed = [self.model.get(name)]
            if name in self.under_way:
                allowed.append(self.under_way[name])
            assert found.get(name) in allowed, name
        self.model = found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_committed_survives_and_the_rest_does_wholly_or_not_at_all(seed: int) -> None:
    """Crashes of the process and the power in commits, deletions and starts, two calls at a time; failed syncs too."""
    life = Life(seed)
    for _ in range(40):
        life.step()
    life.under_way = {}
    life.crash()


def test_a_commit_under_way_exists_after_some_crashes_and_not_after_others() -> None:
    """Both have to happen, or the test above would show less than it says."""
    found = set()
    for seed in range(100):
        disk = Disk(random.Random(seed))
        sink = started(disk)
        disk.begin_call()
        save(sink, "s", b"abc")
        disk.end_call()
        disk.crash()
        found.add(tuple(content(started(disk)).items()))

    assert {(), (("s", b"abc"),)} == found


# -- damage and errors ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_an_error_before_a_wrong_byte_is_handed_over() -> None:
    """In every byte of both files; in the data, the parts before it are given."""
    data = bytes(range(256)) * (2 * PART_BYTES // 256) + b"end"
    disk = Disk(random.Random(1))
    save(started(disk), "s", data)
    for name in disk.names():
        size = disk.open(name).size
        for offset in range(0, size, 1 if size < 1000 else 97):
            other = copy.deepcopy(disk)
            file = other.open(name)
            file.write_at(offset, bytes([file.read(offset, 1)[0] ^ 1 << offset % 8]))
            sink, given = started(other), []
            with pytest.raises(CorruptData, match=rf"{name}: damaged: .*; remove the snapshot's two files if"):
                given += sink.open("s")
            if name.endswith(".manifest"):
                with pytest.raises(CorruptData, match="does not fit its checksum"):
                    sink.list()

            assert data[: len(given) * PART_BYTES] == b"".join(given)


def test_missing_data_is_an_error() -> None:
    """The manifest says that there was some."""
    disk = Disk(random.Random(1))
    sink = started(disk)
    save(sink, "s", b"abc")
    disk.delete(f"{PLACE}s.data")

    with pytest.raises(CorruptData, match=r"snapshots/s\.data: damaged: the file is missing"):
        sink.open("s")


def test_what_the_disk_refuses_is_an_error_with_the_next_step() -> None:
    """A full disk, a failed sync, and a disk that can't be read."""
    disk = Disk(random.Random(1))
    sink = started(disk)
    save(sink, "s", b"abc")
    begun_before = begun(sink, "t", b"abc")
    disk.free_bytes = 2
    with pytest.raises(StorageError, match=r"3\.tmp: can't write to it: .*No space left.*; look at the disk, then"):
        begun(sink, "u", b"abc")
    disk.free_bytes, disk.fail_next_sync = None, True
    with pytest.raises(StorageError, match=r"t\.data: can't commit it: .*Input/output error"):
        begun_before.commit(described("t", b"abc"))
    disk.fail_next_sync = True
    with pytest.raises(StorageError, match=r"snapshots/: can't use it: .*Input/output error"):
        DiskSnapshots(disk).start()
    disk.fail_next_sync = True
    with pytest.raises(StorageError, match=r"s\.manifest: can't delete it: .*Input/output error"):
        sink.delete("s")
    save(sink, "s", b"abc")
    chunks = sink.open("s")
    disk.read_error = True
    with pytest.raises(StorageError, match=r"s\.manifest: can't read it: .*Input/output error"):
        sink.list()
    with pytest.raises(StorageError, match=r"s\.data: can't read it: .*Input/output error"):
        next(chunks)

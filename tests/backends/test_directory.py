from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from raftcore.backends.directory import DirectorySnapshots
from raftcore.errors import CorruptData, StorageError
from raftcore.types import NO_LOG, NO_MEMBERSHIP, SnapshotMeta

MIB = 1024 * 1024
Save = Callable[..., SnapshotMeta]
Flip = Callable[[Path, int], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the snapshots of a test lie."""
    return tmp_path / "snapshots"


@pytest.fixture
def sink(path: Path) -> DirectorySnapshots:
    """A started sink."""
    sink = DirectorySnapshots(path)
    sink.start()
    return sink


def names(path: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(file.name for file in path.iterdir())


def test_snapshots_are_there_after_a_restart(path: Path, sink: DirectorySnapshots, save: Save) -> None:
    """Two files each, and nothing else."""
    meta = save(sink, "s", b"state")
    sink.close()
    again = DirectorySnapshots(path)
    again.start()

    assert ["s.data", "s.manifest"] == names(path)
    assert [meta] == again.list()
    assert [b"state"] == list(again.open("s"))


def test_what_a_crash_left_unfinished_is_removed_by_the_next_start(
    path: Path, sink: DirectorySnapshots, save: Save
) -> None:
    """Unfinished data, data without a manifest, an unfinished manifest; whole snapshots stay."""
    meta = save(sink, "s", b"state")
    writer = sink.begin(SnapshotMeta("half", NO_LOG, NO_MEMBERSHIP, NO_LOG))
    writer.write(b"x" * 100_000)
    left = names(path)
    (path / "named.data").write_bytes(b"committed as far as its data")
    (path / "named.7.tmp").write_bytes(b"half a manifest")
    again = DirectorySnapshots(path)
    again.start()
    writer.abort()

    assert ["half.1.tmp", "s.data", "s.manifest"] == sorted(name.replace(".2.", ".1.") for name in left)
    assert ["s.data", "s.manifest"] == names(path)
    assert [meta] == again.list()


def test_half_a_deletion_leaves_no_half_snapshot(path: Path, sink: DirectorySnapshots, save: Save) -> None:
    """The manifest goes first; data that is left is removed by the next start."""
    save(sink, "s", b"state")
    (path / "s.manifest").unlink()

    assert [] == sink.list()
    sink.start()
    assert [] == names(path)


def test_a_kill_at_any_moment_leaves_whole_snapshots_only(path: Path) -> None:
    """Each that was reported as committed is there, and each that is there is right."""
    rng = random.Random(11)
    known = 0
    for _ in range(6):
        arguments = [sys.executable, __file__, path, str(known)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
            try:
                lines = [child.stdout.readline() for _ in range(rng.randrange(1, 20))]
            finally:
                child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        committed = int(lines[-1]) + 1
        sink = DirectorySnapshots(path)
        sink.start()
        found = {meta.id: b"".join(sink.open(meta.id)) for meta in sink.list()}
        known = len(found)

        assert committed <= known <= committed + 1
        assert {str(number): content(number) for number in range(known)} == found
        assert 2 * known == len(names(path))


def content(number: int) -> bytes:
    """The bytes of the snapshot that the child process calls by this number."""
    return random.Random(number).randbytes(100_000 + number)


def save_until_killed(path: Path, number: int) -> None:
    """What the child process does: save one snapshot after the other, and report each."""
    sink = DirectorySnapshots(path)
    sink.start()
    while True:
        writer = sink.begin(SnapshotMeta(str(number), NO_LOG, NO_MEMBERSHIP, NO_LOG))
        data = content(number)
        writer.write(data)
        writer.commit(SnapshotMeta(str(number), NO_LOG, NO_MEMBERSHIP, NO_LOG, len(data)))
        print(number, flush=True)  # noqa: T201 # this is how the parent knows
        number += 1


def test_a_flipped_bit_in_the_data_is_found_before_its_part_is_handed_over(
    path: Path, sink: DirectorySnapshots, save: Save, flipped: Flip
) -> None:
    """The parts before it are good; no part behind it is reached."""
    data = random.Random(1).randbytes(3 * MIB + 100)
    save(sink, "s", data)
    for offset in (0, 1000, MIB, 2 * MIB + 77, 3 * MIB + 99):
        flipped(path / "s.data", offset)
        part = offset // MIB
        chunks = sink.open("s")
        good = b"".join(next(chunks) for _ in range(part))
        with pytest.raises(
            CorruptData, match=rf"s\.data: damaged: the MiB at byte {part * MIB} does not fit its checksum"
        ):
            next(chunks)
        with pytest.raises(CorruptData, match=r"put the snapshot's two files back from a backup, or remove them"):
            next(sink.open("s", min(offset + 1, 3 * MIB + 99)))
        flipped(path / "s.data", offset)

        assert data[: part * MIB] == good


def test_data_that_ends_early_is_found(path: Path, sink: DirectorySnapshots, save: Save) -> None:
    """Also when it ends between two parts, or is gone."""
    save(sink, "s", bytes(2 * MIB + 5))
    for size in (2 * MIB, MIB, 10, 0):
        with (path / "s.data").open("r+b") as file:
            file.truncate(size)
        with pytest.raises(CorruptData, match="does not fit its checksum"):
            list(sink.open("s"))
    (path / "s.data").unlink()

    with pytest.raises(CorruptData, match=r"s\.data: damaged: the file is missing"):
        list(sink.open("s"))


def test_a_flipped_bit_in_a_manifest_is_an_error(
    path: Path, sink: DirectorySnapshots, save: Save, flipped: Flip
) -> None:
    """For a reader and for the list: no older snapshot is taken for the newest."""
    save(sink, "older", b"older")
    save(sink, "s", b"state")
    for offset in range((path / "s.manifest").stat().st_size):
        flipped(path / "s.manifest", offset)
        with pytest.raises(CorruptData, match=r"s\.manifest: damaged: it does not fit its checksum; put the"):
            sink.list()
        with pytest.raises(CorruptData, match=r"s\.manifest: damaged: it does not fit its checksum"):
            sink.open("s")
        flipped(path / "s.manifest", offset)

    assert 2 == len(sink.list())


def test_a_damaged_snapshot_can_be_deleted(path: Path, sink: DirectorySnapshots, save: Save) -> None:
    """Nothing of it has to be read for that."""
    save(sink, "s", b"state")
    (path / "s.manifest").write_bytes(b"")
    sink.delete("s")

    assert [] == sink.list()
    assert [] == names(path)


def test_a_manifest_under_another_name_is_found(path: Path, sink: DirectorySnapshots, save: Save) -> None:
    """Files that were renamed by hand would be taken for another snapshot."""
    save(sink, "s", b"state")
    (path / "s.manifest").rename(path / "t.manifest")

    with pytest.raises(CorruptData, match=r"t\.manifest: damaged: it is the manifest of snapshot 's'"):
        sink.list()


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        (
            b'{"format":2,"meta":["s",[[0,""],0],[[[]],[],{}],[[0,""],0],0,"",1],"parts":[]}',
            StorageError,
            "format 2, this",
        ),
        (b'{"format":1}', CorruptData, "damaged: Object missing required field `meta`"),
        (b'{"format":1,"meta":["\xff', CorruptData, "damaged: "),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    path: Path, sink: DirectorySnapshots, line: bytes, error: type[StorageError], message: str
) -> None:
    """Another format, other fields, no JSON; each with a right checksum."""
    from raftcore.backends.directory import _line_checksum

    (path / "s.manifest").write_bytes(line + b"\n" + _line_checksum(line))

    with pytest.raises(error, match=message):
        sink.list()


@pytest.mark.parametrize("id", ["../up", "/etc/x", "..", ".", "a/b\\c\0d", "größe 1%", "00012-000003-n/1", "A" * 200])
def test_no_id_leaves_the_directory(path: Path, sink: DirectorySnapshots, save: Save, id: str) -> None:
    """Ids come from other members, and from operators who name nodes as they like."""
    meta = save(sink, id, b"state")

    assert [path.name] == names(path.parent)
    assert 2 == len(names(path))
    assert all((path / name).is_file() for name in names(path))
    assert [meta] == sink.list()
    assert [b"state"] == list(sink.open(id))
    sink.delete(id)
    assert [] == names(path)


def test_an_id_too_long_for_a_file_name_is_refused(sink: DirectorySnapshots) -> None:
    """Before anything is written."""
    with pytest.raises(StorageError, match=r"snapshot id 'A{50}'… is too long for a file name; shorten the node's id"):
        sink.begin(SnapshotMeta("A" * 201, NO_LOG, NO_MEMBERSHIP, NO_LOG))


def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    path: Path, sink: DirectorySnapshots, save: Save, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    """The unfinished snapshot can be thrown away even then."""
    meta = save(sink, "s", b"state")
    writer = sink.begin(SnapshotMeta("t", NO_LOG, NO_MEMBERSHIP, NO_LOG))
    with largest_file(100_000):
        with pytest.raises(StorageError, match=r"t\.2\.tmp: can't write to it: .*; look at its permissions and"):
            writer.write(bytes(200_000))
        writer.abort()
    writer = sink.begin(SnapshotMeta("t", NO_LOG, NO_MEMBERSHIP, NO_LOG))
    with largest_file(100):
        writer.write(bytes(1000))  # less than the file's buffer, which closing can't flush
        writer.abort()

    assert [meta] == sink.list()
    assert ["s.data", "s.manifest"] == names(path)


def test_a_disk_that_is_full_at_the_commit_makes_no_snapshot(
    path: Path, sink: DirectorySnapshots, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    """What the file's buffer held back till then fails late."""
    writer = sink.begin(SnapshotMeta("t", NO_LOG, NO_MEMBERSHIP, NO_LOG))
    writer.write(b"x" * 1000)
    with largest_file(10), pytest.raises(StorageError, match=r"t\.data: can't commit it: .*; look at its permissions"):
        writer.commit(SnapshotMeta("t", NO_LOG, NO_MEMBERSHIP, NO_LOG, 1000))

    assert [] == sink.list()
    sink.start()
    assert [] == names(path)


def test_a_place_that_can_not_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    """Not when the first snapshot is due."""
    (tmp_path / "snapshots").write_bytes(b"a file")

    with pytest.raises(StorageError, match=r"snapshots: can't use it for snapshots: .*; look at its permissions"):
        DirectorySnapshots(tmp_path / "snapshots").start()


if __name__ == "__main__":
    save_until_killed(Path(sys.argv[1]), int(sys.argv[2]))

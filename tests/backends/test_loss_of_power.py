"""What is left on the disk when the power fails, at any moment: only what was flushed can be relied on.

POSIX promises no more: a file's content is there when the file was flushed, a name when its directory was. `PowerCut`
looks on while the real code calls the real system, and builds what may be left at each call in a directory of its own.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftcore.backends.directory import DirectorySnapshots
from raftcore.backends.sqlite_log import SqliteLog
from raftcore.contracts import WriteBatch
from raftcore.errors import StorageError
from raftcore.node.identity import DataDirectory
from raftcore.types import Entries, LeaderId, SnapshotMeta, Vote

Save = Callable[..., SnapshotMeta]
Runs = Callable[..., Entries]


class PowerCut:
    """What of a directory is flushed. `cuts`: (what `note` said, a directory as it may be found) for every call so far.

    Before each flush, renaming and removal two of them are built: one of what was flushed and nothing else, and one
    in which every name has reached the disk at once, but of contents only those that were flushed. `fail_on`: the
    number of the flush that fails. It looks on until `end`.
    """

    def __init__(self, live: Path, found: Path, patch: pytest.MonkeyPatch) -> None:
        self.live = live
        self.note: object = None
        self.cuts: list[tuple[object, Path]] = []
        self.flushes = 0
        self.fail_on = 0
        self._found = found
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {live.stat().st_ino: {}}
        self._kept: list[int] = []
        self._patch = patch
        self._flush, self._replace, self._unlink = os.fsync, Path.replace, Path.unlink
        patch.setattr(os, "fsync", self._when_flushed)
        patch.setattr(Path, "replace", lambda path, target: self._before(self._replace, path, target))
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: self._before(self._unlink, path, missing_ok))

    def _before(self, call: Callable[..., object], *arguments: object) -> object:
        self.cut()
        return call(*arguments)

    def _when_flushed(self, descriptor: int) -> None:
        self.cut()
        self.flushes += 1
        if self.flushes == self.fail_on:
            raise OSError(5, "input/output error")
        self._flush(descriptor)
        self._kept.append(os.dup(descriptor))  # so that its number is not given to another file
        number = os.fstat(descriptor).st_ino
        (path,) = [path for path in (self.live, *self.live.rglob("*")) if path.stat().st_ino == number]
        if path.is_dir():
            self._names[number] = self._now(path)
        else:
            self._contents[number] = path.read_bytes()

    def _now(self, directory: Path) -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in directory.iterdir()}

    def cut(self) -> Path:
        """The power fails now; the directory of what was flushed."""
        directories = {path.stat().st_ino: path for path in (self.live, *self.live.rglob("*")) if path.is_dir()}
        everything = {number: self._now(path) for number, path in directories.items()}
        flushed = {number: self._names.get(number, {}) for number in directories}
        for names in (everything, flushed):
            place = self._found / str(len(self.cuts))
            self._build(place, names, self.live.stat().st_ino)
            self.cuts.append((self.note, place))
        return place

    def _build(self, place: Path, names: dict[int, dict[str, int]], directory: int) -> None:
        place.mkdir(parents=True)
        for name, number in names[directory].items():
            if number in names:
                self._build(place / name, names, number)
            else:
                (place / name).write_bytes(self._contents.get(number, b""))

    def end(self) -> None:
        """Look on no longer."""
        self._patch.undo()
        while self._kept:
            os.close(self._kept.pop())


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PowerCut]:
    """A directory, empty and flushed, and its power."""
    live = tmp_path / "live"
    live.mkdir()
    cut = PowerCut(live, tmp_path / "found", monkeypatch)
    yield cut
    cut.end()


def test_a_snapshot_survives_from_its_commit_to_its_deletion(power: PowerCut, save: Save) -> None:
    """Wherever the power fails: what was committed is there, and what is there is whole."""
    contents = {name: random.Random(name).randbytes(100_000) for name in "ab"}
    sink = DirectorySnapshots(power.live / "snapshots")
    power.note = ""
    sink.start()
    for name, must in (("a", "a"), ("b", "ab")):
        save(sink, name, contents[name])
        power.note = must
    power.note = "b"
    sink.delete("a")
    power.cut()
    power.end()

    assert len(power.cuts) > 20
    for must, place in power.cuts:
        found = DirectorySnapshots(place / "snapshots")
        found.start()
        read = {meta.id: b"".join(found.open(meta.id)) for meta in found.list()}
        assert set(str(must)) <= set(read)
        assert read == {name: contents[name] for name in read}


@pytest.mark.parametrize("step", ["start", "commit", "delete"])
def test_a_flush_that_fails_is_an_error_wherever_it_is(power: PowerCut, save: Save, step: str) -> None:
    """What needs several flushes is never reported as done when one of them failed."""
    sink = DirectorySnapshots(power.live / "snapshots")
    sink.start()
    save(sink, "s", b"state")
    steps: dict[str, Callable[[], object]] = {
        "start": sink.start,
        "commit": lambda: save(sink, "t", b"another state"),
        "delete": lambda: sink.delete("s"),
    }
    failures = 0
    while failures < 10:
        before = power.flushes
        power.fail_on = before + failures + 1
        try:
            steps[step]()
        except StorageError as error:
            failures += 1
            assert "input/output error; look at its permissions and the disk" in str(error)  # noqa: PT017 # no pytest.raises: the last try goes through
        else:
            break
    needed = power.flushes - before
    power.end()

    assert 1 <= failures == needed
    assert {"start": ["s"], "commit": ["s", "t"], "delete": []}[step] == sorted(meta.id for meta in sink.list())


def test_a_new_log_is_never_taken_for_one_that_was_lost(power: PowerCut, run: Runs) -> None:
    """The watermark's file is there before the first batch is acknowledged."""
    log = SqliteLog(power.live / "log.sqlite")
    log.open()
    log.write(WriteBatch(runs=[run(1, b"a")]))
    found = power.cut()
    for name in ("log.sqlite", "log.sqlite-wal"):  # SQLite flushes these itself
        (found / name).write_bytes((power.live / name).read_bytes())
    log.close()
    power.end()
    again = SqliteLog(found / "log.sqlite")
    last = again.open().last.index
    again.close()

    assert 1 == last


def test_a_data_directory_is_whose_it_was(power: PowerCut) -> None:
    """Once it has been opened it keeps its name; before that, it may have none yet but never half of one."""
    directory = DataDirectory(power.live / "data")
    power.note = identity = None
    identity = directory.open("test", "n1", random.Random(1))
    power.note = identity
    power.cut()
    power.end()
    directory.close()

    assert len(power.cuts) > 4
    for must, place in power.cuts:
        found = DataDirectory(place / "data")
        again = found.open("test", "n1", random.Random(2))
        found.close()
        assert must in (None, again)


def test_a_data_directory_survives_with_what_it_has_promised(power: PowerCut) -> None:
    """Its own name too: a directory that vanished whole would take every acknowledgement with it."""
    data = power.live / "data"
    directory, log = DataDirectory(data), SqliteLog(data / "log.sqlite")
    directory.open("test", "n1", random.Random(1))
    log.open()
    log.write(WriteBatch(vote=Vote(LeaderId(1, "n1"), False)))

    found = power.cut()
    power.end()
    log.close()
    directory.close()

    assert (found / "data" / "identity.json").exists()
    assert (found / "data" / "log.sqlite").exists()

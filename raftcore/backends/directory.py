"""A snapshot sink in a directory: two files a snapshot, checked part by part when they are read.

Files (format 1), named by the snapshot's id with everything percent-encoded that is not a letter, a digit or one of
``-._~``, so that an id, which may come from another member, names nothing outside the directory:

- ``<id>.data`` is the stream;
- ``<id>.manifest`` makes the snapshot exist. Its first line is a JSON object with ``format`` (1), ``meta`` (the
  `SnapshotMeta` as an array, in the order of its fields) and ``parts`` (SHA-256 in hex of every MiB of the stream); its
  second line is the SHA-256 of the first;
- ``*.tmp`` is on its way to become one of the two. `start` removes these, and data without a manifest.

A manifest gets its name after its content, and that of the data, is flushed. So no crash leaves a damaged one, and one
that does not fit its checksum is an error for `list` as well: to go on without it could mean to go on with an older
state and an older membership than the log begins with. Whoever knows better can remove the file.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from raftcore.errors import CorruptData, StorageError
from raftcore.types import SnapshotMeta

FORMAT: Final = 1
PART_BYTES: Final = 1024 * 1024
_NAME_LIMIT: Final = 200  # of the 255 bytes that file systems allow, so that an ending still fits


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    meta: SnapshotMeta
    parts: list[str]


_manifest_decoder = msgspec.json.Decoder(_Manifest)


def sync_directory(path: Path) -> None:
    """Make created, renamed and removed names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class DirectorySnapshots:
    """The snapshots of one node in a directory of its own."""

    shared = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = itertools.count(1)

    def start(self) -> None:
        with _errors(self._path, "use it for snapshots"):
            self._path.mkdir(parents=True, exist_ok=True)
            if not os.access(self._path, os.W_OK | os.X_OK):
                raise PermissionError(f"no right to write in {self._path}")
            sync_directory(self._path)  # a manifest whose removal is not durable must not come back without its data
            for file in sorted(self._path.iterdir()):
                if file.suffix == ".tmp" or (file.suffix == ".data" and not file.with_suffix(".manifest").exists()):
                    file.unlink()
            sync_directory(self._path)
            sync_directory(self._path.parent)

    def begin(self, meta: SnapshotMeta) -> DirectorySnapshotWriter:
        data = self._file(meta.id, "data")
        return DirectorySnapshotWriter(meta.id, data, data.with_name(f"{data.stem}.{next(self._temporary)}.tmp"))

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        manifest = self._manifest(self._file(id, "manifest"))
        if not 0 <= offset <= manifest.meta.size:
            raise StorageError(
                f"{self._path}: snapshot {id!r} has {manifest.meta.size} bytes, it can't be read from byte {offset} on"
            )
        return _verified(self._file(id, "data"), manifest, offset)

    def list(self) -> list[SnapshotMeta]:
        with _errors(self._path, "list it"):
            files = sorted(self._path.glob("*.manifest"))
        metas = [self._manifest(file).meta for file in files]
        return sorted(metas, key=lambda meta: meta.last, reverse=True)

    def delete(self, id: str) -> None:
        manifest, data = self._file(id, "manifest"), self._file(id, "data")
        with _errors(manifest, "delete it"):
            manifest.unlink(missing_ok=True)
            # Data without a manifest is a left-over; a manifest without data would be damage.
            sync_directory(self._path)
            data.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing to release: files are open only while a snapshot is written or read."""

    def _file(self, id: str, ending: str) -> Path:
        name = quote(id, safe="")
        if len(name) > _NAME_LIMIT:
            raise StorageError(
                f"{self._path}: snapshot id {id[:50]!r}… is too long for a file name; shorten the node's id"
            )
        return self._path / f"{name}.{ending}"

    def _manifest(self, file: Path) -> _Manifest:
        with _errors(file, "read it"):
            try:
                line, _, checksum = file.read_bytes().partition(b"\n")
            except FileNotFoundError:
                raise StorageError(f"{file}: no such snapshot; list() names those that exist") from None
        if checksum != _line_checksum(line):
            raise _damaged(file, "it does not fit its checksum")
        try:
            manifest = _manifest_decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _damaged(file, str(error)) from None
        if manifest.format != FORMAT:
            raise StorageError(
                f"{file}: format {manifest.format}, this release reads format {FORMAT}; run the release that wrote it"
            )
        if self._file(manifest.meta.id, "manifest") != file:
            raise _damaged(file, f"it is the manifest of snapshot {manifest.meta.id!r}")
        return manifest


class DirectorySnapshotWriter:
    """One snapshot on its way into a `DirectorySnapshots`."""

    def __init__(self, id: str, data: Path, temporary: Path) -> None:
        self._id = id
        self._data = data
        self._temporary = temporary
        self._size = 0
        self._parts: list[str] = []
        self._part = hashlib.sha256()
        self._room = PART_BYTES
        with _errors(temporary, "create it"):
            self._file = temporary.open("xb")

    def write(self, chunk: bytes) -> None:
        with _errors(self._temporary, "write to it"):
            self._file.write(chunk)
        self._size += len(chunk)
        rest = memoryview(chunk)
        while len(rest) >= self._room:
            self._part.update(rest[: self._room])
            rest = rest[self._room :]
            self._end_part()
        self._part.update(rest)
        self._room -= len(rest)

    def commit(self, meta: SnapshotMeta) -> None:
        if (meta.id, meta.size) != (self._id, self._size):
            self.abort()
            raise StorageError(
                f"{self._data}: snapshot {self._id!r} of {self._size} bytes can't be committed as {meta.id!r} of "
                f"{meta.size} bytes; take it again"
            )
        if self._room < PART_BYTES:
            self._end_part()
        line = msgspec.json.encode(_Manifest(FORMAT, meta, self._parts))
        with _errors(self._data, "commit it"):
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._name(self._data)
            with self._temporary.open("xb") as file:
                file.write(line + b"\n" + _line_checksum(line))
                file.flush()
                os.fsync(file.fileno())
            # The snapshot exists from here on. Its data has its name for good: the directory was flushed in between.
            self._name(self._data.with_suffix(".manifest"))

    def abort(self) -> None:
        with _errors(self._temporary, "remove it"):
            with suppress(OSError):  # in a full disk closing fails; what it could not flush is thrown away anyhow
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _name(self, final: Path) -> None:
        self._temporary.replace(final)
        sync_directory(final.parent)

    def _end_part(self) -> None:
        self._parts.append(self._part.hexdigest())
        self._part = hashlib.sha256()
        self._room = PART_BYTES


def _verified(data: Path, manifest: _Manifest, offset: int) -> Iterator[bytes]:
    """The stream from `offset` on. No byte of a part is handed over before the whole part has been checked."""
    size = manifest.meta.size
    with _errors(data, "read it"):
        try:
            file = data.open("rb")
        except FileNotFoundError:
            raise _damaged(data, "the file is missing") from None
        with file:
            first = offset // PART_BYTES
            file.seek(first * PART_BYTES)
            for number in range(first, len(manifest.parts)):
                at = number * PART_BYTES
                part = file.read(min(PART_BYTES, size - at))
                if hashlib.sha256(part).hexdigest() != manifest.parts[number]:
                    raise _damaged(data, f"the MiB at byte {at} does not fit its checksum")
                if offset < at + len(part):
                    yield part[max(0, offset - at) :]


def _line_checksum(line: bytes) -> bytes:
    return hashlib.sha256(line).hexdigest().encode() + b"\n"


def _damaged(file: Path, finding: str) -> CorruptData:
    return CorruptData(
        f"{file}: damaged: {finding}; put the snapshot's two files back from a backup, or remove them if an older "
        "snapshot and the log, or another member, can serve"
    )


@contextmanager
def _errors(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: can't {doing}: {error}; look at its permissions and the disk, then restart the node"
        ) from error

"""A snapshot sink on the simulated disk: two files a snapshot, checked part by part when they are read.

- ``snapshots/<id>.data`` is the stream;
- ``snapshots/<id>.manifest`` makes the snapshot exist: the CRC-32 of what follows (4 bytes, little-endian), and the
  msgpack of the `SnapshotMeta` and the CRC-32 of every `PART_BYTES` of the stream;
- ``snapshots/<number>.tmp`` is on its way to become one of the two.

Each gets its name after its bytes are synced, and the manifest after the data has its own for good. So no crash leaves
a manifest that is damaged, or that lacks its data.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from raftcore.errors import CorruptData, StorageError
from raftcore.types import SnapshotMeta

if TYPE_CHECKING:
    from raftcore.sim.disk import Disk, File

PART_BYTES: Final = 4096
PLACE: Final = "snapshots/"

_Manifest = tuple[SnapshotMeta, list[int]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Manifest).decode


class DiskSnapshots:
    """The snapshots of one node in files of a simulated disk."""

    shared = False

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._temporary = itertools.count(1)

    def start(self) -> None:
        disk = self._disk
        with _errors(PLACE, "use it"):
            # First, what a killed process has renamed and removed, and not synced: data must not go for good while its
            # manifest may come back, and a snapshot that is listed must stay.
            disk.sync_directory()
            for name in disk.names():
                stem, _, ending = name.rpartition(".")
                if name.startswith(PLACE) and (
                    ending == "tmp" or (ending == "data" and not disk.exists(f"{stem}.manifest"))
                ):
                    disk.delete(name)

    def begin(self, meta: SnapshotMeta) -> DiskSnapshotWriter:
        return DiskSnapshotWriter(self._disk, meta.id, f"{PLACE}{next(self._temporary)}.tmp")

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        meta, parts = self._manifest(_manifest(id))
        if not 0 <= offset <= meta.size:
            raise StorageError(f"snapshot {id!r} has {meta.size} bytes, it can't be read from byte {offset} on")
        if not self._disk.exists(_data(id)):
            raise _damaged(_data(id), "the file is missing")
        # Opened now: who deletes the snapshot later does not disturb the reader.
        return _verified(self._disk.open(_data(id)), meta.size, parts, offset)

    def list(self) -> list[SnapshotMeta]:
        names = [name for name in self._disk.names() if name.startswith(PLACE) and name.endswith(".manifest")]
        return sorted((self._manifest(name)[0] for name in names), key=lambda meta: meta.last, reverse=True)

    def delete(self, id: str) -> None:
        with _errors(_manifest(id), "delete it"):
            if self._disk.exists(_manifest(id)):
                self._disk.delete(_manifest(id))
            # Data without a manifest is a left-over; a manifest without data would be damage.
            self._disk.sync_directory()
            if self._disk.exists(_data(id)):
                self._disk.delete(_data(id))

    def close(self) -> None:
        """Nothing to release."""

    def _manifest(self, name: str) -> _Manifest:
        if not self._disk.exists(name):
            raise StorageError(f"{name}: no such snapshot; list() names those that exist")
        with _errors(name, "read it"):
            file = self._disk.open(name)
            content = file.read(0, file.size)
        if zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
            raise _damaged(name, "it does not fit its checksum")
        manifest: _Manifest = _decode(content[4:])
        return manifest


class DiskSnapshotWriter:
    """One snapshot on its way into a `DiskSnapshots`."""

    def __init__(self, disk: Disk, id: str, temporary: str) -> None:
        self._disk = disk
        self._id = id
        self._temporary = temporary
        self._rest = b""
        self._parts: list[int] = []
        with _errors(temporary, "create it"):
            self._file = disk.open(temporary)

    def write(self, chunk: bytes) -> None:
        with _errors(self._temporary, "write to it"):
            self._file.append(chunk)
        rest = self._rest + chunk
        whole = len(rest) - len(rest) % PART_BYTES
        self._parts += _checksums(rest[:whole])
        self._rest = rest[whole:]

    def commit(self, meta: SnapshotMeta) -> None:
        size = len(self._parts) * PART_BYTES + len(self._rest)
        if (meta.id, meta.size) != (self._id, size):
            self.abort()
            raise StorageError(
                f"snapshot {self._id!r} of {size} bytes can't be committed as {meta.id!r} of {meta.size} bytes; "
                "take it again"
            )
        body = _encode((meta, self._parts + _checksums(self._rest)))
        with _errors(_data(self._id), "commit it"):
            self._name(self._file, _data(self._id))
            manifest = self._disk.open(self._temporary)
            manifest.append(zlib.crc32(body).to_bytes(4, "little") + body)
            self._name(manifest, _manifest(self._id))

    def abort(self) -> None:
        with _errors(self._temporary, "remove it"):
            if self._disk.exists(self._temporary):
                self._disk.delete(self._temporary)

    def _name(self, file: File, name: str) -> None:
        """Give a finished file its name, for good."""
        file.sync()
        self._disk.rename(self._temporary, name)
        self._disk.sync_directory()
        file.close()


def _data(id: str) -> str:
    return f"{PLACE}{id}.data"


def _manifest(id: str) -> str:
    return f"{PLACE}{id}.manifest"


def _checksums(data: bytes) -> list[int]:
    return [zlib.crc32(data[at : at + PART_BYTES]) for at in range(0, len(data), PART_BYTES)]


def _verified(file: File, size: int, parts: list[int], offset: int) -> Iterator[bytes]:
    """The stream from `offset` on. No byte of a part is handed over before the whole part has been checked."""
    for number in range(offset // PART_BYTES, len(parts)):
        at = number * PART_BYTES
        with _errors(file.name, "read it"):
            part = file.read(at, min(PART_BYTES, size - at))
        if zlib.crc32(part) != parts[number]:
            raise _damaged(file.name, f"the part at byte {at} does not fit its checksum")
        if offset < at + len(part):
            yield part[max(0, offset - at) :]


def _damaged(name: str, finding: str) -> CorruptData:
    return CorruptData(f"{name}: damaged: {finding}; remove the snapshot's two files if another member can serve")


@contextmanager
def _errors(name: str, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{name}: can't {doing}: {error}; look at the disk, then restart the node") from error

"""A snapshot sink that keeps everything in memory, for tests, simulations and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from raftcore.errors import StorageError
from raftcore.types import SnapshotMeta

CHUNK_BYTES = 1024 * 1024


class MemorySnapshots:
    """Snapshots of one node, in memory. What was committed stays with the object, also when it is started again."""

    shared = False

    def __init__(self) -> None:
        # Each method touches this with one operation that can't be interrupted, so threads need no lock.
        self._committed: dict[str, tuple[SnapshotMeta, bytes]] = {}

    def start(self) -> None:
        """Nothing to prepare: what a crash left unfinished was never kept."""

    def begin(self, meta: SnapshotMeta) -> MemorySnapshotWriter:
        return MemorySnapshotWriter(self._committed, meta.id)

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        stored = self._committed.get(id)
        if stored is None:
            raise StorageError(f"no snapshot {id!r} in memory; list() names those that exist")
        data = stored[1]
        if not 0 <= offset <= len(data):
            raise StorageError(f"snapshot {id!r} has {len(data)} bytes, it can't be read from byte {offset} on")
        return (data[at : at + CHUNK_BYTES] for at in range(offset, len(data), CHUNK_BYTES))

    def list(self) -> list[SnapshotMeta]:
        metas = [meta for meta, _ in self._committed.copy().values()]
        return sorted(metas, key=lambda meta: meta.last, reverse=True)

    def delete(self, id: str) -> None:
        self._committed.pop(id, None)

    def close(self) -> None:
        """Nothing to release."""


class MemorySnapshotWriter:
    """One snapshot on its way into a `MemorySnapshots`."""

    def __init__(self, committed: dict[str, tuple[SnapshotMeta, bytes]], id: str) -> None:
        self._committed = committed
        self._id = id
        self._data = bytearray()

    def write(self, chunk: bytes) -> None:
        self._data += chunk

    def commit(self, meta: SnapshotMeta) -> None:
        if (meta.id, meta.size) != (self._id, len(self._data)):
            raise StorageError(
                f"snapshot {self._id!r} of {len(self._data)} bytes can't be committed "
                f"as {meta.id!r} of {meta.size} bytes"
            )
        self._committed[self._id] = (meta, bytes(self._data))

    def abort(self) -> None:
        self._data.clear()

"""The contract of a snapshot sink: where snapshots are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from raftcore.types import SnapshotMeta


class SnapshotWriter(Protocol):
    """One snapshot being written. Calls come one at a time; exactly one of `commit` and `abort` ends it."""

    def write(self, chunk: bytes) -> None:
        """Append bytes to the stream."""
        ...

    def commit(self, meta: SnapshotMeta) -> None:
        """Make the snapshot exist, durably and atomically. `meta` is `begin`'s with `size` and `digest` filled in."""
        ...

    def abort(self) -> None:
        """Throw away what was written."""
        ...


class SnapshotSink(Protocol):
    """Where snapshots are kept. Methods may block: they are called in a thread, never on the event loop.

    Calls. Several may run at once, in different threads: one snapshot being written while another is read,
    listed or deleted.

    Existence. A snapshot exists from the moment when `commit` has made its manifest durable. A crash before
    leaves nothing that `list` shows; such left-overs are removed by the next `start`.

    Damage. `open` verifies what it yields (checksum by part); what does not fit is `CorruptData`, raised at the latest
    when the damaged part is reached, so that a reader never sees a whole stream that is wrong.
    """

    shared: bool
    """True when every member sees the same snapshots (an object store), so that a reference is enough to send."""

    def start(self) -> None:
        """Prepare the place; called once, first. Raises `StorageError` when it can't be used."""
        ...

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Start writing a snapshot; `meta.size` and `meta.digest` are not known yet."""
        ...

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        """The stream of a committed snapshot from byte `offset` on, in chunks of at most 1 MiB."""
        ...

    def list(self) -> list[SnapshotMeta]:
        """The committed snapshots, newest (greatest `last`) first."""
        ...

    def delete(self, id: str) -> None:
        """Remove a snapshot: its manifest first, so that half a deletion leaves no half snapshot."""
        ...

    def close(self) -> None:
        """Release everything. Called once, also after a failure."""
        ...

"""The contract of a log store: one node's vote and log, durably."""

from __future__ import annotations

from typing import Protocol

import msgspec

from raftcore.types import NO_LOG, NO_VOTE, Entries, LogId, Vote


class LogState(msgspec.Struct, frozen=True):
    """What a store holds when it is opened.

    `vote`: the newest that was written. `purged`: the last entry that was purged (`NO_LOG`: none). `last`:
    the last entry, or `purged` when there is none behind it. `committed`: the newest commit hint that was
    written.
    """

    vote: Vote = NO_VOTE
    purged: LogId = NO_LOG
    last: LogId = NO_LOG
    committed: int = 0


class WriteBatch(msgspec.Struct, gc=False):
    """One atomic, durable write. Its parts take effect in the order of the fields.

    `vote`: replaces the stored vote (None: unchanged). `reset`: every entry is dropped and the log continues
    behind this id, which becomes the purged one (None: no; a snapshot that is ahead of the log was
    installed). `truncate_from`: entries with this index and above are deleted (None: nothing is; it may lie
    past the end). `runs`: consecutive runs, the first of which starts right behind the log's end as it then
    is. `committed`: a hint of the commit index; it may be dropped or stored late, but a store never reports
    one that is greater than what it was given.
    """

    vote: Vote | None = None
    reset: LogId | None = None
    truncate_from: int | None = None
    runs: list[Entries] = []
    committed: int = 0


class LogStore(Protocol):
    """One node's vote and log.

    Calls. All methods are called one at a time, never two at once, `open` first and `close` last. When `blocking` is
    True they run in one thread that belongs to this store, so plain synchronous code is right. When it is
    False they are called on the event loop and must return at once, without waiting for anything.

    Durability. When `write` returns, everything in its batch is durable (on a disk: flushed), so that a crash right
    afterwards loses nothing of it. A crash *during* a write leaves all of the batch or none of it; so a vote and the
    entries that depend on it can't be separated. Writes are never reordered.

    No holes. At any moment, also after a crash, the entries are exactly ``purged.index + 1 .. last.index``.

    Damage. An unfinished write at the tail that was never acknowledged is dropped when the store is opened.
    Any other damage is `CorruptData`: a store never cuts off, skips or invents an entry to get going again.
    Each stored run carries the checksum of `raftcore.wire.encode_run`; `read` verifies it
    (`raftcore.wire.decode_run` does).

    Errors. Any exception from `write` or `purge` stops the node; the store is not called again except for `close`. A
    store need not repair itself, but must refuse further writes after one has failed. Storing in a full disk, or a
    failed flush, is such an error: never retried. Raise `StorageError` (or a subclass) with the path and the
    next step in the message. `StorageInUse` when another process has the data open.
    """

    blocking: bool

    def open(self) -> LogState:
        """Open or create the store and report what it holds. An empty one reports `LogState()`."""
        ...

    def write(self, batch: WriteBatch) -> None:
        """Apply `batch` atomically; durable on return."""
        ...

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        """The entries with start <= index < stop, as consecutive runs, beginning exactly at `start`.

        A shorter answer is right when it would exceed `max_bytes` of payload or when the log ends before
        `stop`; an answer is empty only when `start` is past the end. `start` is never at or below the purged
        index.
        """
        ...

    def purge(self, upto: LogId) -> None:
        """Forget entries up to and including `upto`, and remember `upto` as the purged id; durable on return.

        `upto` is an entry that the log holds, or the purged id itself.
        """
        ...

    def close(self) -> None:
        """Release everything. Called once, also after a failure."""
        ...

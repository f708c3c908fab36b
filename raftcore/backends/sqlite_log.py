"""The durable log store that needs nothing but Python: one SQLite file, flushed once with every batch.

`raftcore.backends.sqlite_format` says what is stored, `raftcore.backends.sqlite_checks` what damage is found and how.

A usual batch is one INSERT statement that commits itself, so that the thread gives up the interpreter lock once. Only a
batch with a vote, a reset or a truncation, and a purge, takes a transaction of several statements.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Final

from raftcore.backends.directory import sync_directory
from raftcore.backends.memory_log import clip
from raftcore.backends.sqlite_checks import REJOIN, Watermark, verify_wal
from raftcore.backends.sqlite_format import (
    APPLICATION,
    FORMAT,
    META_TABLE,
    RUNS_TABLE,
    Meta,
    decode_meta,
    encode_meta,
    row_checksum,
)
from raftcore.contracts import LogState, WriteBatch
from raftcore.errors import CorruptData, StorageError, StorageInUse, WireError
from raftcore.types import Entries, LogId
from raftcore.wire import decode_run, encode_run

PAGE_BYTES: Final = 4096
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
ROWS_PER_STATEMENT: Final = 64

_INSERT: Final = ["INSERT INTO runs VALUES " + ",".join(["(?,?,?,?,?)"] * n) for n in range(ROWS_PER_STATEMENT + 1)]
# Many runs as a single row. Fetching row by row takes the interpreter lock anew for each; beside a busy event loop that
# held up the writes behind a read by half a millisecond a run.
_READ: Final = """
    SELECT group_concat(hex(data)) FROM runs WHERE last BETWEEN ? AND (
        SELECT max(last) FROM (
            SELECT last, sum(length(data)) OVER (ORDER BY last) - length(data) AS before
            FROM runs WHERE last >= ? ORDER BY last LIMIT ?
        ) WHERE before < ?
    )
"""
READ_RUNS: Final = 1024
READ_BYTES: Final = 1024 * 1024
_first_index = attrgetter("first_index")


def _is_plain(batch: WriteBatch) -> bool:
    """Whether the batch is only runs, few enough for one statement, which is atomic by itself."""
    return (
        batch.vote is None
        and batch.reset is None
        and batch.truncate_from is None
        and len(batch.runs) <= ROWS_PER_STATEMENT
    )


class SqliteLog:
    """One node's vote and log in an SQLite file. Nothing is touched before `open`."""

    blocking = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watermark = Watermark(path.with_name(path.name + "-acked"))
        self._connection: sqlite3.Connection | None = None
        self._meta = Meta()
        self._batch = 0
        self._next = 1
        self._committed = 0
        self._uncheckpointed = 0
        self._failed = "it is not open"

    def open(self) -> LogState:
        """Check everything and report it: the whole log is read once. Raises as `LogStore.open` says."""
        try:
            with self._errors("open it"):
                if not self._path.parent.exists():
                    self._path.parent.mkdir(parents=True)
                    sync_directory(self._path.parent.parent)
                acknowledged = self._watermark.open()
                if acknowledged is not None and not (self._path.exists() and self._path.stat().st_size):
                    raise self._corrupt(f"missing or empty, but {acknowledged} batches of it were acknowledged")
                verify_wal(self._path.with_name(self._path.name + "-wal"))
                connection = self._connect()
                self._check_schema(connection, new=acknowledged is None)
                last = self._load(connection)
                self._settle(connection, acknowledged)
        except StorageError:
            self.close()
            raise
        self._failed = ""
        return LogState(self._meta.vote, self._meta.purged, last, self._committed)

    def write(self, batch: WriteBatch) -> None:
        connection = self._writable()
        committed = max(batch.committed, self._committed)
        number = self._batch + 1
        with self._errors("write"):
            if _is_plain(batch):
                if not batch.runs:
                    self._committed = committed  # a hint alone is not worth a flush: it goes with the next batch
                    return
                following = self._check_runs(batch.runs, self._next)
                self._insert(connection, batch.runs, number, committed)
                self._next = following
            else:
                self._transact(connection, batch, number, committed)
            self._acknowledge(connection, number, committed, sum(run.size for run in batch.runs))

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        connection = self._opened()
        if start <= self._meta.purged.index:
            raise StorageError(
                f"{self._path}: entry {start} is purged; the log begins behind {self._meta.purged.index}"
            )
        if start >= self._next:
            return []
        taken: list[Entries] = []
        with self._errors("read"):
            taken += clip(self._runs(connection, start, stop, max_bytes), start, stop, max_bytes)
        return taken

    def purge(self, upto: LogId) -> None:
        connection = self._writable()
        if upto.index <= self._meta.purged.index:
            return
        number = self._batch + 1
        with self._errors("purge"):
            if upto.index >= self._next:
                raise StorageError(f"{self._path}: {upto.index} can't be purged: the log ends at {self._next - 1}")
            meta = Meta(number, self._meta.vote, upto, self._committed, self._next - 1)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM runs WHERE last <= ?", (upto.index,))
            self._store_meta(connection, meta)
            connection.execute("COMMIT")
            self._meta = meta
            self._acknowledge(connection, number, self._committed, 0)

    def close(self) -> None:
        self._failed = self._failed or "it is closed"
        connection, self._connection = self._connection, None
        try:
            with self._errors("close it"):
                if connection is not None:
                    self._watermark.flush()
                    connection.close()
        finally:
            self._watermark.close()

    # -- opening ---------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        connection = self._connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        for pragma in (
            f"page_size = {PAGE_BYTES}",  # of a new file
            "locking_mode = EXCLUSIVE",  # before the journal mode: then no other process can read along
            "journal_mode = WAL",
            "synchronous = FULL",  # a flush with every commit; NORMAL would not be durable
            "fullfsync = ON",  # macOS: through the disk's own cache
            "wal_autocheckpoint = 0",  # `_acknowledge` does it, where an error is seen
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            raise StorageError(f"{self._path}: journal mode {mode!r} instead of 'wal'; keep the log on a local disk")
        return connection

    def _check_schema(self, connection: sqlite3.Connection, new: bool) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        schema = tuple(sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY name"))
        if new and (application, version, schema) == (0, 0, ()):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(META_TABLE)
            connection.execute(RUNS_TABLE)
            self._store_meta(connection, Meta())
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            connection.execute("COMMIT")
            return
        if application != APPLICATION:
            raise StorageError(
                f"{self._path}: not a raftcore log (application id {application}); give the log store another path"
            )
        if version != FORMAT:
            raise StorageError(
                f"{self._path}: format {version}, this release reads format {FORMAT}; run the release that wrote it"
            )
        if schema != (META_TABLE, RUNS_TABLE):
            raise self._corrupt("its tables are not those that raftcore made")

    def _load(self, connection: sqlite3.Connection) -> LogId:
        """Read and check everything that is stored; the id of the last entry."""
        (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if finding != "ok":
            raise self._corrupt(finding.splitlines()[-1])
        self._meta = meta = self._load_meta(connection)
        self._batch, self._committed, last = meta.batch, meta.committed, meta.purged
        rows = connection.execute("SELECT last, batch, committed, checksum, data FROM runs ORDER BY last")
        for index, number, committed, checksum, data in rows:
            try:
                run = self._decode(data, last.index + 1)
                intact = (index, checksum) == (run.last_index, row_checksum(index, number, committed, data))
            except (struct.error, TypeError) as error:  # a damaged page may give values of any type
                raise self._corrupt(f"the row of the run that ends at {index}: {error}") from None
            if not intact:
                raise self._corrupt(f"the row of {run!r} does not fit its checksum")
            # Only the first row may begin at or below the purged id, and has to reach beyond it.
            if run.first_index != last.index + 1 and not (
                last == meta.purged and run.first_index <= last.index < run.last_index
            ):
                raise self._corrupt(f"{run!r} does not follow {last.index}")
            last = run.last_id
            self._batch = max(self._batch, number)
            self._committed = max(self._committed, committed)
        if last.index < meta.last:
            raise self._corrupt(f"it ends with entry {last.index}, but entry {meta.last} was stored")
        self._next = last.index + 1
        return last

    def _settle(self, connection: sqlite3.Connection, acknowledged: int | None) -> None:
        """Compare with the watermark, and make durable what was found: a killed process may not have flushed it."""
        if acknowledged is None and self._batch:
            raise self._corrupt(f"it holds {self._batch} batches, but {self._watermark.path.name} is missing or empty")
        if (acknowledged or 0) > self._batch:
            raise self._corrupt(
                f"it ends with batch {self._batch}, but batch {acknowledged} was acknowledged; the last entry left is "
                f"{self._next - 1}"
            )
        # An empty write-ahead log also keeps `verify_wal` simple: no left-overs of another session lie in it.
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageInUse(f"{self._path}: another process is reading it; stop that process")
        if acknowledged is None:
            self._watermark.create()
        self._watermark.advance(self._batch)
        self._watermark.flush()

    # -- rows ------------------------------------------------------------------------------------------------

    def _runs(self, connection: sqlite3.Connection, start: int, stop: int, max_bytes: int) -> Iterator[Entries]:
        """The runs from the one that contains `start` on, as far as `clip` may need them. Verified."""
        following = start
        while following < min(stop, self._next):
            limits = min(READ_RUNS, stop - following), min(READ_BYTES, max(1, max_bytes))
            ((rows,),) = connection.execute(_READ, (following, following, *limits)).fetchall()
            runs = [self._decode(bytes.fromhex(row), following) for row in (rows or "").split(",")]
            runs.sort(key=_first_index)  # SQLite promises no order inside `group_concat`
            for run in runs:
                if not run.first_index <= following <= run.last_index:
                    raise self._corrupt(f"{run!r} where entry {following} should be")
                following = run.last_index + 1
                yield run

    def _decode(self, data: bytes, near: int) -> Entries:
        try:
            return decode_run(data)
        except WireError as error:
            raise self._corrupt(f"at entry {near}: {error}") from None

    def _insert(self, connection: sqlite3.Connection, runs: list[Entries], number: int, committed: int) -> None:
        for at in range(0, len(runs), ROWS_PER_STATEMENT):
            values: list[int | bytes] = []
            part = runs[at : at + ROWS_PER_STATEMENT]
            for run in part:
                data, last = encode_run(run), run.last_index
                values += (last, number, committed, row_checksum(last, number, committed, data), data)
            connection.execute(_INSERT[len(part)], values)

    def _load_meta(self, connection: sqlite3.Connection) -> Meta:
        rows = connection.execute("SELECT id, data FROM meta").fetchall()
        try:
            ((_, data),) = rows
            return decode_meta(data)
        except (ValueError, TypeError) as error:
            raise self._corrupt(f"the row with the vote: {error}") from None

    def _store_meta(self, connection: sqlite3.Connection, meta: Meta) -> None:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (0, ?)", (encode_meta(meta),))

    # -- writing ---------------------------------------------------------------------------------------------

    def _transact(self, connection: sqlite3.Connection, batch: WriteBatch, number: int, committed: int) -> None:
        vote = self._meta.vote if batch.vote is None else batch.vote
        purged = self._meta.purged if batch.reset is None else batch.reset
        end = self._next
        connection.execute("BEGIN IMMEDIATE")
        if batch.reset is not None:
            connection.execute("DELETE FROM runs")
            end = purged.index + 1
        if batch.truncate_from is not None and batch.truncate_from < end:
            end = batch.truncate_from
            self._truncate(connection, end, purged.index, number, committed)
        following = self._check_runs(batch.runs, end)
        self._insert(connection, batch.runs, number, committed)
        meta = Meta(number, vote, purged, committed, following - 1)
        self._store_meta(connection, meta)
        connection.execute("COMMIT")
        self._meta, self._next = meta, following

    def _truncate(self, connection: sqlite3.Connection, cut: int, purged: int, number: int, committed: int) -> None:
        if cut <= purged:
            raise StorageError(f"{self._path}: entries from {cut} on can't be cut off: {purged} is purged")
        (run,) = self._runs(connection, cut, cut + 1, 1)
        connection.execute("DELETE FROM runs WHERE last >= ?", (cut,))
        if run.first_index < cut and cut - 1 > purged:
            self._insert(connection, [run.part(run.first_index, cut - 1)], number, committed)

    def _check_runs(self, runs: list[Entries], following: int) -> int:
        for run in runs:
            if run.first_index != following:
                raise StorageError(
                    f"{self._path}: {run!r} does not follow the log's end: the next index is {following}"
                )
            following = run.last_index + 1
        return following

    def _acknowledge(self, connection: sqlite3.Connection, number: int, committed: int, size: int) -> None:
        """The batch is durable: note it. Now and then, move the write-ahead log's pages into the database."""
        self._batch, self._committed = number, committed
        self._watermark.advance(number)
        self._uncheckpointed += size + 2 * PAGE_BYTES
        if self._uncheckpointed >= CHECKPOINT_BYTES:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._watermark.flush()
            self._uncheckpointed = 0

    # -- errors ----------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path}: not open")
        return self._connection

    def _writable(self) -> sqlite3.Connection:
        if self._failed:
            raise StorageError(f"{self._path}: nothing more is written ({self._failed}); restart the node")
        return self._opened()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong into `StorageError`s. After any of them nothing more is written.

        After a failed flush the kernel may call the same pages clean, and the next flush would report success: only
        what is read back by a new `open` can be trusted.
        """
        try:
            yield
        except StorageError as error:
            self._failed = str(error)
            raise
        except sqlite3.Error as error:
            self._failed = str(error)
            # Errors that Python's own module raises carry no code of SQLite's.
            match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
                case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                    raise StorageInUse(f"{self._path}: another process has it open; stop that process") from error
                case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                    raise self._corrupt(str(error)) from error
            raise StorageError(
                f"{self._path}: can't {doing}: {error}; look at the disk's space and health, then restart the node"
            ) from error
        except OSError as error:
            self._failed = str(error)
            raise StorageError(
                f"{self._path}: can't {doing}: {error}; look at its permissions and the disk, then restart the node"
            ) from error

    def _corrupt(self, finding: str) -> CorruptData:
        return CorruptData(f"{self._path}: damaged: {finding}; {REJOIN}")

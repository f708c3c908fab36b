"""A log store on the simulated disk: the smallest that keeps the contract, whatever a crash leaves.

Files
- ``log`` holds records one behind the other. A record is one batch: ``crc32 | size of the head | size of the runs``
  (4 bytes each, little-endian), the head (msgpack of `_Head`) and the runs as `raftcore.wire.encode_run` makes them;
  the checksum covers all that follows it. Records are numbered, each one greater than the one before it. The first
  stands for everything that came before it: it resets the log.
- ``log.mark`` is the watermark: the number of the last acknowledged batch, in two slots that are written in turn, each
  in a sector of its own. A slot is ``count of slots written | number | crc32`` (8, 8 and 4 bytes, little-endian).
- ``*.new`` is on its way to become one of the two.

A write appends its record and syncs it, then writes the older slot and syncs that. So after a crash at any point
- either both slots fit: records up to the greater number are acknowledged, and whatever lies behind is not;
- or one does not: the crash tore it. Its record was synced before, so all that is in the log fits.
Everything else is damage. In particular a flipped bit in either file never looks like a torn write.

`open`, unless all is in order, and `purge` write the log anew as one record, under another name, sync it, rename it and
sync the directory before the watermark moves on. The first record of a file is therefore never a torn one.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from raftcore.backends.memory_log import clip
from raftcore.contracts import LogState, WriteBatch
from raftcore.errors import CorruptData, StorageError, WireError
from raftcore.sim.disk import SECTOR
from raftcore.types import NO_LOG, NO_VOTE, Entries, LeaderId, LogId, Vote
from raftcore.wire import decode_run, encode_run

if TYPE_CHECKING:
    from raftcore.sim.disk import Disk, File

LOG: Final = "log"
MARK: Final = "log.mark"
NEW_LOG: Final = "log.new"
NEW_MARK: Final = "log.mark.new"
REJOIN: Final = "empty the node's disk and let it join again as a new member"

_PREFIX = struct.Struct("<III")
_SIZES = struct.Struct("<II")
_SLOT = struct.Struct("<QQI")
_COUNTS = struct.Struct("<QQ")
_SLOTS: Final = (0, SECTOR)


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """The record's part that is not runs. `sizes`: the bytes of each run."""

    number: int
    vote: Vote | None
    reset: LogId | None
    truncate_from: int | None
    committed: int
    sizes: list[int]


class _Run(NamedTuple):
    """Where the bytes of a run are, and what the log still has of its entries."""

    first: int
    last: int
    leader: LeaderId
    offset: int
    size: int


_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_last = attrgetter("last")


class DiskLog:
    """One node's vote and log in files of a simulated disk. Nothing is touched before `open`."""

    blocking = True

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._failed = "it is not open"
        self._clear()

    def _clear(self) -> None:
        self._log: File | None = None
        self._mark: File | None = None
        self._slot = 0  # the one that is written next
        self._slots_written = 0
        self._number = 0
        self._vote: Vote = NO_VOTE
        self._purged: LogId = NO_LOG
        self._committed = 0
        self._next = 1
        self._runs: list[_Run] = []

    def open(self) -> LogState:
        """Check everything and report it. Nothing is changed before all is known to be sound."""
        with self._errors("open it"):
            self._clear()
            if self._disk.exists(MARK):
                sound = self._recover()
            else:
                self._refuse_without_mark()
                sound = False
            for name in (NEW_LOG, NEW_MARK):
                if self._disk.exists(name):
                    self._disk.delete(name)
            if not sound:
                self._rewrite(self._number + 1, self._purged)
            self._renew_mark()
            # What a killed process has named and not synced is there to be seen, but not durable yet.
            self._disk.sync_directory()
        self._failed = ""
        last = LogId(self._runs[-1].leader, self._runs[-1].last) if self._runs else self._purged
        return LogState(self._vote, self._purged, last, self._committed)

    def write(self, batch: WriteBatch) -> None:
        log = self._writable()
        self._check(batch)
        if batch.vote is None and batch.reset is None and batch.truncate_from is None and not batch.runs:
            self._committed = max(self._committed, batch.committed)  # a hint alone goes with the next batch
            return
        with self._errors("write"):
            number, offset = self._number + 1, log.size
            record, head = _encode(batch, number, max(self._committed, batch.committed))
            log.append(record)
            log.sync()
            # Only now: a slot that says more than is durable would make of a torn record a damaged one.
            self._acknowledge(number)
            self._apply(head, batch.runs, offset + len(record) - sum(head.sizes))

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        if self._log is None:
            raise StorageError(f"{LOG}: not open; open it first")
        if start <= self._purged.index:
            raise StorageError(f"{LOG}: entry {start} is purged; the log begins behind {self._purged.index}")
        if start >= self._next:
            return []
        with self._errors("read"):
            return clip(self._read_runs(start), start, stop, max_bytes)

    def purge(self, upto: LogId) -> None:
        self._writable()
        if upto.index <= self._purged.index:
            return
        if upto.index >= self._next:
            raise self._refusal(f"{upto.index} can't be purged: the log ends at {self._next - 1}")
        with self._errors("purge"):
            number = self._number + 1
            self._rewrite(number, upto)
            self._acknowledge(number)

    def close(self) -> None:
        self._failed = self._failed or "it is closed"
        for file in (self._log, self._mark):
            if file is not None:
                file.close()
        self._log = self._mark = None

    # -- opening ------------------------------------------------------------------------------------------------------

    def _recover(self) -> bool:
        """Read both files. Whether they are just what an undisturbed store leaves."""
        numbers = self._read_mark()
        acknowledged = max(numbers)
        if not self._disk.exists(LOG):
            raise self._damaged(f"it is missing, but {acknowledged} batches of it were acknowledged")
        log = self._log = self._disk.open(LOG)
        data = log.read(0, log.size)
        torn_mark = len(numbers) < len(_SLOTS)
        offset = 0
        # Behind a slot that was torn there is nothing to drop: its record was durable before the slot was begun.
        while offset < len(data) and (torn_mark or not offset or self._number < acknowledged):
            end = self._load(data, offset)
            if end is None:
                raise self._damaged(
                    f"the record at byte {offset} does not fit its checksum, and {acknowledged} batches of it were "
                    f"acknowledged; the last entry before it is {self._next - 1}"
                )
            offset = end
        if self._number < acknowledged:
            raise self._damaged(f"it ends with batch {self._number}, but batch {acknowledged} was acknowledged")
        return self._number == acknowledged and offset == len(data)

    def _load(self, data: bytes, offset: int) -> int | None:
        """Apply the record at `offset`; where it ends, None when there is no whole one."""
        if len(data) < offset + _PREFIX.size:
            return None
        checksum, head_size, runs_size = _PREFIX.unpack_from(data, offset)
        at = offset + _PREFIX.size + head_size
        end: int = at + runs_size
        if end > len(data) or zlib.crc32(memoryview(data)[offset + 4 : end]) != checksum:
            return None
        try:
            head = _decode_head(data[offset + _PREFIX.size : at])
            position, runs = at, []
            for size in head.sizes:
                runs.append(decode_run(data[position : position + size]))
                position += size
        except (msgspec.MsgspecError, WireError) as error:
            raise self._damaged(f"the record at byte {offset}: {error}") from None
        self._check(WriteBatch(head.vote, head.reset, head.truncate_from, runs))
        self._apply(head, runs, at)
        return end

    def _refuse_without_mark(self) -> None:
        """Without a watermark nothing was ever acknowledged, so there is nothing but what `_rewrite` begins with."""
        if self._disk.exists(LOG):
            log = self._log = self._disk.open(LOG)
            if log.size > len(_encode(WriteBatch(vote=NO_VOTE, reset=NO_LOG), 1, 0)[0]):
                raise self._damaged(f"it has {log.size} bytes, but {MARK} is missing")

    def _read_mark(self) -> list[int]:
        """The numbers in the slots that fit. Chooses the one that `_renew_mark` begins with."""
        mark = self._mark = self._disk.open(MARK)
        numbers: list[int] = []
        self._slots_written = 0
        for slot, offset in enumerate(_SLOTS):
            data = mark.read(offset, _SLOT.size)
            if len(data) == _SLOT.size and data == _slot(*_COUNTS.unpack_from(data)):
                written, number = _COUNTS.unpack_from(data)
                numbers.append(number)
                # The newest: a sync of it may have failed, so that it is there to be seen, and gone after a crash.
                # The one before it is durable for certain, and has to stay until the newest is.
                if written > self._slots_written:
                    self._slots_written, self._slot = written, slot
        if not numbers:
            raise CorruptData(f"{MARK}: damaged, so the log beside it can't be trusted; {REJOIN}")
        if len(numbers) < len(_SLOTS):
            self._slot = 1 - self._slot  # for the same reason: the torn one is the newest
        return numbers

    def _renew_mark(self) -> None:
        """The newest slot says what the log holds, in bytes written anew: a sync of the old ones may have failed."""
        if self._mark is not None:
            self._acknowledge(self._number)
            return
        mark = self._mark = self._disk.open(NEW_MARK)
        for written, offset in enumerate(_SLOTS, 1):
            mark.write_at(offset, _slot(written, self._number))
        self._slots_written = len(_SLOTS)
        mark.sync()
        # `_rewrite` has made the log's name durable: a watermark without a log would be a log that was lost.
        self._disk.rename(NEW_MARK, MARK)

    # -- records ------------------------------------------------------------------------------------------------------

    def _check(self, batch: WriteBatch) -> None:
        purged = self._purged if batch.reset is None else batch.reset
        end = self._next if batch.reset is None else purged.index + 1
        cut = batch.truncate_from
        if cut is not None and cut < end:
            if cut <= purged.index:
                raise self._refusal(f"entries from {cut} on can't be cut off: {purged.index} is purged")
            end = cut
        for run in batch.runs:
            if run.first_index != end:
                raise self._refusal(f"{run!r} does not follow the log's end: the next index is {end}")
            end = run.last_index + 1

    def _apply(self, head: _Head, runs: list[Entries], offset: int) -> None:
        """What a record means, for all that is known without reading. `offset`: where its runs begin."""
        self._number = head.number
        self._committed = head.committed
        if head.vote is not None:
            self._vote = head.vote
        if head.reset is not None:
            self._purged = head.reset
            self._runs.clear()
            self._next = head.reset.index + 1
        cut = head.truncate_from
        if cut is not None and cut < self._next:
            position = bisect_left(self._runs, cut, key=_last)
            if position < len(self._runs):
                divided = self._runs[position]
                del self._runs[position:]
                if divided.first < cut:
                    self._runs.append(divided._replace(last=cut - 1))
            self._next = cut
        for size, run in zip(head.sizes, runs, strict=True):
            self._runs.append(_Run(run.first_index, run.last_index, run.leader, offset, size))
            offset += size
            self._next = run.last_index + 1

    def _acknowledge(self, number: int) -> None:
        mark = self._mark
        if mark is not None:
            self._slots_written += 1
            mark.write_at(_SLOTS[self._slot], _slot(self._slots_written, number))
            mark.sync()
            self._slot = 1 - self._slot

    def _rewrite(self, number: int, purged: LogId) -> None:
        """Put a log in place of this one that holds in one record what is behind `purged`. Durable on return."""
        runs = [run.part(purged.index + 1, run.last_index) for run in self._read_runs(purged.index + 1)]
        record, head = _encode(WriteBatch(vote=self._vote, reset=purged, runs=runs), number, self._committed)
        log = self._disk.open(NEW_LOG)
        log.append(record)
        # In this order: the name must never mean bytes that are not there, and the next write must not go where
        # a crash does not find it.
        log.sync()
        self._disk.rename(NEW_LOG, LOG)
        self._disk.sync_directory()
        log.name, self._log = LOG, log
        self._apply(head, runs, len(record) - sum(head.sizes))

    def _read_runs(self, start: int) -> Iterator[Entries]:
        """The runs from the one that contains `start` on, verified."""
        position = bisect_left(self._runs, start, key=_last)
        while position < len(self._runs) and self._log is not None:
            stored = self._runs[position]
            try:
                run = decode_run(self._log.read(stored.offset, stored.size))
            except WireError as error:
                raise self._damaged(f"at entry {stored.first}: {error}") from None
            if (run.first_index, run.leader) != (stored.first, stored.leader) or run.last_index < stored.last:
                raise self._damaged(f"{run!r} where entries {stored.first}..{stored.last} should be")
            yield run.part(stored.first, stored.last)
            position += 1

    # -- errors -------------------------------------------------------------------------------------------------------

    def _writable(self) -> File:
        if self._failed or self._log is None:
            raise StorageError(f"{LOG}: nothing more is written ({self._failed}); restart the node")
        return self._log

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong into `StorageError`s. After any of them nothing more is written."""
        try:
            yield
        except StorageError as error:
            self._failed = str(error)
            raise
        except OSError as error:
            self._failed = str(error)
            raise StorageError(f"{LOG}: can't {doing}: {error}; look at the disk, then restart the node") from error

    def _refusal(self, reason: str) -> StorageError:
        self._failed = reason
        return StorageError(f"{LOG}: {reason}; this is a defect of the caller, restart the node")

    def _damaged(self, finding: str) -> CorruptData:
        return CorruptData(f"{LOG}: damaged: {finding}; {REJOIN}")


def _encode(batch: WriteBatch, number: int, committed: int) -> tuple[bytes, _Head]:
    """The record of a batch, and its head."""
    runs = [encode_run(run) for run in batch.runs]
    head = _Head(number, batch.vote, batch.reset, batch.truncate_from, committed, [len(run) for run in runs])
    encoded = _encode_head(head)
    rest = b"".join((_SIZES.pack(len(encoded), sum(head.sizes)), encoded, *runs))
    return zlib.crc32(rest).to_bytes(4, "little") + rest, head


def _slot(written: int, number: int) -> bytes:
    return _SLOT.pack(written, number, zlib.crc32(_COUNTS.pack(written, number)))

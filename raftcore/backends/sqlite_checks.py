"""What `SqliteLog` adds to SQLite so that damage to acknowledged data is noticed.

SQLite drops without a word whatever lies behind a damaged frame of its write-ahead log, and an emptied or missing file
is a new database to it. Two checks close that gap.

*The watermark* counts acknowledged writes in a small file of its own. A database that knows of fewer has lost some. It
is stored through a memory map: no system call, and no flush of its own beside the one that a batch costs. It survives a
killed process exactly; after a loss of power it may be as old as the last checkpoint, since it is flushed there.

*The write-ahead log* is read before SQLite sees it, for what the watermark may have missed after a loss of power. A
transaction is flushed before the next one is begun, so all that a crash can tear lies in the last transaction. A frame
that does not fit while frames of two transactions follow is therefore damage.

What can't be told apart, in principle: when power was lost *and* the last transaction or two in the file don't
fit, they may be a write that was under way (dropped, rightly) or have been damaged later. The same holds for a
write-ahead log that ends early. Either needs a loss of power and a second fault within one checkpoint.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from raftcore.backends.directory import sync_directory
from raftcore.errors import CorruptData, StorageError, StorageInUse

REJOIN = "set its files aside and let this node join again as a new member"

_WATERMARK_FORMAT = 1
_WATERMARK_HEADER = struct.Struct("<8sI")
_WATERMARK_MAGIC = b"raftmark"
_SLOT = struct.Struct("<QI")
# Two slots in sectors of their own, written in turn: a store that a kill interrupts spoils only one of them.
_SLOTS = (512, 1024)
_WATERMARK_BYTES = 4096

_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_WAL_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}


class Watermark:
    """The number of the last acknowledged write. The file is also the store's lock and shows that there is a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._map: mmap.mmap | None = None

    def open(self) -> int | None:
        """Take the lock and read the number; None when the store is new.

        Raises `StorageInUse` when another process has the lock, `CorruptData` when there is a file but no number in it.
        """
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageInUse(
                f"{self.path}: another process has this log open; stop it, or give this node its own data_dir"
            ) from None
        data = os.pread(self._file, _WATERMARK_BYTES, 0)
        if not data:
            return None
        if len(data) < _WATERMARK_BYTES or data[: len(_WATERMARK_MAGIC)] != _WATERMARK_MAGIC:
            raise CorruptData(f"{self.path}: damaged, so the log beside it can't be trusted; {REJOIN}")
        version = _WATERMARK_HEADER.unpack_from(data)[1]
        if version != _WATERMARK_FORMAT:
            raise StorageError(
                f"{self.path}: format {version}, this release reads format {_WATERMARK_FORMAT}; "
                f"run the release that wrote it"
            )
        numbers: list[int] = []
        for offset in _SLOTS:
            number, checksum = _SLOT.unpack_from(data, offset)
            if checksum == _checksum(number):
                numbers.append(number)
        if not numbers:
            raise CorruptData(f"{self.path}: damaged, so the log beside it can't be trusted; {REJOIN}")
        self._map = mmap.mmap(self._file, _WATERMARK_BYTES)
        return max(numbers)

    def create(self) -> None:
        """Mark the store as initialised, with no write so far; durable on return."""
        if self._file is None:
            raise StorageError(f"{self.path}: not open")
        data = bytearray(_WATERMARK_BYTES)
        _WATERMARK_HEADER.pack_into(data, 0, _WATERMARK_MAGIC, _WATERMARK_FORMAT)
        for offset in _SLOTS:
            _SLOT.pack_into(data, offset, 0, _checksum(0))
        os.pwrite(self._file, data, 0)
        os.fsync(self._file)
        sync_directory(self.path.parent)
        self._map = mmap.mmap(self._file, _WATERMARK_BYTES)

    def advance(self, number: int) -> None:
        """Note that the write `number` is durable. Costs less than a microsecond and never waits."""
        if self._map is not None:
            _SLOT.pack_into(self._map, _SLOTS[number & 1], number, _checksum(number))

    def flush(self) -> None:
        """Make the number durable, as it is now."""
        if self._map is not None:
            self._map.flush()

    def close(self) -> None:
        """Release the lock."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _checksum(number: int) -> int:
    return zlib.crc32(number.to_bytes(8, "little"))


def verify_wal(path: Path) -> None:
    """Raise `CorruptData` when an SQLite write-ahead log is damaged anywhere but at its very end.

    The format is SQLite's "WAL file format" (https://www.sqlite.org/fileformat2.html#walformat). Reads some
    50 MB/s; there is nothing to read after a clean shutdown.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= _WAL_HEADER.size:
        return
    with path.open("rb") as file:
        header = file.read(_WAL_HEADER.size)
        magic, _, page_size, _, salt1, salt2, *stored = _WAL_HEADER.unpack(header)
        order = _WAL_ORDERS.get(magic, "<")
        # SQLite flushes the header before it writes the first frame behind it.
        if magic not in _WAL_ORDERS or _wal_checksum(order, header[:24], (0, 0)) != tuple(stored):
            raise CorruptData(f"{path}: the header is damaged, and acknowledged entries may lie behind it; {REJOIN}")
        _verify_frames(path, file, order, page_size, (salt1, salt2), (stored[0], stored[1]))


def _verify_frames(
    path: Path, file: BinaryIO, order: str, page_size: int, salts: tuple[int, int], running: tuple[int, int]
) -> None:
    number = 0
    damaged: int | None = None
    commit_seen = False
    while len(frame := file.read(_FRAME_HEADER.size + page_size)) == _FRAME_HEADER.size + page_size:
        number += 1
        _, commit, salt1, salt2, *stored = _FRAME_HEADER.unpack_from(frame)
        current = (salt1, salt2) == salts
        if damaged is None and current:
            running = _wal_checksum(order, frame[_FRAME_HEADER.size :], _wal_checksum(order, frame[:8], running))
        if damaged is None and not (current and running == tuple(stored)):
            damaged = number
        if damaged is not None and current:
            # Frames of an earlier round have other salts. A transaction's last frame, and only that, is marked as its
            # commit: a frame behind a commit belongs to a transaction that began when the damaged one was flushed.
            if commit_seen:
                raise CorruptData(
                    f"{path}: frame {damaged} is damaged, and acknowledged entries lie behind it; {REJOIN}"
                )
            commit_seen = commit != 0


def _wal_checksum(order: str, data: bytes, running: tuple[int, int]) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    first, second = running
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second

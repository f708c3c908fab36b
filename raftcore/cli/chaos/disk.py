"""What is done to the files of a node's log while its process is dead.

Two things, told apart by what was acknowledged. *Torn*: behind the last whole transaction lie the remains of a write
that was under way, as a crash leaves them; all that was acknowledged is there, and the node must start. *Damaged*:
acknowledged transactions are missing or changed; the node must refuse to start, and its files are then put back.

Where the last whole transaction ends, and what a log still holds, SQLite itself says, on a copy. The layouts are those
of https://www.sqlite.org/fileformat2.html#walformat and of the page "Formats" of the reference.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from raftcore.backends.sqlite_checks import Watermark
from raftcore.backends.sqlite_format import decode_meta

_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = struct.Struct(">6I")  # page, size after a commit, two salts, two checksums
_SLOTS: Final = (512, 1024)
_SLOT: Final = struct.Struct("<QI")


class Held(NamedTuple):
    """What SQLite finds in a log: whole frames of the write-ahead log, and the number of the newest batch."""

    frames: int
    batch: int


class LogFiles:
    """The files of the log ``log.sqlite`` in a data directory that no process uses."""

    def __init__(self, data_dir: Path) -> None:
        self._data = data_dir
        self._log = data_dir / "log.sqlite"
        self._wal = data_dir / "log.sqlite-wal"
        self._acknowledged = data_dir / "log.sqlite-acked"

    # -- a write that was under way -----------------------------------------------------------------------------------

    def tear(self, rng: random.Random) -> str:
        """Leave remains of writes that were under way; says which."""
        torn = [self._tear_wal(rng), self._tear_watermark(rng), self._leave_snapshot(rng)]
        return ", ".join(filter(None, torn)) or "nothing to tear yet"

    def _tear_wal(self, rng: random.Random) -> str:
        if not self._has_wal():
            return ""
        end, frame = self._end(self._held().frames), self._frame_bytes()
        with self._wal.open("r+b") as file:
            salts = struct.unpack(">2I", file.read(24)[16:])
            whole = rng.randrange(3)
            if whole or rng.random() < 0.5:
                file.truncate(end)  # else older frames follow: SQLite begins its log anew in the same file
            remains = b"".join(
                _FRAME_HEADER.pack(rng.randrange(1, 99), 0, *salts, *(rng.getrandbits(32) for _ in range(2)))
                + rng.randbytes(frame - _FRAME_HEADER.size)
                for _ in range(whole + 1)
            )
            remains = remains[: whole * frame + rng.randrange(1, frame)]
            file.seek(end)
            file.write(remains)
        return f"{len(remains)} bytes of an unfinished transaction in the write-ahead log"

    def _tear_watermark(self, rng: random.Random) -> str:
        """Spoil the slot that the next acknowledgement goes to; the other one counts."""
        if not self._acknowledged.exists():
            return ""
        data = self._acknowledged.read_bytes()
        slots = {_SLOT.unpack_from(data, at): at for at in _SLOTS if len(data) > at}
        if len(slots) < len(_SLOTS) or any(zlib.crc32(n.to_bytes(8, "little")) != check for n, check in slots):
            return ""  # the kill has torn one already
        with self._acknowledged.open("r+b") as file:
            file.seek(slots[min(slots)])
            file.write(rng.randbytes(rng.randrange(1, _SLOT.size)))
        return "half an acknowledgement"

    def _leave_snapshot(self, rng: random.Random) -> str:
        snapshots = self._data / "snapshots"
        if not snapshots.is_dir():
            return ""
        (snapshots / f"torn.{rng.randrange(10**6)}.tmp").write_bytes(rng.randbytes(rng.randrange(5000)))
        return "part of a snapshot"

    # -- damage to what was acknowledged ------------------------------------------------------------------------------

    def copy_to(self, directory: Path) -> None:
        """Keep a copy of the log's files."""
        directory.mkdir()
        for file in self._files():
            shutil.copy2(file, directory)

    def put_back(self, directory: Path) -> None:
        """Replace the log's files by the copy, and remove that."""
        for file in self._files():
            file.unlink()
        for file in sorted(directory.iterdir()):
            shutil.move(file, self._data)
        directory.rmdir()

    def damage(self, rng: random.Random) -> str:
        """Destroy something of the write-ahead log that was acknowledged; says what. Empty: there was nothing there.

        What was acknowledged may also lie in the database itself already, or not at all, if the kill came first; so
        the result is looked at, and damage that destroys nothing is not taken for any.
        """
        if not self._has_wal():
            return ""
        commits = self._commits(self._held().frames)
        if len(commits) < 2:
            return ""
        # The very last one may not have been acknowledged yet.
        lost = rng.randrange(2, min(6, len(commits) + 1))
        kept = self._end(commits[-lost - 1] + 1 if lost < len(commits) else 0)
        with self._wal.open("r+b") as file:
            if rng.random() < 0.5:
                file.truncate(kept)
                what = f"the last {lost} transactions cut off"
            else:
                at = kept + _FRAME_HEADER.size + rng.randrange(self._frame_bytes() - _FRAME_HEADER.size)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes((byte ^ 1 << rng.randrange(8),)))
                what = f"a bit flipped in the transaction before the last {lost - 1}"
        try:
            destroyed = self._held().batch < self._watermark()
        except sqlite3.DatabaseError:
            destroyed = True  # what is left does not even fit together
        return what if destroyed else ""

    # -- reading ------------------------------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        return sorted(self._data.glob("log.sqlite*"))

    def _has_wal(self) -> bool:
        return self._wal.exists() and self._wal.stat().st_size > _WAL_HEADER

    def _frame_bytes(self) -> int:
        with self._wal.open("rb") as file:
            return _FRAME_HEADER.size + int.from_bytes(file.read(12)[8:], "big")

    def _end(self, frames: int) -> int:
        """Where so many frames of the write-ahead log end."""
        return _WAL_HEADER + frames * self._frame_bytes()

    def _commits(self, frames: int) -> list[int]:
        """The frames, counted from 0, that end a transaction."""
        found = []
        with self._wal.open("rb") as file:
            for number in range(frames):
                file.seek(self._end(number))
                if _FRAME_HEADER.unpack(file.read(_FRAME_HEADER.size))[1]:
                    found.append(number)
        return found

    def _held(self) -> Held:
        with tempfile.TemporaryDirectory() as name:
            copy = Path(name)
            for file in (self._log, self._wal):
                shutil.copy2(file, copy)
            connection = sqlite3.connect(copy / self._log.name)
            try:
                _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                (run,) = connection.execute("SELECT max(batch) FROM runs").fetchone()
                (meta,) = connection.execute("SELECT data FROM meta").fetchone()
            finally:
                connection.close()
        return Held(max(frames, 0), max(run or 0, decode_meta(meta).batch))

    def _watermark(self) -> int:
        watermark = Watermark(self._acknowledged)
        try:
            return watermark.open() or 0
        finally:
            watermark.close()

"""What `SqliteLog` stores (format 1).

``log.sqlite`` holds two tables. `runs` has one row a run: the index of its `last` entry, the number of the `batch` that
brought it, the hint `committed` of that batch, the run as `raftcore.wire.encode_run` makes it (`data`), and `checksum`,
the CRC-32 of ``last, batch, committed (8 bytes each, little-endian) | the run's own checksum``. `meta` has one row:
``crc32 (4 bytes, little-endian) | msgpack [batch, vote, purged, committed, last]``. The database's `application_id` is
``raft`` and its `user_version` the format.

Every batch has a number, one greater than the last one's. It is in the rows that the batch brought, or in `meta`, which
is written by batches with a vote, a reset or a truncation, and by a purge. A purge keeps a run that it cuts through:
such a row begins at or below the purged id.

``log.sqlite-wal`` is SQLite's own. ``log.sqlite-acked`` is the watermark (4,096 bytes): ``raftmark``, its format (1, 4
bytes), and at bytes 512 and 1,024 a batch's number (8 bytes) with its CRC-32 (4 bytes), all little-endian; the greater
of the two counts.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgspec

from raftcore.types import NO_LOG, NO_VOTE, LogId, Vote

FORMAT: Final = 1
APPLICATION: Final = int.from_bytes(b"raft", "big")
META_TABLE: Final = "CREATE TABLE meta (id INTEGER PRIMARY KEY, data BLOB NOT NULL)"
RUNS_TABLE: Final = (
    "CREATE TABLE runs (last INTEGER PRIMARY KEY, batch INTEGER NOT NULL, committed INTEGER NOT NULL, "
    "checksum INTEGER NOT NULL, data BLOB NOT NULL)"
)
_ROW: Final = struct.Struct("<QQQ")


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The row of `meta`. `last`: the last entry's index after this batch; without another such row it only grows."""

    batch: int = 0
    vote: Vote = NO_VOTE
    purged: LogId = NO_LOG
    committed: int = 0
    last: int = 0


_encoder = msgspec.msgpack.Encoder()
_meta_decoder = msgspec.msgpack.Decoder(Meta)


def encode_meta(meta: Meta) -> bytes:
    """The row's `data`."""
    body = _encoder.encode(meta)
    return zlib.crc32(body).to_bytes(4, "little") + body


def decode_meta(data: bytes) -> Meta:
    """The `Meta` in the row's `data`. Raises `ValueError`, or `TypeError` when `data` is not even bytes."""
    if zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        raise ValueError("checksum mismatch")
    return _meta_decoder.decode(data[4:])


def row_checksum(last: int, batch: int, committed: int, data: bytes) -> int:
    """The `checksum` of a row of `runs`. Raises `struct.error` or `TypeError` for values of other types."""
    return zlib.crc32(_ROW.pack(last, batch, committed) + data[:4])

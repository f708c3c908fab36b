"""The state machine of the built-in workload: registers, lists and counters, each under a key.

Commands are msgpack arrays: ``["write", key, value]``, ``["cas", key, expected, value]``, ``["append", key, value]``,
``["add", key, number]``; anything behind them is padding. The answer is msgpack too: what the command did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from raftcore.types import Entries, LogId, SnapshotMeta

PIECE = 512

_decode = msgspec.msgpack.Decoder(list[Any]).decode
encode = msgspec.msgpack.Encoder().encode


class Book:
    """Volatile; everything that a client can ask for is in `pages`."""

    blocking = False

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {}

    def open(self) -> LogId | None:
        return None

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        return [encode(self._apply(_decode(payload))) for payload in run.payloads]

    def _apply(self, command: list[Any]) -> object:
        verb, key = command[0], command[1]
        if verb == "write":
            self.pages[key] = command[2]
            return True
        if verb == "cas":
            if self.pages.get(key) != command[2]:
                return False
            self.pages[key] = command[3]
            return True
        if verb == "append":
            self.pages[key] = [*self.pages.get(key, ()), command[2]]
            return len(self.pages[key])
        self.pages[key] = self.pages.get(key, 0) + command[2]
        return self.pages[key]

    def snapshot(self) -> Iterator[bytes]:
        data = encode(sorted(self.pages.items()))
        return (data[at : at + PIECE] for at in range(0, len(data), PIECE))

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        self.pages = dict(msgspec.msgpack.decode(b"".join(chunks), type=list[tuple[str, Any]]))

    def close(self) -> None:
        """Nothing to release."""

"""A replicated dictionary: the built-in state machine, and the smallest real example of one.

Keys are text, values are bytes, and every key carries the *version* of its value: the log index of the entry that set
it. A client sends ``encode(Put("colour", b"red"))`` as a proposal's payload and reads the answer with `decode_answer`.

Formats. A command is the msgpack array ``[1, key, value]`` (put), ``[2, key]`` (delete) or
``[3, key, value, expect]`` (compare and set); new commands get new numbers. A snapshot is a sequence of frames, each
``length (4 bytes, little-endian) | msgpack``: first ``[format = 1, count]``, then batches
``[[key, value, version], …]`` with `count` items in all.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

import msgspec

from raftcore.errors import CorruptData
from raftcore.types import Entries, LogId, SnapshotMeta

SNAPSHOT_FORMAT = 1
BATCH_BYTES = 256 * 1024


# Unknown fields are refused: skipping one of any depth would depend on the stack that is left, and so on the node.
class Put(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False, forbid_unknown_fields=True):
    """Set `key` to `value`. Answered with `Written`."""

    key: str
    value: bytes


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False, forbid_unknown_fields=True):
    """Remove `key`. Answered with `Deleted`."""

    key: str


class CompareAndSet(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False, forbid_unknown_fields=True):
    """Set `key` to `value` if it is as expected. Answered with `Written` or `Mismatch`.

    `expect`: the value that the key must have (bytes) or its version (int); version 0 means that it must not exist.
    """

    key: str
    value: bytes
    expect: bytes | int


Command = Put | Delete | CompareAndSet


class Written(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The key has the new value, and this version."""

    version: int


class Deleted(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The key is gone; `version` is the one that it had, 0 when it was not there."""

    version: int


class Mismatch(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """Nothing was changed: this is what the key has; version 0 and no value when it does not exist."""

    version: int
    value: bytes | None


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Nothing was changed: the payload is not a command."""

    reason: str


Answer = Written | Deleted | Mismatch | Refused


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key's value and its version."""

    value: bytes
    version: int


_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_answer_decoder = msgspec.msgpack.Decoder(Answer)
_header_decoder = msgspec.msgpack.Decoder(tuple[int, int])
_batch_decoder = msgspec.msgpack.Decoder(list[tuple[str, bytes, int]])

# The same text for every bad payload: an answer is part of the replicated state, and a decoder's own words may differ
# between its releases.
_REFUSED = _encoder.encode(Refused("not a key-value command"))


def encode(command: Command) -> bytes:
    """A command as the payload of a proposal."""
    return _encoder.encode(command)


def decode_answer(data: bytes) -> Answer:
    """The answer that `KeyValue.apply` gave. Raises `msgspec.MsgspecError` when `data` is something else."""
    return _answer_decoder.decode(data)  # type: ignore[no-any-return]  # msgspec types a union as Any


class KeyValue:
    """A dictionary in memory, rebuilt from the newest snapshot and the log behind it (a volatile state machine)."""

    blocking = False

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._applied = 0

    def open(self) -> LogId | None:
        return None

    def apply(self, run: Entries) -> list[bytes | None]:
        items = self._items
        decode, answer = _command_decoder.decode, _encoder.encode
        answers: list[bytes | None] = []
        for index, payload in enumerate(run.payloads, run.first_index):
            try:
                command = decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                answers.append(_REFUSED)
                continue
            if type(command) is Put:
                items[command.key] = Item(command.value, index)
                answers.append(answer(Written(index)))
            elif type(command) is Delete:
                item = items.pop(command.key, None)
                answers.append(answer(Deleted(item.version if item else 0)))
            else:
                answers.append(answer(self._compare_and_set(command, index)))
        self._applied = run.last_index
        return answers

    def _compare_and_set(self, command: CompareAndSet, index: int) -> Written | Mismatch:
        item = self._items.get(command.key)
        expect = command.expect
        version, value = (item.version, item.value) if item else (0, None)
        if expect != (value if isinstance(expect, bytes) else version):
            return Mismatch(version, value)
        self._items[command.key] = Item(command.value, index)
        return Written(index)

    def snapshot(self) -> Iterator[bytes]:
        """The state as frames. The copy made here shares the items, which never change; about 0.1 µs a key."""
        return _frames(self._items.copy())

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's. Raises `CorruptData`, and then changes nothing."""
        frames = _unframe(chunks)
        try:
            version, count = _header_decoder.decode(next(frames, b""))
            if version != SNAPSHOT_FORMAT:
                raise CorruptData(
                    f"snapshot {meta.id!r} has key-value format {version}, this release reads {SNAPSHOT_FORMAT}"
                )
            items: dict[str, Item] = {}
            for frame in frames:
                for key, value, item_version in _batch_decoder.decode(frame):
                    items[key] = Item(value, item_version)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptData(f"snapshot {meta.id!r} is not a key-value snapshot: {error}") from None
        if len(items) != count:
            raise CorruptData(f"snapshot {meta.id!r} should hold {count} keys and holds {len(items)}")
        self._items = items
        self._applied = meta.last.index

    def close(self) -> None:
        """Nothing to release."""

    @property
    def applied(self) -> int:
        """The index of the last entry that was applied, or that the restored snapshot stands for."""
        return self._applied

    def get(self, key: str) -> Item | None:
        """The key's value and version, or None."""
        return self._items.get(key)

    def digest(self) -> str:
        """SHA-256 (hex) over keys, values and versions in the order of the keys: equal states have equal digests.

        Takes about half a microsecond a key.
        """
        total = hashlib.sha256()
        for key, item in sorted(self._items.items()):
            total.update(_encoder.encode((key, item.value, item.version)))
        return total.hexdigest()

    def list(self, prefix: str = "", limit: int = 1000, after: str | None = None) -> list[tuple[str, Item]]:
        """The first `limit` keys, in order, that begin with `prefix` and come behind the key `after`.

        Looks at every key, about 0.1 µs each.
        """
        items = self._items
        keys = heapq.nsmallest(
            limit, (key for key in items if key.startswith(prefix) and (after is None or key > after))
        )
        return [(key, items[key]) for key in keys]


def _frames(items: dict[str, Item]) -> Iterator[bytes]:
    yield _frame((SNAPSHOT_FORMAT, len(items)))
    batch: list[tuple[str, bytes, int]] = []
    size = 0
    for key, item in items.items():
        batch.append((key, item.value, item.version))
        size += len(key) + len(item.value)
        if size >= BATCH_BYTES:
            yield _frame(batch)
            batch, size = [], 0
    if batch:
        yield _frame(batch)


def _frame(content: object) -> bytes:
    body = _encoder.encode(content)
    return len(body).to_bytes(4, "little") + body


def _unframe(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The frames' bodies, out of chunks with any borders."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        at = 0
        while len(held) >= at + 4:
            end = at + 4 + int.from_bytes(held[at : at + 4], "little")
            if len(held) < end:
                break
            yield bytes(held[at + 4 : end])
            at = end
        del held[:at]
    if held:
        raise msgspec.DecodeError(f"it ends in the middle of a frame, with {len(held)} bytes over")

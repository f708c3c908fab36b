"""Messages, runs and memberships as bytes: one versioned encoding for the network and the disk.

A run is ``crc32 (4 bytes, little-endian) | msgpack [format, term, node, first_index, kind, payloads]``; the
checksum covers all that follows it. It is made once a run and goes as it is into the log and to every
follower, so a bit that flips on the way is noticed at the end, wherever it flipped.

A message is the msgpack array of its record, tag first; runs inside it are byte strings as above. Nothing
here executes what it reads, and every error is a `WireError`.
"""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from raftcore.errors import WireError
from raftcore.messages import Hello, Message
from raftcore.types import Entries, EntryKind, LeaderId, Membership

VERSIONS: Final = (1, 1)
"""The oldest and the newest version of the messages that this release speaks."""

RUN_FORMAT: Final = 1

_encoder = msgspec.msgpack.Encoder()
_run_decoder = msgspec.msgpack.Decoder(tuple[int, int, str, int, int, list[bytes]])
_membership_decoder = msgspec.msgpack.Decoder(tuple[int, Membership])
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_KINDS: Final = tuple(EntryKind)
# What msgspec raises for bytes that it can't read; the last two for broken UTF-8 and for nesting without end.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def encode_run(run: Entries) -> bytes:
    """The run as bytes; made on the first call and kept with the run."""
    encoded = run.encoded
    if encoded is None:
        leader = run.leader
        body = _encoder.encode((RUN_FORMAT, leader.term, leader.node, run.first_index, int(run.kind), run.payloads))
        encoded = run.encoded = zlib.crc32(body).to_bytes(4, "little") + body
    return encoded


def decode_run(data: bytes) -> Entries:
    """The run that `encode_run` made `data` of. Raises `WireError` when even one bit differs."""
    body = memoryview(data)[4:]
    if zlib.crc32(body) != int.from_bytes(data[:4], "little"):
        raise WireError(f"run of {len(data)} bytes: checksum mismatch")
    try:
        version, term, node, first, kind, payloads = _run_decoder.decode(body)
    except _UNREADABLE as error:
        raise WireError(f"run of {len(data)} bytes: {error}") from None
    if version != RUN_FORMAT:
        raise WireError(f"run of format {version}, this release reads format {RUN_FORMAT}")
    if first < 1 or not payloads or not 0 <= kind < len(_KINDS):
        raise WireError(f"run with first index {first}, kind {kind}, {len(payloads)} payloads")
    return Entries(LeaderId(term, node), first, _KINDS[kind], payloads, data)


def encode_membership(membership: Membership) -> bytes:
    """The payload of a `MEMBERSHIP` entry."""
    return _encoder.encode((1, membership))


def decode_membership(data: bytes) -> Membership:
    """The membership in a `MEMBERSHIP` entry's payload. Raises `WireError`."""
    try:
        version, membership = _membership_decoder.decode(data)
    except _UNREADABLE as error:
        raise WireError(f"membership of {len(data)} bytes: {error}") from None
    if version != 1:
        raise WireError(f"membership of format {version}, this release reads format 1")
    return membership


def _encode_hook(value: object) -> object:
    if isinstance(value, Entries):
        return encode_run(value)
    raise TypeError(f"{type(value).__name__} has no encoding")


def _decode_hook(expected: type, value: object) -> object:
    if expected is Entries and isinstance(value, bytes):
        return decode_run(value)
    raise WireError(f"a run must be bytes, not {type(value).__name__}")


_message_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_hook)
_message_decoder = msgspec.msgpack.Decoder(Message, dec_hook=_decode_hook)


def encode(message: Message | Hello) -> bytes:
    """A message, or the handshake's `Hello`, as bytes."""
    return _message_encoder.encode(message)


def decode(data: bytes | bytearray | memoryview) -> Message:
    """The message in `data`. Raises `WireError`."""
    try:
        return _message_decoder.decode(data)  # type: ignore[no-any-return]  # msgspec types a union as Any
    except (*_UNREADABLE, WireError) as error:
        raise WireError(f"message of {len(data)} bytes: {error}") from None


def decode_hello(data: bytes | bytearray | memoryview) -> Hello:
    """The `Hello` in `data`. Raises `WireError`."""
    try:
        return _hello_decoder.decode(data)
    except _UNREADABLE as error:
        raise WireError(f"handshake of {len(data)} bytes: {error}") from None

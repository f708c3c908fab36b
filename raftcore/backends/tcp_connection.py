"""One TCP connection between two nodes: frames, the handshake, and a bounded queue of what is to be written.

On the wire, each way alike:

    frame      length (4 bytes, big-endian) | that many bytes
    1st frame  b"raftcore" | Hello          sent at once by both ends, no longer than `HANDSHAKE_BYTES`
    2nd frame  empty, or a reason in UTF-8  the verdict on the other's Hello
    others     a message of `raftcore.wire`

A connection is *up* when both verdicts were empty. Until then nothing else is sent, so an end that gets a
message knows that it admitted the sender. An end that refuses says why and leaves the closing to the other, for
a connection that is closed with unread bytes in it is reset, and the reason could be lost with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, cast

from raftcore import wire
from raftcore.errors import PeerRefused, WireError
from raftcore.types import NodeId

if TYPE_CHECKING:
    from raftcore.backends.tcp import TcpTransport

MAGIC: Final = b"raftcore"
HANDSHAKE_BYTES: Final = 4096
_REASON_BYTES: Final = 1024
_STRANGER: Final = (
    "does not speak raftcore's protocol; check that the address is a raftcore node's, and that tls is set at both ends "
    "or at none"
)

_log = logging.getLogger(__name__)


def frame(data: bytes) -> bytes:
    """`data` with its length in front."""
    return len(data).to_bytes(4, "big") + data


class Connection(asyncio.Protocol):
    """A connection to one peer; works for its `TcpTransport` and reports to it.

    `dialled` is the peer that this end meant to reach; None when the other end opened the connection. `peer` is
    who it is: known from the start when dialled, else from the peer's `Hello` on. `established` is done once
    the connection is up, and fails with `PeerRefused` or `ConnectionError` when it does not come to that.
    """

    def __init__(self, owner: TcpTransport, dialled: NodeId | None) -> None:
        self.dialled = dialled
        self.peer: NodeId = dialled or ""
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.remote = ""
        self.up = False
        self._owner = owner
        self._limit = owner.options.max_queue_bytes
        self._max_frame = HANDSHAKE_BYTES
        self._transport: asyncio.Transport
        self._on_frame = self._on_hello
        self._recognised = False
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None
        # Received: the beginning of a frame, and how many bytes it takes to be whole (or to know how many it takes).
        self._partial = bytearray()
        self._needed = 4
        # To be written, and not yet in the socket's own buffer: whole frames, and their bytes.
        self._queue: list[bytes] = []
        self._queued = 0
        self._paused = False

    # -- called by asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.remote = _host_of(transport.get_extra_info("peername"))
        refusal = self._owner.opened(self)
        if refusal:
            self.abort(refusal)
            return
        _tune(transport.get_extra_info("socket"), self._owner.options.silence_ms)
        seconds = self._owner.options.handshake_timeout_ms / 1000
        self._abort_after(seconds, f"no handshake within {seconds:g} s")
        self._transport.write(frame(MAGIC + wire.encode(self._owner.endpoint.hello)))

    def data_received(self, data: bytes) -> None:
        try:
            self._split(data)
        except WireError as error:
            # What a stranger sent is not repeated: one line in the log is enough for any garbage that a host sends.
            self._bad_frame(f"sent a bad frame: {error}" if self._recognised else _STRANGER)
        except Exception:  # noqa: BLE001  # the boundary to asyncio, which would only log it and go on
            _log.exception("node '%s': a frame from '%s' could not be handled", self._owner.node, self.peer)
            self._bad_frame("a frame could not be handled; the log of this node says why")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._reason:
            self._reason = f"connection lost: {error}" if error else "the peer closed the connection"
            if self._owner.options.tls is not None and not self._recognised:
                # Who does not trust a certificate closes without a word that would arrive.
                self._reason += " in the handshake; does its tls.ca hold the authority of this node's certificate?"
        self._end()
        self._cancel_timer()
        # Who dialled waits for `established` and says it.
        if self._fail(ConnectionError(self._reason)) and self.dialled is None:
            self._owner.note(self, self._reason)
        self._owner.lost(self)

    # -- called by the transport ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> bool:
        """Take a frame for the next `flush`; False when the queue has no room for it."""
        queued = self._queued + len(data)
        if queued + self._transport.get_write_buffer_size() > self._limit:
            return False
        self._queued = queued
        if not self._queue:
            self._owner.flush_soon(self)
        self._queue.append(data)
        return True

    def flush(self) -> None:
        """Hand what was taken to the socket, unless that is full: then `resume_writing` does it."""
        if self._paused or not self._queue or self._transport.is_closing():
            return
        self._transport.writelines(self._queue)
        self._queue = []
        self._queued = 0

    def close(self, reason: str) -> None:
        """Write what was taken, then close; `close_timeout_ms` later give up on a peer that does not take it."""
        if self._reason:
            return
        self._reason = reason
        self._paused = False
        self.flush()
        self._end()
        self._abort_after(self._owner.options.close_timeout_ms / 1000, reason)
        self._transport.close()

    def abort(self, reason: str) -> None:
        """Close now; what was taken and not yet written is lost."""
        self._reason = self._reason or reason
        self._end()
        self._transport.abort()

    # -- frames ---------------------------------------------------------------------------------------------------

    def _split(self, data: bytes) -> None:
        """Cut what arrived into frames and hand each on. No byte is copied more than three times, however it
        was cut."""
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._needed:
                return
            data = bytes(partial)
            partial.clear()
        start, end = 0, len(data)
        self._needed = 4
        while end - start >= 4:
            size = int.from_bytes(data[start : start + 4], "big")
            # Checked when the length is known, before any of the frame is kept.
            if size > self._max_frame:
                raise WireError(f"{size} bytes, more than the {self._max_frame} that are allowed here")
            stop = start + 4 + size
            if stop > end:
                self._needed = 4 + size
                break
            self._on_frame(data[start + 4 : stop])
            start = stop
        if start < end:
            partial += data[start:] if start else data

    def _on_hello(self, data: bytes) -> None:
        if not data.startswith(MAGIC):
            raise WireError("not a handshake")
        self._recognised = True
        hello = wire.decode_hello(memoryview(data)[len(MAGIC) :])
        self._on_frame = self._on_verdict
        if self.dialled is None:
            self.peer = hello.node
        try:
            self._owner.check(self, hello, self._transport.get_extra_info("peercert"))
        except PeerRefused as refusal:
            self._refuse(str(refusal))
            return
        self._transport.write(frame(b""))

    def _refuse(self, reason: str) -> None:
        self._on_frame = self._on_verdict_of_refused
        self._transport.write(frame(reason.encode()[:_REASON_BYTES]))
        self._settle_refused(reason)

    def _on_verdict(self, data: bytes) -> None:
        if data:
            text = "".join(c if c.isprintable() else "?" for c in data[:_REASON_BYTES].decode(errors="replace"))
            reason = f"node '{self.peer}' refuses: {text}"
            self._settle_refused(reason)
            self.close(reason)
            return
        self._cancel_timer()
        self._on_frame = self._on_message
        self._max_frame = self._owner.options.max_frame_bytes
        self.up = True
        if not self.established.done():
            self.established.set_result(None)
        self._owner.established(self)

    def _on_verdict_of_refused(self, data: bytes) -> None:
        """Whatever a refused peer sends is of no interest; it or the handshake's timer closes the connection."""

    def _on_message(self, data: bytes) -> None:
        message = wire.decode(data)
        owner = self._owner
        owner.counts.received += 1
        owner.counts.received_bytes += len(data) + 4
        owner.endpoint.deliver(self.peer, message)

    def _on_nothing(self, data: bytes) -> None:
        """The connection is being closed: what still arrives is not delivered."""

    # -- endings --------------------------------------------------------------------------------------------------

    def _settle_refused(self, reason: str) -> None:
        self._fail(PeerRefused(reason))
        self._owner.counts.refused += 1
        self._owner.note(self, reason)

    def _fail(self, error: Exception) -> bool:
        """Say that the connection does not come up; False when it has been settled already."""
        if self.established.done():
            return False
        self.established.set_exception(error)
        self.established.exception()  # marks it as seen: on an accepted connection nobody waits for it
        return True

    def _bad_frame(self, reason: str) -> None:
        self._owner.counts.bad_frames += 1
        was_up = self.up
        self.abort(reason)
        if was_up:
            self._owner.note(self, reason)

    def _end(self) -> None:
        self._on_frame = self._on_nothing
        self._owner.counts.dropped += len(self._queue)
        self._queue = []
        self._queued = 0
        if self.up:
            self.up = False
            self._owner.down(self, self._reason)

    def _abort_after(self, seconds: float, reason: str) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort, reason)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _host_of(peername: Any) -> str:
    """The host in a socket's address; that is not known any more when the peer closed at once."""
    return str(peername[0]) if peername else "an unknown host"


def _tune(sock: socket.socket, silence_ms: int) -> None:
    """Send small frames at once, and have the kernel notice a peer that went away without a word."""
    seconds = max(1, silence_ms // 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", max(1, seconds // 2)),
        ("TCP_KEEPINTVL", max(1, seconds // 6)),
        ("TCP_KEEPCNT", 3),
        # Keepalive says nothing while sent data wait for an acknowledgement; this does.
        ("TCP_USER_TIMEOUT", silence_ms),
    ):
        option = getattr(socket, name, None)  # not every platform has all of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)

"""The transport over TCP: frames of `raftcore.wire`, one or two connections a peer, optional mutual TLS.

Every node dials every peer of `set_peers` that it has no connection with, and a connection serves both ways. So
a node that knows no addresses yet can answer over the connection that the leader opened. When two nodes dial
each other at the same moment both connections stay; each end sends over the one that came up last.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raftcore import wire
from raftcore.backends.tcp_connection import Connection, frame
from raftcore.backends.tcp_options import TcpOptions
from raftcore.contracts.transport import Endpoint
from raftcore.errors import ConfigError, PeerRefused
from raftcore.messages import Hello, Message
from raftcore.types import NodeId, NodeInfo

if TYPE_CHECKING:
    import ssl

_TOLD = 256  # reasons that are remembered so that they are not logged again

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What `TcpTransport.counters` reports. Bytes are those of messages with their length, without TLS."""

    sent: int = 0
    received: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    dropped: int = 0
    refused: int = 0
    bad_frames: int = 0


class _Dialling:
    """The task that keeps a connection with one peer. `down` is set while there is none."""

    __slots__ = ("address", "down", "failures", "task")

    def __init__(self, address: str, is_up: bool) -> None:
        self.address = address
        self.failures = 0
        self.down = asyncio.Event()
        if not is_up:
            self.down.set()
        self.task: asyncio.Task[None]


class TcpTransport:
    """A node's transport over TCP. `address` is where peers reach it, as ``host:port``.

    `address` shows the port that the system chose once `start` has bound port 0. `directory` is where relative
    paths of the options lie; `rng` spreads the attempts to reconnect.
    """

    def __init__(
        self, options: TcpOptions, address: str, *, directory: Path = Path(), rng: random.Random | None = None
    ) -> None:
        self.options = options
        self.address = address
        self.counts = Counts()
        self.node: NodeId = ""
        self.endpoint: Endpoint
        self._directory = directory
        self._random = rng or random.Random()
        self._server: asyncio.Server | None = None
        self._tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._stopped = False
        self._nodes: Mapping[NodeId, NodeInfo] = {}
        self._dialling: dict[NodeId, _Dialling] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[Connection] = set()
        self._all_lost = asyncio.Event()
        # Connections that are up, by peer; the last one is sent over. No empty lists: a key says that the peer is up.
        self._up: dict[NodeId, list[Connection]] = {}
        self._told: dict[tuple[str, str], None] = {}
        self._dirty: list[Connection] = []
        self._last_message: Message | None = None
        self._last_frame = b""

    # -- the contract ---------------------------------------------------------------------------------------------

    async def start(self, endpoint: Endpoint) -> None:
        """Listen, and dial the peers. Raises `ConfigError` when the address or a file of `tls` can't be used."""
        where = self.options.bind or self.address
        host, port = _split_address(where)
        self.endpoint, self.node = endpoint, endpoint.hello.node
        extra: dict[str, Any] = {}
        if self.options.tls is not None:
            from raftcore.backends import tls

            self._tls = tls.contexts(self.options.tls, self._directory)
            extra = {"ssl": self._tls[0], "ssl_handshake_timeout": self.options.handshake_timeout_ms / 1000}
        try:
            self._server = await asyncio.get_running_loop().create_server(
                partial(Connection, self, None), host, port, **extra
            )
        except OSError as error:
            raise ConfigError(
                f"can't listen on {where}: {error.strerror or error}; stop what uses it, or give the node another "
                "address (transport.options.bind, when only the address to listen on differs)"
            ) from error
        if port == 0 and not self.options.bind:
            self.address = f"{self.address.rpartition(':')[0]}:{self._server.sockets[0].getsockname()[1]}"
        self._dial_peers()

    def set_peers(self, nodes: Mapping[NodeId, NodeInfo]) -> None:
        """Dial those that are new or have a new address; let go of those that left once what was sent is
        written."""
        self._nodes = dict(nodes)
        if self._server is not None and not self._stopped:
            self._dial_peers()

    def send(self, peer: NodeId, message: Message) -> None:
        up = self._up.get(peer)
        if up is None:
            self.counts.dropped += 1
            return
        # A message for several peers is encoded once: it comes as the same object, one peer right after the other.
        if message is not self._last_message:
            self._last_message, self._last_frame = message, frame(wire.encode(message))
        data = self._last_frame
        size = len(data)
        if size - 4 > self.options.max_frame_bytes:
            self.counts.dropped += 1
            self.note(
                up[-1],
                f"a message of {size - 4} bytes is over max_frame_bytes and can't be sent; raise it on all nodes",
            )
        elif up[-1].send(data):
            self.counts.sent += 1
            self.counts.sent_bytes += size
        else:
            self.counts.dropped += 1

    def counters(self) -> Mapping[str, int]:
        return asdict(self.counts)

    async def stop(self) -> None:
        """Write what was sent, close everything, and wait for it: at most `close_timeout_ms`.

        Under TLS on asyncio's own loop a stranger that stalls in the middle of TLS's handshake is the loop's to
        end: after `handshake_timeout_ms`, or with the loop.
        """
        if self._server is None or self._stopped:
            return
        self._stopped = True
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._open):
            connection.close("this node is stopping")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._open:
            self._all_lost.clear()  # it was set whenever there was no connection for a moment
            await self._all_lost.wait()  # bounded: each of them aborts itself after `close_timeout_ms`

    # -- called by connections ------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> str | None:
        """Take note of a connection; answers why it must be closed, if it must."""
        self._open.add(connection)
        if self._stopped:
            return "this node is stopping"
        if connection.dialled is None:
            accepted = sum(other.dialled is None for other in self._open)
            if accepted > self.options.max_connections:
                self.counts.refused += 1
                return f"{self.options.max_connections} connections are open, the limit (max_connections)"
        return None

    def check(self, connection: Connection, hello: Hello, certificate: Mapping[str, Any] | None) -> None:
        """Raise `PeerRefused` unless the peer is who it must be and speaks a version that this node speaks."""
        mine, theirs = self.endpoint.hello.versions, hello.versions
        if theirs[1] < mine[0] or mine[1] < theirs[0]:
            raise PeerRefused(
                f"node '{hello.node}' speaks versions {theirs[0]} to {theirs[1]} of the protocol and node "
                f"'{self.node}' versions {mine[0]} to {mine[1]}; upgrade the older one"
            )
        if connection.dialled is not None and hello.node != connection.dialled:
            raise PeerRefused(
                f"node '{connection.dialled}' was dialled and node '{hello.node}' answered; correct the address of "
                f"'{connection.dialled}' in the membership"
            )
        if self._tls is not None:
            from raftcore.backends import tls

            if not tls.names_node(certificate or {}, hello.node):
                raise PeerRefused(
                    f"the certificate is not node '{hello.node}''s; issue one with the subject alternative name "
                    f"DNS:{hello.node} or URI:raftcore:{hello.node}"
                )
        self.endpoint.admit(hello)

    def established(self, connection: Connection) -> None:
        """Send over this connection from now on."""
        peer = connection.peer
        up = self._up.setdefault(peer, [])
        others = list(up)
        up.append(connection)
        for other in others:
            # A peer dials only when its own connection is gone, even if this end has not noticed that yet.
            if (other.dialled is None) == (connection.dialled is None):
                other.close("the peer opened a newer connection")
        if others:
            return
        for key in [key for key in self._told if key[0] == peer]:
            del self._told[key]
        dialling = self._dialling.get(peer)
        if dialling is not None:
            dialling.failures = 0
            dialling.down.clear()
        self.endpoint.peer_up(peer)

    def down(self, connection: Connection, reason: str) -> None:
        """Don't send over this connection any more; it was up until now."""
        up = self._up[connection.peer]
        up.remove(connection)
        if up:
            return
        del self._up[connection.peer]
        dialling = self._dialling.get(connection.peer)
        if dialling is not None:
            dialling.down.set()
        self._told.pop((connection.peer, reason), None)  # may have been said when another connection was left
        self.note(connection, reason)

    def lost(self, connection: Connection) -> None:
        """Forget a connection: it is closed."""
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()

    def note(self, connection: Connection, reason: str) -> None:
        """Tell the operator what is wrong with a peer, once until it comes up again."""
        self._tell(connection.peer, connection.remote, reason)

    def flush_soon(self, connection: Connection) -> None:
        """Flush the connection when the turn of the loop is over, so that all that is sent in it goes out in
        one piece."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(connection)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        self._last_message, self._last_frame = None, b""
        for connection in dirty:
            connection.flush()

    def _tell(self, peer: NodeId, remote: str, reason: str) -> None:
        key = (peer or remote, reason)
        if key in self._told or self._stopped:
            return
        if len(self._told) >= _TOLD:
            del self._told[next(iter(self._told))]
        self._told[key] = None
        _log.warning("node '%s': peer '%s' at %s: %s", self.node, peer, remote, reason)
        # Somebody else who claims to be a peer that is up must not make it look down.
        if peer and peer not in self._up:
            self.endpoint.peer_down(peer, reason)

    def _dial_peers(self) -> None:
        for peer, dialling in list(self._dialling.items()):
            info = self._nodes.get(peer)
            if info is None:
                self._let_go(peer, "it is not a member any more")
            elif info.address != dialling.address:
                self._let_go(peer, f"its address is now {info.address}")
        for peer in sorted(self._nodes.keys() - self._dialling.keys()):
            dialling = self._dialling[peer] = _Dialling(self._nodes[peer].address, peer in self._up)
            dialling.task = asyncio.get_running_loop().create_task(
                self._keep_dialling(peer, dialling), name=f"raftcore: {self.node} dials {peer}"
            )
            self._tasks.add(dialling.task)
            dialling.task.add_done_callback(self._tasks.discard)

    def _let_go(self, peer: NodeId, reason: str) -> None:
        self._dialling.pop(peer).task.cancel()
        for connection in [connection for connection in self._open if connection.peer == peer]:
            connection.close(reason)

    async def _keep_dialling(self, peer: NodeId, dialling: _Dialling) -> None:
        while True:
            await dialling.down.wait()
            failure = await self._dial(peer, dialling.address)
            if failure is not None:
                self._tell(peer, dialling.address, failure)
            shortest, longest = self.options.reconnect_min_ms, self.options.reconnect_max_ms
            pause = min(longest, shortest * 2 ** min(dialling.failures, 30))
            if failure is not None:
                dialling.failures += 1
            await asyncio.sleep(pause / 1000 * self._random.uniform(0.5, 1))

    async def _dial(self, peer: NodeId, address: str) -> str | None:
        """Connect, and answer why that failed, if it did."""
        seconds = self.options.handshake_timeout_ms / 1000
        try:
            host, port = _split_address(address)
            async with asyncio.timeout(seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    partial(Connection, self, peer), host, port, ssl=self._tls and self._tls[1]
                )
            await connection.established
        except TimeoutError:
            return f"can't connect to {address}: no answer within {seconds:g} s"
        except (ConfigError, PeerRefused) as error:
            return str(error)
        except (OSError, ValueError) as error:  # the latter: a host's name that can't be encoded
            return f"can't connect to {address}: {error}"
        return None


def _split_address(address: str) -> tuple[str, int]:
    """``host:port`` as the two; an IPv6 address stands in brackets. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"address '{address}' is not host:port; write it like 10.0.0.1:7101 or [fd00::1]:7101")
    return host, int(port)

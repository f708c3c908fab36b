"""The network between the nodes: proxies on loopback that can hold, delay and cut what passes through them.

The members' addresses, which all nodes share, are those of the proxies: one a node, in front of it. A connection
serves both ways, and the first frame on it names who dialled, so a proxy knows both ends and each way of a connection
has the `Link` of its own direction, whoever opened it.

TCP loses no bytes in the middle of a stream, and neither does a cut link: it holds them. When it mends, they arrive
late, as with a real network that was gone for a while; or the connection is reset first, and they are lost together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, cast

from raftcore import wire
from raftcore.backends.tcp_connection import HANDSHAKE_BYTES, MAGIC
from raftcore.errors import WireError

CHUNK_BYTES: Final = 64 * 1024
MAX_CHUNKS: Final = 16
"""What one way of a connection holds at most; beyond it the sender is not read any more."""

HELLO_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 1.0


class Link:
    """What may happen to bytes from one node to another. `delay` in seconds."""

    def __init__(self) -> None:
        self.delay = 0.0
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        """Nothing passes from now on."""
        self._whole.clear()

    def mend(self) -> None:
        """What was held goes on, and at once."""
        self.delay = 0.0
        self._whole.set()

    async def whole(self) -> None:
        """Wait until it is not cut."""
        await self._whole.wait()


class Network:
    """All proxies and links between some nodes. `fronts` and `nodes` say where each proxy and each node listens."""

    def __init__(self, fronts: Mapping[str, str], nodes: Mapping[str, str]) -> None:
        self._fronts = fronts
        self._nodes = nodes
        self._links = {(source, target): Link() for source in nodes for target in nodes if source != target}
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], frozenset[str]] = {}

    async def start(self) -> None:
        """Listen. Raises `OSError` when a port is taken."""
        for target, front in self._fronts.items():
            host, port = _split(front)
            serve = partial(self._serve, target)
            self._servers.append(await asyncio.start_server(serve, host, port, limit=CHUNK_BYTES))

    async def stop(self) -> None:
        """Close every proxy and every connection."""
        for server in self._servers:
            server.close()
        self._drop(self._connections)
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self, links: Iterable[tuple[str, str]]) -> None:
        """Nothing passes from the first to the second of each pair."""
        for link in links:
            self._links[link].cut()

    def delay(self, links: Iterable[tuple[str, str]], seconds: float) -> None:
        """What goes from the first to the second of each pair takes so long, in order."""
        for link in links:
            self._links[link].delay = seconds

    def reset(self, links: Iterable[tuple[str, str]]) -> None:
        """Break the connections between each pair; what is under way on them is lost."""
        pairs = {frozenset(link) for link in links}
        self._drop(task for task, ends in self._connections.items() if ends in pairs)

    def heal(self) -> None:
        """Every link is as new."""
        for link in self._links.values():
            link.mend()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _drop(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        for task in list(tasks):
            task.cancel()

    async def _serve(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections[task] = frozenset()
        try:
            # A cancelled one was cut off by `_drop`; there is nobody to tell.
            with suppress(OSError, EOFError, TimeoutError, WireError, asyncio.CancelledError):
                hello, source = await _hello(reader)
                if (source, target) in self._links:
                    self._connections[task] = frozenset((source, target))
                    await self._connect(source, target, hello, reader, writer)
        finally:
            del self._connections[task]
            writer.transport.abort()

    async def _connect(
        self, source: str, target: str, hello: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, back = self._links[source, target], self._links[target, source]
        await there.whole()  # connecting takes a network too
        host, port = _split(self._nodes[target])
        far_reader, far_writer = await asyncio.open_connection(host, port, limit=CHUNK_BYTES)
        try:
            far_writer.write(hello)
            await _until_closed(_Way(there, reader, far_writer), _Way(back, far_reader, writer))
        finally:
            far_writer.transport.abort()


class _Way:
    """One way of a connection: what is read at one end, held while the link says so, and written at the other."""

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writer = writer
        self._held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_CHUNKS)

    async def take(self) -> None:
        """Read to the end, as fast as there is room. Each chunk gets the time before which it must not go on."""
        chunk = b"-"
        while chunk:
            try:
                chunk = await self._reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""  # a reset is an end, and travels like one
            await self._held.put((asyncio.get_running_loop().time() + self._link.delay, chunk))

    async def give(self) -> None:
        """Write in order; done when the end that was read is passed on."""
        while True:
            due, chunk = await self._held.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._link.whole()
            if not chunk:
                return
            # Whoever is gone there says so over the other way, if the network lets it; here nobody may know yet.
            if not self._writer.is_closing():
                self._writer.write(chunk)
                with suppress(OSError):
                    await self._writer.drain()

    async def close(self) -> None:
        """Let the other end have what was written, and close."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                self._writer.close()
                await self._writer.wait_closed()


async def _until_closed(*ways: _Way) -> None:
    """Run both ways until the end of one has arrived; then both are closed."""
    gives = {asyncio.create_task(way.give()): way for way in ways}
    takes = [asyncio.create_task(way.take()) for way in ways]
    try:
        ended, _ = await asyncio.wait(gives, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await gives[task].close()
    finally:
        for task in (*gives, *takes):
            task.cancel()


async def _hello(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """The first frame, and who sent it. Raises `WireError` when it is no handshake, `EOFError`, `TimeoutError`."""
    async with asyncio.timeout(HELLO_SECONDS):
        head = await reader.readexactly(4)
        size = int.from_bytes(head, "big")
        if size > HANDSHAKE_BYTES:
            raise WireError(f"a handshake of {size} bytes")
        body = await reader.readexactly(size)
    if not body.startswith(MAGIC):
        raise WireError("not a handshake")
    return head + body, wire.decode_hello(body[len(MAGIC) :]).node


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)

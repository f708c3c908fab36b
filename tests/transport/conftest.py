"""Fixtures for the transports' tests: an endpoint that records what it is told, and messages to send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

import pytest

from raftcore import wire
from raftcore.backends.tcp import TcpTransport
from raftcore.backends.tcp_options import TcpOptions
from raftcore.errors import PeerRefused
from raftcore.messages import Hello, Message, TimeoutNow
from raftcore.types import NO_VOTE, NodeInfo


class Recorder:
    """An `Endpoint` that keeps what it is told.

    `refusals` maps a node's id to the reason for refusing it; `failure` is what `deliver` raises.
    """

    def __init__(
        self, node: str, *, cluster: str = "test", versions: tuple[int, int] = wire.VERSIONS, address: str = ""
    ) -> None:
        self.hello = Hello(cluster, node, f"disk of {node}", address, versions)
        self.refusals: dict[str, str] = {}
        self.failure: Exception | None = None
        self.got: list[tuple[str, Message]] = []
        self.events: list[tuple[str, ...]] = []
        self._changed = asyncio.Event()

    def admit(self, hello: Hello) -> None:
        if hello.cluster != self.hello.cluster:
            raise PeerRefused(f"cluster '{hello.cluster}' is not '{self.hello.cluster}'")
        if hello.node in self.refusals:
            raise PeerRefused(self.refusals[hello.node])

    def deliver(self, sender: str, message: Message) -> None:
        if self.failure is not None:
            raise self.failure
        self.got.append((sender, message))
        self._changed.set()

    def peer_up(self, peer: str) -> None:
        self.events.append(("up", peer))
        self._changed.set()

    def peer_down(self, peer: str, reason: str) -> None:
        self.events.append(("down", peer, reason))
        self._changed.set()

    def is_up(self, peer: str) -> bool:
        """Whether the newest that was said of `peer` is that it can be reached."""
        said = [event[0] for event in self.events if event[1] == peer]
        return said[-1:] == ["up"]

    def reasons(self, peer: str) -> list[str]:
        """Why `peer` could not be reached, oldest first."""
        return [event[2] for event in self.events if event[:2] == ("down", peer)]

    async def wait(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Return once `condition` holds; it is looked at again whenever this endpoint is called."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Network:
    """TCP transports on free ports of 127.0.0.1 that are stopped in the end; `ends` holds their endpoints."""

    def __init__(self) -> None:
        self.transports: dict[str, TcpTransport] = {}
        self.ends: dict[str, Recorder] = {}

    async def start(
        self, node: str, *, address: str = "127.0.0.1:0", end: Recorder | None = None, **options: Any
    ) -> TcpTransport:
        """Start a node; the pauses between attempts to connect are short unless said otherwise."""
        options = {"reconnect_min_ms": 10, "reconnect_max_ms": 50} | options
        transport = TcpTransport(TcpOptions(**options), address)
        self.ends[node] = end or Recorder(node)
        await transport.start(self.ends[node])
        self.transports[node] = transport
        return transport

    def introduce(self, node: str, *peers: str) -> None:
        """Tell a node where its peers are."""
        self.transports[node].set_peers({peer: NodeInfo(self.transports[peer].address) for peer in peers})

    async def connected(self, node: str, peer: str) -> None:
        """Wait until both ends know that the other can be reached."""
        await self.ends[node].wait(lambda: self.ends[node].is_up(peer))
        await self.ends[peer].wait(lambda: self.ends[peer].is_up(node))

    async def pair(self, **options: Any) -> None:
        """Start n1 and n2, with n1 dialling n2, and wait for the connection."""
        await self.start("n1", **options)
        await self.start("n2", **options)
        self.introduce("n1", "n2")
        await self.connected("n1", "n2")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self.transports.values():
            await transport.stop()


class RawPeer:
    """A peer made by hand: what it sends and when it reads is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, transport: TcpTransport) -> Self:
        host, port = transport.address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    @classmethod
    async def join(cls, transport: TcpTransport, node: str) -> Self:
        """Dial and go through the handshake as `node`."""
        peer = await cls.dial(transport)
        peer.send(peer.hello(node), b"")
        await peer.read()
        assert b"" == await peer.read()
        return peer

    @staticmethod
    def hello(node: str) -> bytes:
        return b"raftcore" + wire.encode(Hello("test", node, "", "", wire.VERSIONS))

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(len(data).to_bytes(4, "big") + data for data in frames))

    async def read(self) -> bytes:
        """The next frame."""
        async with asyncio.timeout(10):
            return await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big"))

    async def is_closed(self) -> bool:
        """Read until the other end closes; False when it does not do that in time."""
        with suppress(ConnectionError):
            try:
                async with asyncio.timeout(10):
                    while await self.reader.read(65536):
                        pass
            except TimeoutError:
                return False
        return True

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return once `condition` holds, for what no endpoint is told of."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # counters make no noise when they change
            await asyncio.sleep(0.005)


@pytest.fixture
def recorder() -> type[Recorder]:
    """The class `Recorder`, since test files import nothing from each other."""
    return Recorder


@pytest.fixture
def network() -> type[Network]:
    """The class `Network`."""
    return Network


@pytest.fixture
def raw_peer() -> type[RawPeer]:
    """The class `RawPeer`."""
    return RawPeer


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Coroutine[Any, Any, None]]:
    """The function `eventually`."""
    return eventually


@pytest.fixture
def message() -> Callable[[int], Message]:
    """A small message that can be told from others by its number."""
    return lambda number: TimeoutNow(NO_VOTE, number)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on each kind of loop, in debug mode; nothing may be left over, nor the loop have a complaint."""

    async def checked(main: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(40):
            result = await main
        # The loop's own, as `TcpTransport.stop` says: TLS's handshakes that the other end has just broken off.
        accepting = [task for task in asyncio.all_tasks() if "_accept_connection2" in repr(task.get_coro())]
        if accepting:
            await asyncio.wait(accepting, timeout=10)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        timers = [handle for handle in getattr(asyncio.get_running_loop(), "_scheduled", []) if not handle.cancelled()]

        assert (set(), []) == (left, timers)
        return result

    def go(main: Coroutine[Any, Any, Any]) -> Any:
        factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(debug=True, loop_factory=factory) as runner:
            runner.get_loop().slow_callback_duration = 2
            result = runner.run(checked(main))

        complaints = [one.getMessage() for one in caplog.records if one.name == "asyncio" and one.levelno > 20]
        # That TLS's handshake with a client failed is what asyncio says in debug mode only.
        expected = "Error on transport creation for incoming connection"

        assert [] == [complaint for complaint in complaints if not complaint.startswith(expected)]
        return result

    return go

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from raftcore import wire
from raftcore.backends.tcp_connection import MAGIC, frame
from raftcore.cli.chaos.network import CHUNK_BYTES, MAX_CHUNKS, Network
from raftcore.messages import Hello

SECONDS = 10.0
SOON = 0.15
"""How long to look whether something arrives that must not."""


def _address() -> str:
    for port in random.sample(range(15_000, 32_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return f"127.0.0.1:{port}"
    raise AssertionError("no port is free")


def _hello(node: str) -> bytes:
    return frame(MAGIC + wire.encode(Hello("test", node, "disk", "", wire.VERSIONS)))


class Streams:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def expect(self, data: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            assert data == await self.reader.readexactly(len(data))

    async def expect_end(self) -> None:
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionError):
                assert b"" == await self.reader.read(1)

    async def expect_silence(self) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await self.reader.read(1)


class Two:
    """Nodes a and b with a network between them. `dialled` is a's end of a connection that a opened, `accepted` b's."""

    network: Network
    front: str
    dialled: Streams
    accepted: Streams

    async def dial(self, hello: bytes) -> Streams:
        host, _, port = self.front.rpartition(":")
        streams = Streams(*await asyncio.open_connection(host, int(port)))
        self.ends.append(streams)
        streams.writer.write(hello)
        return streams

    async def run(self, test: Callable[[Two], Awaitable[None]], *, connected: bool = True) -> None:
        self.ends: list[Streams] = []
        nodes, fronts = ({node: _address() for node in "ab"} for _ in range(2))
        self.front = fronts["b"]
        accepting: asyncio.Queue[Streams] = asyncio.Queue()
        host, _, port = nodes["b"].rpartition(":")
        server = await asyncio.start_server(lambda *ends: accepting.put_nowait(Streams(*ends)), host, int(port))
        self.accepting = accepting
        self.network = Network(fronts, nodes)
        await self.network.start()
        try:
            if connected:
                self.dialled = await self.dial(_hello("a"))
                self.accepted = await self.accept()
            await test(self)
        finally:
            await self.network.stop()
            server.close()
            for end in self.ends:
                end.writer.transport.abort()
            await asyncio.sleep(0)

    async def accept(self) -> Streams:
        async with asyncio.timeout(SECONDS):
            accepted = await self.accepting.get()
        self.ends.append(accepted)
        await accepted.expect(_hello("a"))
        return accepted


def test_both_ways_pass_unchanged() -> None:
    """The first frame, whose sender it reads, included; a megabyte comes in order."""

    async def check(two: Two) -> None:
        data = random.Random(1).randbytes(1024 * 1024)
        two.dialled.writer.write(data)
        two.accepted.writer.write(b"answer")
        await two.accepted.expect(data)
        await two.dialled.expect(b"answer")

    asyncio.run(Two().run(check))


def test_a_cut_holds_what_is_sent_until_it_heals() -> None:
    """No byte of a stream is lost: they arrive late, in order."""

    async def check(two: Two) -> None:
        two.network.cut([("a", "b"), ("b", "a")])
        two.dialled.writer.write(b"late ")
        two.accepted.writer.write(b"too")
        await asyncio.gather(two.accepted.expect_silence(), two.dialled.expect_silence())
        two.dialled.writer.write(b"but whole")
        two.network.heal()
        await two.accepted.expect(b"late but whole")
        await two.dialled.expect(b"too")

    asyncio.run(Two().run(check))


@pytest.mark.parametrize("deaf", ["a", "b"])
def test_a_cut_can_be_one_way(deaf: str) -> None:
    """On a connection that a opened each direction can be cut alone."""

    async def check(two: Two) -> None:
        ends = {"a": two.dialled, "b": two.accepted}
        other = "ab".replace(deaf, "")
        two.network.cut([(other, deaf)])
        ends[deaf].writer.write(b"heard")
        ends[other].writer.write(b"unheard")
        await ends[other].expect(b"heard")
        await ends[deaf].expect_silence()

    asyncio.run(Two().run(check))


def test_a_delayed_link_takes_its_time() -> None:
    """What follows later does not wait twice: each chunk is late by the delay; the other way is not."""

    async def check(two: Two) -> None:
        loop = asyncio.get_running_loop()
        two.network.delay([("a", "b")], 0.3)
        sent = loop.time()
        two.dialled.writer.write(b"one")
        await asyncio.sleep(0.1)
        two.dialled.writer.write(b"two")
        two.accepted.writer.write(b"quick")
        await two.dialled.expect(b"quick")
        back = loop.time() - sent
        await two.accepted.expect(b"one")
        one = loop.time() - sent
        await two.accepted.expect(b"two")
        both = loop.time() - sent

        assert back < 0.29 < one
        assert 0.39 < both < 0.59

    asyncio.run(Two().run(check))


def test_a_reset_ends_connections_and_what_they_hold() -> None:
    """Both ends notice; a new connection has nothing of the old one."""

    async def check(two: Two) -> None:
        two.network.cut([("a", "b")])
        two.dialled.writer.write(b"lost")
        await two.accepted.expect_silence()
        two.network.reset([("b", "a")])
        await asyncio.gather(two.dialled.expect_end(), two.accepted.expect_end())
        two.network.heal()
        dialled = await two.dial(_hello("a"))
        accepted = await two.accept()
        dialled.writer.write(b"new")
        await accepted.expect(b"new")

    asyncio.run(Two().run(check))


def test_a_cut_link_lets_nobody_connect() -> None:
    """The attempt stays without an answer until the link heals."""

    async def check(two: Two) -> None:
        two.network.cut([("a", "b")])
        dialled = await two.dial(_hello("a"))
        await dialled.expect_silence()

        assert two.accepting.empty()
        two.network.heal()
        await two.accept()

    asyncio.run(Two().run(check, connected=False))


def test_an_end_arrives_behind_what_was_sent() -> None:
    """The end of a stream passes a cut no sooner than its bytes do."""

    async def check(two: Two) -> None:
        two.network.cut([("a", "b")])
        two.dialled.writer.write(b"last words")
        two.dialled.writer.close()
        await two.accepted.expect_silence()
        two.network.heal()
        await two.accepted.expect(b"last words")
        await two.accepted.expect_end()

    asyncio.run(Two().run(check))


def test_the_other_end_does_not_hear_of_a_death_through_a_cut() -> None:
    """With b gone and the way from b cut, a may go on to send, into nothing."""

    async def check(two: Two) -> None:
        two.network.cut([("b", "a")])
        two.accepted.writer.transport.abort()
        for _ in range(3):
            two.dialled.writer.write(b"hello?")
            await two.dialled.expect_silence()
        two.network.heal()
        await two.dialled.expect_end()

    asyncio.run(Two().run(check))


def test_what_is_held_is_bounded() -> None:
    """Beyond its limit the proxy stops reading, and the sender notices that nothing more is taken."""

    async def check(two: Two) -> None:
        two.network.cut([("a", "b")])
        # The buffers of two sockets and two streams come on top.
        most, taken = MAX_CHUNKS * CHUNK_BYTES + 32 * 1024 * 1024, 0
        with suppress(TimeoutError):
            while taken <= most:
                two.dialled.writer.write(bytes(CHUNK_BYTES))
                async with asyncio.timeout(1):
                    await two.dialled.writer.drain()
                taken += CHUNK_BYTES

        assert taken <= most

    asyncio.run(Two().run(check))


@pytest.mark.parametrize(
    "hello",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(frame(b"something else"), id="no handshake"),
        pytest.param(frame(MAGIC + b"\xc1"), id="no hello"),
        pytest.param(_hello("c"), id="no member"),
    ],
)
def test_strangers_are_closed(hello: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Who does not say which member it is reaches nobody."""

    async def check(two: Two) -> None:
        stranger = await two.dial(hello)
        await stranger.expect_end()

        assert two.accepting.empty()
        assert [] == caplog.records

    asyncio.run(Two().run(check, connected=False))

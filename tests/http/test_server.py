from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from raftcore.errors import ConfigError
from raftcore.http import make_app
from raftcore.http.server import HttpServer

if TYPE_CHECKING:
    from starlette.requests import Request

Serve = Callable[..., None]


def _ask(address: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    """One request from a thread, with a client that is none of ours."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_node_is_served_over_tcp(serve: Serve) -> None:
    """Port 0 is any, and the address shows which; the process's signal handlers stay as they were."""

    async def check(cluster) -> None:
        before = signal.getsignal(signal.SIGINT)
        server = HttpServer(make_app(cluster.nodes["n1"]), "127.0.0.1:0")
        await server.start()
        try:
            put = await asyncio.to_thread(_ask, server.address, "PUT", "/kv/%C3%A9", b"value")
            got = await asyncio.to_thread(_ask, server.address, "GET", "/kv/%C3%A9")
            bad = await asyncio.to_thread(_ask, server.address, "GET", "/kv/%C3")
            during = signal.getsignal(signal.SIGINT)
        finally:
            await server.stop()

        assert not server.address.endswith(":0")
        assert (200, (200, b"value"), 400) == (put[0], got, bad[0])
        assert before == during

    serve(check)


def test_a_body_without_a_length_is_bounded_too(serve: Serve) -> None:
    """Chunked, as a stream that never ends would be: refused, and the connection closed."""

    async def check(cluster) -> None:
        server = HttpServer(make_app(cluster.nodes["n1"]), "127.0.0.1:0")
        await server.start()
        try:
            host, _, port = server.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"PUT /kv/x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(17):
                writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")  # 64 KiB each, and no last one
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
        finally:
            await server.stop()

        assert head.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in head.lower()

    serve(check)


def test_an_address_in_use_is_an_error_of_the_configuration() -> None:
    """It says which address, and what to do."""

    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(ConfigError, match=rf"http\.address: can't listen on {address}.*stop what uses it"):
                await HttpServer(Starlette(), address).start()

    asyncio.run(check())


def test_a_request_under_way_is_finished_before_the_end() -> None:
    """Stopping waits for it, and takes no new connection."""

    async def check() -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_request: Request) -> PlainTextResponse:
            entered.set()
            await go_on.wait()
            return PlainTextResponse("done")

        server = HttpServer(Starlette(routes=[Route("/", slow)]), "127.0.0.1:0")
        await server.start()
        asked = asyncio.create_task(asyncio.to_thread(_ask, server.address, "GET", "/"))
        await entered.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.to_thread(_until_refused, server.address)
        still_under_way = not asked.done()
        go_on.set()

        assert still_under_way
        assert (200, b"done") == await asked
        await stopping

    asyncio.run(check())


def _until_refused(address: str) -> None:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection((host, int(port)), timeout=5).close()

"""The server of `raftcore run`: uvicorn inside the node's own event loop. Signals stay with who runs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn

from raftcore.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

IDLE_SECONDS = 60
GRACE_SECONDS = 3


class _Uvicorn(uvicorn.Server):
    """Uvicorn that leaves signals alone and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()


class HttpServer:
    """Serves `app` at `address` (``host:port``; port 0: any, then `address` shows which) from `start` to `stop`."""

    def __init__(self, app: ASGIApp, address: str) -> None:
        self.address = address
        self._app = app
        self._server: _Uvicorn
        self.task: asyncio.Task[None]
        """What serves; it ends by itself only by failing."""

    async def start(self) -> None:
        """Raises `ConfigError` when the address can't be used."""
        listener = await asyncio.to_thread(_listen, self.address)  # looking up a name may take a while
        host = self.address.rpartition(":")[0]
        self.address = f"{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._server = _Uvicorn(config)
        self.task = asyncio.create_task(self._server.serve([listener]), name=f"raftcore: http at {self.address}")
        serves = asyncio.create_task(self._server.serves.wait())
        await asyncio.wait((self.task, serves), return_when=asyncio.FIRST_COMPLETED)
        serves.cancel()
        if self.task.done():
            await self.task

    async def stop(self) -> None:
        """Take no more connections, finish the requests under way (at most `GRACE_SECONDS`), and end."""
        self._server.should_exit = True
        await self.task


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, int(port)), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"http.address: can't listen on {address}: {error.strerror or error}; stop what uses it, or choose another"
        ) from error
    listener.setblocking(False)
    return listener

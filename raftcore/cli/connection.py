"""One keep-alive HTTP connection on asyncio streams: as little as a load of many small requests needs."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

from raftcore.cli.client import Answer

REQUEST_SECONDS = 20.0
MAX_HEADER_BYTES = 64 * 1024


class NoAnswer(Exception):
    """The member could not be reached, or went away before it answered.

    `sent`: something of the request may have reached it, so it may have done what was asked. `late`: time ran out.
    """

    def __init__(self, message: str, *, sent: bool = True, late: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.late = late


class Connection:
    """Requests to one member, one at a time. A lost connection is opened anew by the next request."""

    def __init__(self, host: str, port: int, seconds: float = REQUEST_SECONDS) -> None:
        self._host = host
        self._port = port
        self._seconds = seconds
        self._sent = False
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Make one request. Raises `NoAnswer`."""
        self._sent = False
        try:
            async with asyncio.timeout(self._seconds):
                return await self._ask(method, path, body)
        except TimeoutError:
            self.close()
            raise NoAnswer(
                f"{self._host}:{self._port}: no answer within {self._seconds:g} s", sent=self._sent, late=True
            ) from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise NoAnswer(
                f"{self._host}:{self._port}: {str(error) or type(error).__name__}", sent=self._sent
            ) from error
        except BaseException:
            self.close()  # half an answer may be under way
            raise

    async def _ask(self, method: str, path: str, body: bytes) -> Answer:
        if self._writer is not None and self._reader.at_eof():
            self.close()  # known to be gone before anything is sent: no reason for an outcome that nobody knows
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=MAX_HEADER_BYTES)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._sent = True
        self._writer.write(head.encode("ascii") + body)
        status_line, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer = await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status_line.split(" ", 2)[1]), headers, answer)

    async def get(self, path: str) -> Any:
        """What is at `path`, decoded from JSON. Raises `NoAnswer`, also for an error that is answered."""
        answer = await self.ask("GET", path)
        if answer.status != 200:
            text = answer.body[:500].decode(errors="replace")
            raise NoAnswer(f"{self._host}:{self._port}: {path}: status {answer.status}: {text}")
        return json.loads(answer.body)

    def close(self) -> None:
        """Let go of the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def key_path(key: str) -> str:
    """Where a key is."""
    return f"/kv/{quote(key, safe='')}"

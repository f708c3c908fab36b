"""What a request asks for: its body within its limit, its parameters, and the time that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast, get_args
from urllib.parse import unquote_to_bytes

import msgspec

from raftcore.errors import RaftCoreError
from raftcore.http.answers import Failure, failure_of
from raftcore.node.reading import Consistency

if TYPE_CHECKING:
    from starlette.requests import Request

    from raftcore.config import HttpSettings

T = TypeVar("T")
Wanted = TypeVar("Wanted", bound=msgspec.Struct)


class Asking:
    """One request, and until when it is to be answered."""

    def __init__(self, request: Request, settings: HttpSettings) -> None:
        self.request = request
        self._settings = settings
        self._deadline = asyncio.get_running_loop().time() + settings.request_timeout_ms / 1000

    async def body(self) -> bytes:
        """The whole body. One that is too large is refused as soon as that is known, whether it has a length or not."""
        limit = self._settings.max_body_bytes
        declared = self.request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise self._too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout_at(self._deadline):
                async for part in self.request.stream():
                    size += len(part)
                    if size > limit:
                        raise self._too_large(limit)
                    parts.append(part)
        except TimeoutError:
            raise Failure(
                408,
                "timeout",
                f"the body did not arrive within {self._seconds} s (http.request_timeout_ms); send it faster",
                outcome="not_appended",
                headers={"Connection": "close"},
            ) from None
        return b"".join(parts)

    def _too_large(self, limit: int) -> Failure:
        # Without the rest of the body the connection can't go on.
        return Failure(
            413,
            "too_large",
            f"a body may have at most {limit} bytes (http.max_body_bytes); send less, or raise the limit",
            outcome="not_appended",
            headers={"Connection": "close"},
        )

    async def json(self, wanted: type[Wanted], *, optional: bool = False) -> Wanted:
        """The body as a `wanted`; with `optional`, an empty one stands for one without any members."""
        body = await self.body()
        if optional and not body:
            body = b"{}"
        try:
            return msgspec.json.decode(body, type=wanted)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            fields = ", ".join(wanted.__struct_fields__)
            raise Failure(
                400,
                "bad_request",
                f"the body is not what {self.request.url.path} takes: {error}; send a JSON object with: {fields}",
                outcome="not_appended",
            ) from None

    @property
    def key(self) -> str:
        """The key in the path, checked."""
        # A server may have replaced what is no UTF-8 in `path`: two keys must not become one.
        raw = self.request.scope.get("raw_path") or b""
        try:
            unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            raise Failure(400, "bad_key", "the key is not UTF-8; encode its bytes as UTF-8, then as %XX") from None
        key: str = self.request.path_params["key"]
        if not key:
            raise Failure(400, "bad_key", "the key is empty; write /kv/<key>, or /kv?prefix= to list keys")
        size, limit = len(key.encode()), self._settings.max_key_bytes
        if size > limit:
            raise Failure(
                414, "key_too_long", f"the key has {size} bytes, more than {limit} (http.max_key_bytes); shorten it"
            )
        return key

    @property
    def consistency(self) -> Consistency:
        """What ``?consistency=`` says; linearizable without it."""
        text = self.request.query_params.get("consistency", "linearizable")
        if text not in get_args(Consistency):
            raise Failure(
                400,
                "bad_request",
                f"consistency '{text}' is not known; use one of {', '.join(get_args(Consistency))}",
            )
        return cast(Consistency, text)

    def number(self, name: str, default: int, most: int) -> int:
        """A parameter that is a number from 1 to `most`."""
        text = self.request.query_params.get(name, str(default))
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= most):
            raise Failure(400, "bad_request", f"{name} '{text}' is not a number from 1 to {most}")
        return int(text)

    async def read(self, reading: Awaitable[T]) -> T:
        """What changes nothing, within the time that is left."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await reading
        except TimeoutError:
            raise Failure(
                503,
                "timeout",
                f"no answer within {self._seconds} s (http.request_timeout_ms); try again, or ask another member",
                headers={"Retry-After": "1"},
            ) from None
        except RaftCoreError as error:
            raise failure_of(error) from error

    async def command(self, begin: Callable[[], Awaitable[T]]) -> T:
        """What changes something, within the time that is left. Every failure says whether it may have happened."""
        try:
            commanding = begin()
        except RaftCoreError as error:
            raise failure_of(error, "not_appended") from error  # refused before anybody was asked
        try:
            async with asyncio.timeout_at(self._deadline):
                return await commanding
        except TimeoutError:
            raise Failure(
                504,
                "outcome_unknown",
                f"no answer within {self._seconds} s (http.request_timeout_ms); it may have happened, or may yet",
                outcome="unknown",
            ) from None
        except RaftCoreError as error:
            raise failure_of(error, "unknown") from error

    @property
    def _seconds(self) -> str:
        return f"{self._settings.request_timeout_ms / 1000:g}"

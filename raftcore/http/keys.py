"""The built-in key-value state machine over HTTP. A value is a request's or an answer's raw body.

In JSON a value is text under ``value``, or, when its bytes are not UTF-8, base64 under ``value_base64``.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.responses import Response

from raftcore.backends.kv import (
    Answer,
    Command,
    CompareAndSet,
    Delete,
    Deleted,
    Item,
    KeyValue,
    Mismatch,
    Put,
    Refused,
    Written,
    decode_answer,
    encode,
)
from raftcore.http.answers import Failure, reply
from raftcore.http.asking import Asking

if TYPE_CHECKING:
    from starlette.requests import Request

    from raftcore.config import HttpSettings
    from raftcore.node import Node

T = TypeVar("T")

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class Comparing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /kv/{key}/cas``: one of the three expectations, and one of the two values."""

    value: str | None = None
    value_base64: str | None = None
    expect_value: str | None = None
    expect_value_base64: str | None = None
    expect_version: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class KeyFace:
    """The endpoints below ``/kv``, and ``/digest``."""

    def __init__(self, node: Node, settings: HttpSettings) -> None:
        self._node = node
        self._settings = settings

    async def one(self, request: Request) -> Response:
        """``GET``, ``PUT`` and ``DELETE /kv/{key}``."""
        asking = Asking(request, self._settings)
        key = asking.key
        if request.method == "PUT":
            return await self._answer(asking, Put(key, await asking.body()))
        if request.method == "DELETE":
            return await self._answer(asking, Delete(key))
        consistency = asking.consistency
        item = await asking.read(self._node.query(lambda machine: _key_value(machine).get(key), consistency))
        if item is None:
            raise Failure(404, "no_such_key", f"key '{key}' does not exist")
        return Response(item.value, headers={"ETag": f'"{item.version}"'}, media_type="application/octet-stream")

    async def compare_and_set(self, request: Request) -> Response:
        """``POST /kv/{key}/cas``."""
        asking = Asking(request, self._settings)
        key, body = asking.key, await asking.json(Comparing)
        value = _one_of(_bytes(body.value, body.value_base64, "value"), "value or value_base64")
        expected: list[bytes | int] = [*_bytes(body.expect_value, body.expect_value_base64, "expect_value")]
        if body.expect_version is not None:
            expected.append(body.expect_version)
        choices = "expect_version (0: the key must not exist), expect_value or expect_value_base64"
        return await self._answer(asking, CompareAndSet(key, value, _one_of(expected, choices)))

    async def list(self, request: Request) -> Response:
        """``GET /kv?prefix=&limit=&after=``. A page ends at `limit` keys, or when its values are too large together."""
        asking = Asking(request, self._settings)
        prefix, after = request.query_params.get("prefix", ""), request.query_params.get("after")
        limit, consistency = asking.number("limit", DEFAULT_LIMIT, MAX_LIMIT), asking.consistency

        def page(machine: object) -> tuple[int, list[tuple[str, Item]]]:
            store = _key_value(machine)
            return store.applied, store.list(prefix, limit + 1, after)

        applied, found = await asking.read(self._node.query(page, consistency))
        items: list[dict[str, object]] = []
        room = self._settings.max_body_bytes
        for key, item in found[:limit]:
            if items and len(item.value) > room:
                break
            room -= len(item.value)
            items.append({"key": key, **in_json(item.value), "version": item.version})
        following = items[-1]["key"] if len(items) < len(found) else None
        return reply({"items": items, "applied": applied, "next": following})

    async def digest(self, request: Request) -> Response:
        """``GET /digest``: this member's own state as one hash, and the index of the entry behind which it holds."""
        applier = self._node.member.applier
        store = _key_value(applier.machine)
        # In a thread, since it looks at every key: other members must not take this one for dead meanwhile.
        asked = applier.exclusive(lambda: (store.applied, store.digest()), long=True)
        applied, digest = await Asking(request, self._settings).read(asked)
        return reply({"node": self._node.id, "applied": applied, "digest": digest})

    async def _answer(self, asking: Asking, command: Command) -> Response:
        _key_value(self._node.member.applier.machine)
        data = await asking.command(lambda: self._node.propose(encode(command)))
        answer: Answer = decode_answer(data or b"")
        match answer:
            case Written() | Deleted():
                return reply({"version": answer.version})
            case Mismatch():
                now = "does not exist" if not answer.version else f"has version {answer.version}"
                raise Failure(
                    409,
                    "mismatch",
                    f"nothing was changed: the key {now}; read it and decide again",
                    more={"version": answer.version, **in_json(answer.value or b"")},
                )
            case Refused():
                raise Failure(400, "refused", answer.reason)


def in_json(value: bytes) -> dict[str, str]:
    """A value as a member of a JSON object."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def _key_value(machine: object) -> KeyValue:
    if not isinstance(machine, KeyValue):
        raise Failure(
            501,
            "no_key_value",
            f"the state machine is {type(machine).__name__}; only the built-in 'kv' can be used over HTTP",
        )
    return machine


def _bytes(text: str | None, encoded: str | None, name: str) -> list[bytes]:
    """What was given of the two ways to write a value."""
    values = [] if text is None else [text.encode()]
    if encoded is not None:
        try:
            values.append(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError) as error:
            raise Failure(400, "bad_request", f"{name}_base64 is not base64: {error}", outcome="not_appended") from None
    return values


def _one_of(given: list[T], choices: str) -> T:
    if len(given) == 1:
        return given[0]
    raise Failure(400, "bad_request", f"{len(given)} given where one is needed: {choices}", outcome="not_appended")

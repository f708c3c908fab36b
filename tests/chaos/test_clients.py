from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from raftcore.cli.chaos import clients
from raftcore.cli.chaos.clients import Client, Record
from raftcore.cli.chaos.cluster import Cluster, Member
from raftcore.sim.trace import Trace

KEY = "register/0"
Test = Callable[[Client, Member, Record], Awaitable[None]]


def _answer(status: int, body: object, **headers: object) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(data)}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _run(test: Test, *answers: bytes | None) -> Record:
    """Run a client against a server with these answers, one a request; b"" closes the connection, None never comes."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(EOFError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await reader.readexactly(int(head.rpartition("Content-Length: ")[2]))
                answer = left.pop(0)
                if answer is None:
                    await reader.read()  # until the client goes
                if not answer:
                    break
                writer.write(answer)
        writer.close()

    async def main() -> Record:
        server = await asyncio.start_server(serve, "127.0.0.1", 0) if answers else None
        port = server.sockets[0].getsockname()[1] if server is not None else _unused()
        member = Member("n1", Path(), "", f"127.0.0.1:{port}", "")
        record = Record(Cluster([member], Trace(lambda: 0.0)), lambda: 0.0)
        client = Client(record, "c1")
        try:
            await test(client, member, record)
        finally:
            client.close()
            if server is not None:
                server.close()
            await asyncio.sleep(0.01)
        return record

    return asyncio.run(main())


def _unused() -> int:
    for port in random.sample(range(15_000, 32_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


async def _write(client: Client, member: Member, record: Record) -> None:
    await client.write(member, KEY, 1)


async def _read(client: Client, member: Member, record: Record) -> None:
    await client.read(member, KEY, "lease")


NOT_APPENDED = _answer(503, {"error": "no_leader", "message": "no leader", "outcome": "not_appended"})
UNKNOWN = _answer(504, {"error": "outcome_unknown", "message": "who knows", "outcome": "unknown"})
INTERNAL = _answer(500, {"error": "internal", "message": "unexpected KeyError"})
UNAVAILABLE = _answer(503, {"error": "read_unavailable", "message": "no confirmation"})
MISMATCH = _answer(409, {"error": "mismatch", "message": "nothing was changed", "version": 3, "value": "[7]"})
WRITTEN = _answer(200, {"version": 4})


@pytest.mark.parametrize(
    ("test", "answers", "outcome", "counted"),
    [
        pytest.param(_write, [WRITTEN], "ok", "ok", id="acknowledged"),
        pytest.param(_write, [NOT_APPENDED], "fail", "failed", id="not appended"),
        pytest.param(_write, [UNKNOWN], "info", "unknown", id="unknown"),
        pytest.param(_write, [INTERNAL], "info", "unknown", id="internal error"),
        pytest.param(_write, [], "fail", "failed", id="refused connection"),
        pytest.param(_write, [b""], "info", "unknown", id="lost connection"),
        pytest.param(_write, [None], "info", "timeouts", id="no answer in time"),
        pytest.param(_read, [_answer(200, b"5", etag='"4"')], "ok", "ok", id="read"),
        pytest.param(_read, [UNAVAILABLE], "fail", "failed", id="read unavailable"),
        pytest.param(_read, [b""], "fail", "failed", id="read, lost connection"),
        pytest.param(_read, [None], "fail", "timeouts", id="read, no answer in time"),
    ],
)
def test_outcomes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, test: Test, answers: list[bytes | None], outcome: str, counted: str
) -> None:
    """What did not happen fails; what may have happened is unknown; a read changes nothing, so it can only fail."""
    monkeypatch.setattr(clients, "REQUEST_SECONDS", 0.3)
    record = _run(test, *answers)
    (operation,) = record.history.operations

    assert outcome == operation.outcome
    assert (outcome == "ok") == (operation.error == "")
    assert {name: int(name == counted) for name in record.outcomes} == dict(record.outcomes)


def test_a_read_shows_what_there_is() -> None:
    """The value as it was stored; a key that is not there has what its sort begins with."""
    missing = _answer(404, {"error": "no_such_key", "message": "no"})

    async def test(client: Client, member: Member, record: Record) -> None:
        for key in ("register/0", "list/0", "register/1", "list/1", "counter/1"):
            await client.read(member, key, "stale")

    record = _run(test, _answer(200, b"5", etag='"4"'), _answer(200, b"[1, 2]", etag='"4"'), missing, missing, missing)

    assert [5, [1, 2], None, [], 0] == [operation.result for operation in record.history.operations]
    assert {"stale"} == {operation.consistency for operation in record.history.operations}


def test_an_append_goes_on_from_what_others_made_of_the_list() -> None:
    """A mismatch says what is there now: that is what the next try begins with."""

    async def test(client: Client, member: Member, record: Record) -> None:
        assert await client.append(member, "list/0", 8)

    record = _run(test, _answer(200, b"[]", etag='"2"'), MISMATCH, WRITTEN)

    assert ["ok"] == [operation.outcome for operation in record.history.operations]


def test_an_append_is_given_up_when_others_are_always_faster() -> None:
    """It did not happen, and the history says so."""

    async def test(client: Client, member: Member, record: Record) -> None:
        assert not await client.append(member, "list/0", 8)

    record = _run(test, _answer(200, b"[]", etag='"2"'), *[MISMATCH] * clients.TRIES)

    assert [("fail", "4 others were faster")] == [(o.outcome, o.error) for o in record.history.operations]


def test_who_does_not_know_goes_on_as_another_process() -> None:
    """Its call may yet take effect, so the process that made it asks nothing more."""

    async def test(client: Client, member: Member, record: Record) -> None:
        for value in range(4):
            await client.write(member, KEY, value)

    record = _run(test, WRITTEN, UNKNOWN, b"", NOT_APPENDED)

    assert ["c1", "c1", "c1.1", "c1.2"] == [operation.process for operation in record.history.operations]


def test_an_internal_error_is_a_problem() -> None:
    """Even when nothing contradicts it: the node has a defect."""
    record = _run(_write, INTERNAL)

    assert 1 == len(record.cluster.problems)
    assert record.cluster.problems[0].startswith("node n1 answered 500 ")

"""One client: it asks members over HTTP for registers, lists and counters, and notes what it asked and was told.

A register is a key of its own. A list and a counter are a value that is changed by compare-and-set on its version, so
an append that was answered is in every later list, once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from raftcore.cli.chaos.cluster import Cluster, Member
from raftcore.cli.client import Answer
from raftcore.cli.connection import Connection, NoAnswer, key_path
from raftcore.node.reading import Consistency
from raftcore.sim.history import History, Value

REQUEST_SECONDS: Final = 2.5
"""Longer than a member takes to give up by itself; one that does not answer by then is dead or paused."""

TRIES: Final = 4
"""How often an append or an addition is tried when others were faster."""


class Failed(Exception):
    """It did not happen, and will not."""


class Unknown(Exception):
    """It may have happened, or may yet."""


class Late(Unknown):
    """As above: the client did not wait any longer."""


class Record:
    """What all clients note: the history, and how many operations ended how."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        self.cluster = cluster
        self.history = History()
        self.outcomes: Counter[str] = Counter(dict.fromkeys(("ok", "failed", "unknown", "timeouts"), 0))
        self._clock = clock

    def nanoseconds(self) -> int:
        """The time of the history."""
        return round(self._clock() * 1e9)


class Client:
    """A client; it does one thing at a time. Its operations answer whether they were acknowledged."""

    def __init__(self, record: Record, name: str) -> None:
        self.name = name
        self._record = record
        self._process = name
        self._lives = 0
        self._connections: dict[str, Connection] = {}

    def close(self) -> None:
        """Let go of all connections."""
        for connection in self._connections.values():
            connection.close()

    # -- operations ---------------------------------------------------------------------------------------------------

    async def read(self, member: Member, key: str, consistency: Consistency) -> tuple[bool, Value]:
        """Read a key. A list that is not there is empty, a counter 0, a register None."""

        async def act() -> Value:
            try:
                value, _ = await self._get(member, key, consistency)
            except Late:
                raise
            except Unknown as error:
                raise Failed(str(error)) from error  # a read leaves nothing behind
            return cast(Value, value)

        return await self._operate(member, "read", key, None, act, consistency)

    async def confirm(self, member: Member, key: str) -> bool:
        """Read a key, linearizable; whether that was answered."""
        return (await self.read(member, key, "linearizable"))[0]

    async def write(self, member: Member, key: str, value: int) -> bool:
        """Set a register."""

        async def act() -> Value:
            self._judge(member, await self._ask(member, "PUT", key_path(key), str(value).encode()))
            return None

        return (await self._operate(member, "write", key, value, act))[0]

    async def cas(self, member: Member, key: str, expected: int | None, value: int) -> bool:
        """Set a register if it has the value `expected`; None: if it does not exist."""
        expectation = {"expect_version": 0} if expected is None else {"expect_value": str(expected)}

        async def act() -> Value:
            self._judge(member, await self._compare_and_set(member, key, str(value), expectation))
            return None

        return (await self._operate(member, "cas", key, [expected, value], act))[0]

    async def append(self, member: Member, key: str, value: int) -> bool:
        """Append to a list."""
        return await self._change(member, "append", key, value, lambda old: [*old, value])

    async def add(self, member: Member, key: str, value: int) -> bool:
        """Add to a counter."""
        return await self._change(member, "add", key, value, lambda old: old + value)

    async def _change(self, member: Member, f: str, key: str, value: int, change: Callable[[Any], Value]) -> bool:
        async def act() -> Value:
            try:
                old, version = await self._get(member, key, "stale")  # the version is what guards the change
            except Unknown as error:
                raise Failed(str(error)) from error
            for _ in range(TRIES):
                new = json.dumps(change(old))
                answer = await self._compare_and_set(member, key, new, {"expect_version": version})
                if answer.status != 409:
                    self._judge(member, answer)
                    return None
                body = answer.json()
                old, version = _decoded(key, body.get("value", "").encode()), body["version"]
            raise Failed(f"{TRIES} others were faster")

        return (await self._operate(member, f, key, value, act))[0]

    # -- how they are done --------------------------------------------------------------------------------------------

    async def _operate(
        self,
        member: Member,
        f: str,
        key: str,
        value: Value,
        act: Callable[[], Awaitable[Value]],
        consistency: Consistency = "linearizable",
    ) -> tuple[bool, Value]:
        record, trace = self._record, self._record.cluster.trace
        number = record.history.invoke(
            self._process,
            f,
            key,
            value,
            time=record.nanoseconds(),
            node=member.node,
            consistency=consistency,
            life=member.life,
        )
        trace.add("invoke", client=self.name, id=number, node=member.node, f=f, key=key, value=value)
        outcome, counted, result, error = "ok", "ok", None, ""
        try:
            result = await act()
        except Failed as failure:
            outcome, counted, error = "fail", "failed", str(failure)
        except Unknown as failure:
            late = isinstance(failure, Late)
            outcome, counted, error = "info", "timeouts" if late else "unknown", str(failure)
            if f == "read":
                outcome = "fail"
        record.history.complete(number, outcome, result, time=record.nanoseconds(), error=error)
        trace.add("complete", id=number, outcome=outcome, value=result, text=error)
        record.outcomes[counted] += 1
        if outcome == "info":  # it may still happen, so this process never asks again
            self._lives += 1
            self._process = f"{self.name}.{self._lives}"
        return outcome == "ok", result

    async def _get(self, member: Member, key: str, consistency: Consistency) -> tuple[Any, int]:
        """The value and its version; 0 when there is none."""
        answer = await self._ask(member, "GET", f"{key_path(key)}?consistency={consistency}")
        if answer.status == 404:
            return _decoded(key, b""), 0
        self._judge(member, answer)
        return _decoded(key, answer.body), int(answer.headers["etag"].strip('"'))

    async def _compare_and_set(self, member: Member, key: str, value: str, expectation: dict[str, Any]) -> Answer:
        body = json.dumps({"value": value, **expectation}).encode()
        return await self._ask(member, "POST", f"{key_path(key)}/cas", body)

    async def _ask(self, member: Member, method: str, path: str, body: bytes = b"") -> Answer:
        connection = self._connections.get(member.node)
        if connection is None:
            connection = self._connections[member.node] = member.connection(REQUEST_SECONDS)
        try:
            return await connection.ask(method, path, body)
        except NoAnswer as error:
            if not error.sent:
                raise Failed(str(error)) from error
            raise (Late if error.late else Unknown)(str(error)) from error

    def _judge(self, member: Member, answer: Answer) -> None:
        """Raise what an answer means that is not a success."""
        if answer.status == 200:
            return
        text = f"{answer.status} {answer.body.decode(errors='replace')}"
        if answer.status == 500:
            self._record.cluster.problems.append(f"node {member.node} answered {text}; its log says why")
        body = answer.json()
        if body.get("outcome") == "not_appended" or body["error"] == "mismatch":
            raise Failed(body["message"])
        raise Unknown(body["message"])


def _decoded(key: str, data: bytes) -> Any:
    """What a key's bytes stand for; none stand for what the key begins with."""
    if data:
        return json.loads(data)
    return {"list": [], "counter": 0}.get(key.partition("/")[0])

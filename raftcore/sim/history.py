"""What clients asked and what they were told, in Jepsen's shape; saved as JSON lines or exported as EDN.

A history is a sequence of *records*: one when a client invokes an operation, one when it learns what became of it.
Their `index` is the order of real time; the time in them is for people. An operation's outcome is one of

    ok      it happened, between its two records
    fail    it did not happen and never will
    info    nobody knows: it may take effect at any time after it was invoked, or never
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec

from raftcore.errors import WireError
from raftcore.node.reading import Consistency

Outcome = Literal["ok", "fail", "info"]
Process = int | str
Value = None | bool | int | str | list["Value"]

_encode = msgspec.json.Encoder().encode
_KEYWORDS: Final = frozenset({"type", "f", "consistency"})
_ADVICE: Final = "if the recorder was stopped while it wrote this line, delete it; else record the history again"


class Operation(msgspec.Struct, frozen=True):
    """What one client asked for once. `id` is its place in `History.operations`.

    `f` is read, write, cas (`value` is ``[expected, new]``), append or add. `result` is what a read that is ok
    returned. `invoked` and `completed` are the indexes of its records and `invoked_at`, `completed_at` their times in
    nanoseconds; an operation that was never completed has neither, and the outcome info. `life` tells a node that was
    started again from what it was before.
    """

    id: int
    process: Process
    f: str
    key: str
    value: Value
    node: str
    life: int
    consistency: Consistency
    invoked: int
    invoked_at: int
    outcome: Outcome = "info"
    result: Value = None
    completed: int | None = None
    completed_at: int | None = None
    error: str = ""

    @property
    def ends(self) -> float:
        """The index by which it has taken effect; infinite unless it is ok."""
        return self.completed if self.outcome == "ok" and self.completed is not None else math.inf

    def __str__(self) -> str:
        records = f"record {self.invoked}" if self.completed is None else f"records {self.invoked}..{self.completed}"
        return f"the {self.f} by {self.process} on {self.node} (operation {self.id}, {records}, {self.outcome})"


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a saved history. `Any`: `_copy` checks what a value is made of."""

    index: int
    process: Process
    type: Literal["invoke", "ok", "fail", "info"]
    f: str
    key: str
    value: Any
    time: int
    node: str
    life: int = 0
    consistency: Consistency = "linearizable"
    error: str = ""


_decode = msgspec.json.Decoder(_Record).decode


class History:
    """Records operations. A process has one operation open at a time, and none after one whose outcome is unknown."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._next_index = 0
        self._open: dict[Process, int] = {}

    def invoke(
        self,
        process: Process,
        f: str,
        key: str,
        value: object,
        *,
        time: int,
        node: str,
        consistency: Consistency = "linearizable",
        life: int = 0,
    ) -> int:
        """Record that `process` asks `node` now, `time` in nanoseconds; the operation's id.

        `consistency` is that of a read. `life`: how often the node has been started, where that is known: what it
        showed before a restart is not compared with what it shows after. Raises `ValueError` when the process has an
        operation open or one whose outcome is unknown, `TypeError` for a value that is not None, a bool, an int, a
        str or a list of these.
        """
        if process in self._open:
            last = self.operations[self._open[process]]
            state = "is not completed" if last.completed is None else "may yet take effect"
            raise ValueError(
                f"process {process!r} can't invoke {f} of {key}: {last} {state}; "
                "complete it as ok or fail first, or go on as a new process"
            )
        number, asked = len(self.operations), _copy(value)
        self.operations.append(
            Operation(number, process, f, key, asked, node, life, consistency, self._take_index(), time)
        )
        self._open[process] = number
        return number

    def complete(self, id: int, outcome: str, value: object = None, *, time: int, error: str = "") -> None:
        """Record what became of an operation. `value` is what a read returned; of the others nothing is kept.

        Raises `ValueError` when the operation is completed already or the outcome is not ok, fail or info.
        """
        operation = self.operations[id]
        if operation.completed is not None:
            raise ValueError(f"{operation} is completed already; complete an operation once")
        if outcome not in get_args(Outcome):
            raise ValueError(f"{operation} can't be completed as {outcome!r}; say ok, fail or info")
        read = operation.f == "read" and outcome == "ok"
        self.operations[id] = msgspec.structs.replace(
            operation,
            outcome=outcome,
            result=_copy(value) if read else None,
            completed=self._take_index(),
            completed_at=time,
            error=error,
        )
        if outcome != "info":
            del self._open[operation.process]

    def _take_index(self) -> int:
        self._next_index += 1
        return self._next_index - 1

    # -- as records ---------------------------------------------------------------------------------------------------

    def records(self) -> Iterator[dict[str, Any]]:
        """The history as Jepsen has it, in order. As there, a completion repeats the value that was asked for, except
        that of a read, which has what was read."""
        halves = [(operation.invoked, "invoke", operation) for operation in self.operations]
        halves += [
            (operation.completed, operation.outcome, operation)
            for operation in self.operations
            if operation.completed is not None
        ]
        for index, kind, operation in sorted(halves, key=lambda half: half[0]):
            invokes = kind == "invoke"
            record: dict[str, Any] = {
                "index": index,
                "process": operation.process,
                "type": kind,
                "f": operation.f,
                "key": operation.key,
                "value": operation.result if kind == "ok" and operation.f == "read" else operation.value,
                "time": operation.invoked_at if invokes else operation.completed_at,
                "node": operation.node,
            }
            if operation.life:
                record["life"] = operation.life
            if operation.f == "read" or operation.consistency != "linearizable":
                record["consistency"] = operation.consistency
            if operation.error and not invokes:
                record["error"] = operation.error
            yield record

    def save(self, path: Path) -> None:
        """Write the records to a file, one JSON object a line."""
        with path.open("wb") as file:
            file.writelines(_encode(record) + b"\n" for record in self.records())

    @classmethod
    def load(cls, path: Path) -> History:
        """The history in a file that `save` wrote, ready to be gone on with. Raises `OSError`, and `WireError` for a
        line that is no record or does not follow from those before it."""
        history = cls()
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    history._add(_decode(line))
                except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, TypeError) as error:
                    raise WireError(f"{path}, line {number}: {error}; {_ADVICE}") from None
        return history

    def _add(self, record: _Record) -> None:
        if record.index < self._next_index:
            raise ValueError(f"index {record.index} after index {self._next_index - 1}")
        self._next_index = record.index
        process, f, key = record.process, record.f, record.key
        if record.type == "invoke":
            self.invoke(
                process,
                f,
                key,
                record.value,
                time=record.time,
                node=record.node,
                consistency=record.consistency,
                life=record.life,
            )
            return
        number = self._open.get(process, -1)
        if number < 0 or (self.operations[number].f, self.operations[number].key) != (f, key):
            raise ValueError(f"process {process!r} completes {f} of {key}, which it has not invoked")
        self.complete(number, record.type, record.value, time=record.time, error=record.error)

    def edn(self) -> str:
        """The history in EDN, as Jepsen's checkers read it: a vector of maps, one a line.

        Keys and values stand together as ``[key value]``, as its checkers for independent keys want it. They also want
        processes to be numbers, so processes are counted in the order in which they appear, and keep their names as
        `:client`.
        """
        numbers: dict[Process, int] = {}
        lines = []
        for record in self.records():
            client = record["process"]
            record["process"] = numbers.setdefault(client, len(numbers))
            record["value"] = [record.pop("key"), record["value"]]
            record["client"] = client
            lines.append(
                "{"
                + ", ".join(
                    f":{name} " + (f":{value}" if name in _KEYWORDS else _edn(value)) for name, value in record.items()
                )
                + "}"
            )
        return "[" + "\n ".join(lines) + "]\n"


def _copy(value: object) -> Value:
    """A value that later changes to the original don't reach; tuples become lists, which is what a file can say."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    raise TypeError(
        f"a history can't hold {value!r} ({type(value).__name__}); use None, a bool, an int of 64 bits, a str or a "
        "list of these"
    )


def _edn(value: Value) -> str:
    if value is None:
        return "nil"
    if isinstance(value, list):
        return "[" + " ".join(map(_edn, value)) + "]"
    return _encode(value).decode()  # EDN writes booleans, numbers and strings as JSON does

"""What a history shows: registers, append-only lists and counters that are not what a replicated log makes of them.

The kind of a key stands before its first slash:

    register/…   read, write, cas   linearizable (`raftcore.sim.linearizable`)
    list/…       read, append       one order of appends that agrees with real time; every read is the beginning of it
    counter/…    read, add          every read lies between what must have been added by then and what may have been

Reads with consistency linearizable or lease have to be so. A stale read shows what some node had applied: nothing that
failed or was not asked for yet, and of a list or counter never less than an earlier read of the same life of that node.
It may be older than what its own client was told, for the leader may apply a command before others do. Appends and adds
that fail must leave no trace, those of unknown outcome may, once. A key that was never written reads as None.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, islice
from typing import Final

import msgspec

from raftcore.sim.history import History, Operation
from raftcore.sim.linearizable import LIMIT, check_register, origin, updates, written


class Anomaly(msgspec.Struct, frozen=True):
    """Something that must not be. `operations` are the ids of those that show it, the one that is wrong first.

    `checker` is linearizable, undecided (the search for an order was given up: neither right nor wrong), stale,
    list or counter.
    """

    checker: str
    key: str
    text: str
    operations: tuple[int, ...]


def check(history: History, limit: int = LIMIT) -> list[Anomaly]:
    """Every kind of anomaly of every key, the earliest of each; empty when all is well.

    `limit` bounds the search for an order, in configurations a key. Raises `ValueError` for operations that no checker
    knows and for values that they can't tell apart.
    """
    keys: dict[str, list[Operation]] = {}
    for operation in history.operations:
        keys.setdefault(operation.key, []).append(operation)
    anomalies: list[Anomaly] = []
    for key, operations in keys.items():
        kind = key.partition("/")[0]
        for operation in operations:
            if kind not in _KINDS or operation.f not in _KINDS[kind][0]:
                raise ValueError(
                    f"no checker knows {operation} of {key}; name keys register/…, list/… or counter/…, and use read "
                    "with write and cas, append, or add"
                )
        anomalies += _KINDS[kind][1](key, operations, limit)
    return anomalies


def _reads(operations: Iterable[Operation]) -> list[Operation]:
    """The reads that are ok, in the order in which they were completed."""
    return sorted((op for op in operations if op.f == "read" and op.outcome == "ok"), key=lambda op: op.ends)


def _is_strong(read: Operation) -> bool:
    return read.consistency != "stale"


def _has_to_follow(read: Operation, earlier: Operation) -> bool:
    """Whether `read` must show all that `earlier` did."""
    same = (read.node, read.life) == (earlier.node, earlier.life)
    return earlier.ends < read.invoked and (same or _is_strong(read))


# -- registers --------------------------------------------------------------------------------------------------------


def _check_register(key: str, operations: list[Operation], limit: int) -> Iterator[Anomaly]:
    for answer in check_register(operations, limit):
        if answer.verdict != "linearizable":
            checker = "undecided" if answer.verdict == "unknown" else "linearizable"
            yield Anomaly(checker, key, answer.text, answer.operations)
    yield from islice(_unwritten(key, operations), 1)


def _unwritten(key: str, operations: list[Operation]) -> Iterator[Anomaly]:
    for read in _reads(operations):
        if _is_strong(read) or read.result is None:
            continue
        writers = [op for op in operations if updates(op) and repr(written(op)) == repr(read.result)]
        if not any(op.outcome != "fail" and op.invoked < read.ends for op in writers):
            text = f"{read} returned {read.result!r}: {origin(read.result, writers, read)}"
            yield Anomaly("stale", key, text, (read.id, *(op.id for op in writers)))


# -- lists ------------------------------------------------------------------------------------------------------------


class _List:
    """One list: its appends by element (as text, so that True is not 1), and what its reads returned."""

    def __init__(self, key: str, operations: list[Operation]) -> None:
        self.key = key
        self.appends: dict[str, Operation] = {}
        for operation in operations:
            if operation.f == "append" and self.appends.setdefault(repr(operation.value), operation) is not operation:
                raise ValueError(
                    f"{operation} appends {operation.value!r} to {key} again, after "
                    f"{self.appends[repr(operation.value)]}; give every append an element of its own"
                )
        self.reads: list[tuple[Operation, list[str]]] = []
        self.odd: list[Operation] = []
        for read in _reads(operations):
            if read.result is None or isinstance(read.result, list):
                self.reads.append((read, [repr(element) for element in read.result or []]))
            else:
                self.odd.append(read)

    def anomaly(self, text: str, *operations: Operation) -> Anomaly:
        return Anomaly("list", self.key, text, tuple(operation.id for operation in operations))


def _check_list(key: str, operations: list[Operation], limit: int) -> Iterator[Anomaly]:
    seen = _List(key, operations)
    for read in seen.odd[:1]:
        yield seen.anomaly(f"{read} returned {read.result!r}, which is not a list", read)
    if seen.reads:
        longest = max(seen.reads, key=lambda pair: len(pair[1]))
        lost = chain(_lost(seen), _skipped(seen, longest))
        for found in (_repeated(seen), _unexplained(seen), _divergent(seen, longest), lost, _misplaced(seen, longest)):
            yield from islice(found, 1)
        yield from islice(_shrunk(seen), 1)


def _repeated(seen: _List) -> Iterator[Anomaly]:
    for read, elements in seen.reads:
        if len(set(elements)) < len(elements):
            twice = next(element for at, element in enumerate(elements) if element in elements[:at])
            source = [seen.appends[twice]] if twice in seen.appends else []
            yield seen.anomaly(f"{read} returned {twice} twice: an append was applied twice", read, *source)


def _unexplained(seen: _List) -> Iterator[Anomaly]:
    for read, elements in seen.reads:
        for element in elements:
            source = seen.appends.get(element)
            if source is None:
                yield seen.anomaly(f"{read} returned {element}, which nobody appended", read)
            elif source.outcome == "fail":
                yield seen.anomaly(f"{read} returned {element}, whose append failed: {source}", read, source)
            elif source.invoked > read.ends:
                yield seen.anomaly(f"{read} returned {element} before it was appended: {source}", read, source)


def _divergent(seen: _List, longest: tuple[Operation, list[str]]) -> Iterator[Anomaly]:
    other, order = longest
    for read, elements in seen.reads:
        if elements != order[: len(elements)]:
            at = next(at for at, element in enumerate(elements) if element != order[at])
            yield seen.anomaly(
                f"{read} and {other} disagree on the order: from place {at} on they returned "
                f"{', '.join(elements[at : at + 5])} and {', '.join(order[at : at + 5])}",
                read,
                other,
            )


def _lost(seen: _List) -> Iterator[Anomaly]:
    """Elements that were acknowledged before a read began, and are not in it."""
    for read, elements in seen.reads:
        found = frozenset(elements)
        for element, append in seen.appends.items():
            if _is_strong(read) and append.ends < read.invoked and element not in found:
                later = next((other for other, shown in reversed(seen.reads) if element in shown), None)
                where = "no read has it" if later is None else f"it is in {later}"
                text = f"{read} returned {len(elements)} elements without {element}, which had been acknowledged"
                yield seen.anomaly(f"{text}: {append}; {where}", read, append)


def _skipped(seen: _List, longest: tuple[Operation, list[str]]) -> Iterator[Anomaly]:
    """Elements that were acknowledged before another was appended, and are missing though that one is there."""
    read, elements = longest
    present = [seen.appends[element] for element in elements if element in seen.appends]
    newest = max(present, key=lambda append: append.invoked, default=None)
    for element, append in seen.appends.items():
        if newest is not None and append.ends < newest.invoked and element not in elements:
            yield seen.anomaly(
                f"{read} returned {newest.value!r} without {element}, which had been acknowledged before "
                f"{newest.value!r} was appended: {append}, {newest}",
                read,
                append,
                newest,
            )


def _misplaced(seen: _List, longest: tuple[Operation, list[str]]) -> Iterator[Anomaly]:
    """Elements that stand before others, though they were appended after these had been acknowledged."""
    behind: Operation | None = None  # of those further back, the one that was acknowledged first
    for element in reversed(longest[1]):
        append = seen.appends.get(element)
        if append is None:
            continue
        if behind is not None and behind.ends < append.invoked:
            yield seen.anomaly(
                f"{element} stands before {behind.value!r}, which had been acknowledged before {element} was "
                f"appended: {append}, {behind}; see {longest[0]}",
                append,
                behind,
                longest[0],
            )
        if behind is None or append.ends < behind.ends:
            behind = append


def _shrunk(seen: _List) -> Iterator[Anomaly]:
    for read, elements in seen.reads:
        earlier = [pair for pair in seen.reads if _has_to_follow(read, pair[0])]
        other, shown = max(earlier, key=lambda pair: len(pair[1]), default=(read, elements))
        if len(shown) > len(elements):
            text = f"{read} returned {len(elements)} elements, and before it {other} had returned {len(shown)}"
            yield seen.anomaly(text, read, other)


# -- counters ---------------------------------------------------------------------------------------------------------


def _check_counter(key: str, operations: list[Operation], limit: int) -> Iterator[Anomaly]:
    adds = [(operation, _number(operation)) for operation in operations if operation.f == "add"]
    reads: list[tuple[Operation, int]] = []
    odd = []
    for read in _reads(operations):
        value = 0 if read.result is None else read.result
        if isinstance(value, int) and not isinstance(value, bool):
            reads.append((read, value))
        else:
            odd.append(Anomaly("counter", key, f"{read} returned {value!r}, which is not a number", (read.id,)))
    for found in (odd, _too_small(key, reads, adds), _too_large(key, reads, adds)):
        yield from islice(found, 1)


def _number(add: Operation) -> int:
    if not isinstance(add.value, int) or isinstance(add.value, bool) or add.value < 1:
        raise ValueError(f"{add} adds {add.value!r} to {add.key}; add whole numbers from 1 on")
    return add.value


def _too_small(key: str, reads: list[tuple[Operation, int]], adds: list[tuple[Operation, int]]) -> Iterator[Anomaly]:
    """Reads below what an earlier one, or the beginning, had, and what was added between them."""
    for read, value in reads:
        # A stale read need not have what was acknowledged, only what its node has shown.
        known = [(add.invoked, number) for add, number in adds if _is_strong(read) and add.ends < read.invoked]
        begins = [at for at, _ in known]  # in order, as operations are
        sums = list(accumulate((number for _, number in known), initial=0))
        least, ids = sums[-1], [read.id]
        why = f"{least} had been acknowledged before it began"
        for earlier, shown in reads:
            since = sums[-1] - sums[bisect(begins, earlier.ends)]
            if _has_to_follow(read, earlier) and shown + since > least:
                least, ids = shown + since, [read.id, earlier.id]
                why = f"{earlier} had returned {shown}, and {since} had been acknowledged after that"
        if value < least:
            yield Anomaly("counter", key, f"{read} returned {value}, less than {least}: {why}", tuple(ids))


def _too_large(key: str, reads: list[tuple[Operation, int]], adds: list[tuple[Operation, int]]) -> Iterator[Anomaly]:
    for read, value in reads:
        possible = [number for add, number in adds if add.outcome != "fail" and add.invoked < read.ends]
        if value > sum(possible):
            text = (
                f"{read} returned {value}, and all {len(possible)} adds that did not fail and were asked for by then "
                f"come to {sum(possible)}: one was applied twice, or one that failed was applied"
            )
            yield Anomaly("counter", key, text, (read.id,))


_Check = Callable[[str, list[Operation], int], Iterable[Anomaly]]
_KINDS: Final[dict[str, tuple[frozenset[str], _Check]]] = {
    "register": (frozenset({"read", "write", "cas"}), _check_register),
    "list": (frozenset({"read", "append"}), _check_list),
    "counter": (frozenset({"read", "add"}), _check_counter),
}

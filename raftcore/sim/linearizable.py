"""Is a register with compare-and-set linearizable? Every operation has to fit at one point between its two records.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with Lowe's memory of
configurations ("Testing for linearizability", 2017), in the order of his just-in-time linearization: operations are
placed only when a completion forces them to be. So the completion that nothing gets past ends the smallest prefix that
can't be linearized. There is no recursion, and a limit on the number of configurations.

A *configuration* is what some order of the placed operations leaves: the register's value, which updates are *pending*
(invoked, to be placed by their completion), and a *burden*, a set of three things that it is never better to have:

    reads still to be placed    one whose value the register has is placed at once: it changes nothing for the others
    writes that can't hide      a pending write that nobody has to read may stand right before any other write
    infos that were used        an operation of unknown outcome need not take effect, and can only once

Of two configurations that differ in their burden only, one whose burden is part of the other's allows all that the
other does, and the other is dropped. An info is placed only when the next operation in the order observes it: without
it nothing else would change. Sets of operations are ints, a bit an operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

import msgspec

from raftcore.sim.history import Operation, Value

LIMIT: Final = 300_000
"""How many configurations are looked at for one key by default: some ten seconds, when all are needed. A history in
which every write has a value of its own takes a few times as many as it has operations."""


class Linearizability(msgspec.Struct, frozen=True):
    """The answer for one key.

    For an anomaly, `text` says which operation can't be placed, `operations` has its id and those of the writes of the
    value in question, and `prefix` is the index of the record that ends the smallest prefix that can't be linearized.
    unknown: `explored` configurations were not enough to tell.
    """

    key: str
    verdict: Literal["linearizable", "anomaly", "unknown"]
    explored: int
    text: str = ""
    operations: tuple[int, ...] = ()
    prefix: int | None = None


def check_register(operations: Iterable[Operation], limit: int = LIMIT) -> list[Linearizability]:
    """The answer for each key, in the order in which keys appear.

    Takes reads, writes and compare-and-sets of any number of registers, which begin as None. Reads that may be stale
    are left out, and so are operations that failed. `limit` bounds the configurations that are looked at, a key.
    Raises `ValueError` for an operation that a register does not have.
    """
    keys: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.f not in {"read", "write", "cas"}:
            raise ValueError(f"{operation} is nothing that a register does; give reads, writes and cas only")
        keys.setdefault(operation.key, []).append(operation)
    return [_check_key(key, of_key, limit) for key, of_key in keys.items()]


def _check_key(key: str, operations: list[Operation], limit: int) -> Linearizability:
    search = _Search(operations, limit)
    try:
        stuck = search.run()
    except _LimitReached:
        text = (
            f"not decided: {limit} configurations were looked at; "
            "raise the limit, or record fewer operations at a time of this key"
        )
        return Linearizability(key, "unknown", search.explored, text)
    if stuck is None:
        return Linearizability(key, "linearizable", search.explored)
    wanted = _needed(stuck)
    writers = [op for op in operations if op is not stuck and updates(op) and repr(written(op)) == repr(wanted)]
    text = f"{_claim(stuck)}: {_alternatives(stuck, operations, limit)}. {origin(wanted, writers, stuck)}"
    ids = (stuck.id, *(writer.id for writer in writers))
    return Linearizability(key, "anomaly", search.explored, text, ids, stuck.completed)


# -- the anomaly in words ---------------------------------------------------------------------------------------------


def updates(operation: Operation) -> bool:
    """Whether the operation may set a register."""
    return operation.f != "read"


def written(operation: Operation) -> Value:
    """What a write or a compare-and-set sets the register to."""
    return _swap(operation)[1] if operation.f == "cas" else operation.value


def origin(value: Value, writers: list[Operation], reader: Operation) -> str:
    """Where a value that was read came from; `writers` are all operations that may have written it."""
    if value is None and not writers:
        return "nobody wrote None: the register was None only at the beginning"
    if not writers:
        return f"nobody wrote {value!r}"
    possible = [writer for writer in writers if writer.outcome != "fail"]
    if not possible:
        return f"only an operation that failed wrote {value!r}: {writers[0]}"
    early = [writer for writer in possible if writer.invoked < reader.ends]
    if not early:
        return f"{value!r} was written only later, by {possible[0]}"
    more = f" and {len(early) - 1} more" if len(early) > 1 else ""
    return f"{value!r} was written by {early[-1]}{more}"


def _needed(operation: Operation) -> Value:
    """What the register must be for a read or a compare-and-set to be as it was."""
    return operation.result if operation.f == "read" else _swap(operation)[0]


def _swap(cas: Operation) -> list[Value]:
    if not isinstance(cas.value, list) or len(cas.value) != 2:
        raise ValueError(f"{cas} of {cas.key} has the value {cas.value!r}; give [expected, new]")
    return cas.value


def _claim(stuck: Operation) -> str:
    found = "returned" if stuck.f == "read" else "was acknowledged, so it found"
    return (
        f"{stuck} {found} {_needed(stuck)!r}, which no order of the operations up to record {stuck.completed} explains"
    )


def _alternatives(stuck: Operation, operations: list[Operation], limit: int) -> str:
    """The values for which the prefix would have been linearizable: each is tried, as long as `limit` lasts."""
    possible: list[str] = []
    explored = 0
    writers = [op for op in operations if updates(op) and op.outcome != "fail" and op.invoked < stuck.ends]
    # What was completed before another update began, which was itself completed before this began, is overwritten.
    settled = max((op.invoked for op in writers if op.ends < stuck.invoked), default=-1)
    values = [written(op) for op in writers if op.ends >= settled]
    values += [None] if settled < 0 else []
    for value in {repr(value): value for value in values}.values():
        search = _Search([_with(op, value) if op is stuck else op for op in operations], limit - explored)
        try:
            reached = search.run(until=stuck.completed)
        except _LimitReached:
            return " or ".join(["the register could be another value (not all were tried)", *possible])
        explored += search.explored
        if reached is None:
            possible.append(repr(value))
    return f"the register could only be {' or '.join(possible)}"


def _with(operation: Operation, value: Value) -> Operation:
    if operation.f == "read":
        return msgspec.structs.replace(operation, result=value)
    return msgspec.structs.replace(operation, value=[value, written(operation)])


# -- the search -------------------------------------------------------------------------------------------------------


class _LimitReached(Exception):
    """The search has looked at as many configurations as it may."""


class _Step(NamedTuple):
    """An operation for the search. `needs` and `gives` are numbers of values, -1 for none."""

    operation: Operation
    bit: int
    needs: int
    gives: int


class _Moment(NamedTuple):
    """A completion. `invoked` since the last one, without infos; the updates that are `open` and the `infos` that are
    of use, those with the same effect together; what is `gone` after it."""

    completed: _Step
    invoked: list[_Step]
    open: list[_Step]
    infos: list[list[_Step]]
    gone: int


class _Configuration(NamedTuple):
    """See the top. `owed`: the last operation in the order is there to be observed, and was not yet."""

    value: int
    pending: int
    burden: int
    owed: bool = False


class _Search:
    """One search through the operations of one key. `explored` counts configurations."""

    def __init__(self, operations: Iterable[Operation], limit: int) -> None:
        self.explored = 0
        self._limit = limit
        self._numbers = {repr(None): 0}
        steps = self._steps(operations)
        self._moments = _moments(steps)
        self._reads = sum(step.bit for step in steps if step.gives < 0)
        self._writes = sum(step.bit for step in steps if step.needs < 0 and step.operation.outcome == "ok")
        self._observers: dict[int, int] = {}
        for step in steps:
            self._observers[step.needs] = self._observers.get(step.needs, 0) | step.bit

    def _steps(self, operations: Iterable[Operation]) -> list[_Step]:
        """What has to be placed. Unknown and stale reads say nothing, failures did nothing."""
        steps: list[_Step] = []
        for operation in operations:
            unread = operation.f == "read" and (operation.outcome != "ok" or operation.consistency == "stale")
            if operation.outcome == "fail" or unread:
                continue
            needs = -1 if operation.f == "write" else self._number(_needed(operation))
            gives = self._number(written(operation)) if updates(operation) else -1
            steps.append(_Step(operation, 1 << len(steps), needs, gives))
        return steps

    def _number(self, value: Value) -> int:
        # By its text, for True is not 1 here and lists have no hash.
        return self._numbers.setdefault(repr(value), len(self._numbers))

    def run(self, until: int | None = None) -> Operation | None:
        """The first operation that can't be placed by its completion, if any; records after `until` are left out.

        Depth first, so that an order that exists is found soon; but if there is none all was looked at, and so the
        completion that no configuration got past ends the smallest prefix that can't be linearized.
        """
        moments = [moment for moment in self._moments if until is None or moment.completed.operation.ends <= until]
        known: list[dict[tuple[int, int], list[int]]] = [{} for _ in moments]
        stack = [(0, _Configuration(0, 0, 0))]
        furthest = 0
        while stack:
            at, configuration = stack.pop()
            if at == len(moments):
                return None
            furthest = max(furthest, at)
            if _is_new(known[at], configuration):
                found = self._complete(moments[at], _invoke(moments[at], configuration))
                stack += [(at + 1, after) for after in reversed(found)]
        return moments[furthest].completed.operation

    def _complete(self, moment: _Moment, before: _Configuration) -> list[_Configuration]:
        """The configurations that come of one when the completed operation is placed, the likeliest first."""
        value, pending, burden, _ = before
        step, found = moment.completed, list[_Configuration]()
        if not (pending | burden) & step.bit:
            self._count()
            return [_Configuration(value, pending, burden & ~moment.gone)]
        if step.operation.f == "write" and not burden & step.bit:
            # Another write was placed while this one was open: this one stood right before it, unseen.
            found.append(_Configuration(value, pending ^ step.bit, burden & ~moment.gone))
        level, seen = [before], {before}
        while level:
            following = []
            for configuration in level:
                self._count()
                for after in self._next(moment, configuration):
                    if not (after.pending | after.burden) & step.bit:
                        found.append(after._replace(burden=after.burden & ~moment.gone))
                    elif after not in seen:
                        seen.add(after)
                        following.append(after)
            level = following
        return sorted(found, key=lambda after: after.pending.bit_count() + after.burden.bit_count())

    def _count(self) -> None:
        self.explored += 1
        if self.explored > self._limit:
            raise _LimitReached

    def _next(self, moment: _Moment, configuration: _Configuration) -> Iterator[_Configuration]:
        """What may be placed next, when the completed operation is to be placed at the end."""
        value, pending, burden, owed = configuration
        useful = [next((step for step in alike if not burden & step.bit), None) for alike in moment.infos]
        infos = [step for step in useful if step is not None]
        unplaced = pending | (burden & self._reads) | sum(step.bit for step in infos)
        for step in moment.open:
            if not pending & step.bit:
                continue
            if step.operation.f == "cas":
                if step.needs == value:
                    yield self._place(step, pending ^ step.bit, burden, owed=False)
            elif not owed and (step is moment.completed or self._is_wanted(step, unplaced)):
                # A write that nobody observes needs no place of its own before its completion: it can hide.
                yield self._place(step, pending ^ step.bit, burden, owed=step is not moment.completed)
        for step in infos:
            if (step.needs == value or (step.needs < 0 and not owed)) and self._is_wanted(step, unplaced):
                yield self._place(step, pending, burden | step.bit, owed=True)

    def _is_wanted(self, step: _Step, unplaced: int) -> bool:
        """Whether one of `unplaced`, other than the step, may observe what the step gives."""
        return bool(self._observers.get(step.gives, 0) & unplaced & ~step.bit)

    def _place(self, step: _Step, pending: int, burden: int, *, owed: bool) -> _Configuration:
        if step.needs < 0:
            burden &= ~self._writes  # what is pending can hide before this write
        seen = burden & self._reads & self._observers.get(step.gives, 0)
        return _Configuration(step.gives, pending, burden ^ seen, owed and not seen)


def _invoke(moment: _Moment, configuration: _Configuration) -> _Configuration:
    """The configuration with the operations that were invoked since the last completion."""
    value, pending, burden, _ = configuration
    for step in moment.invoked:
        if step.gives >= 0:
            pending |= step.bit
        if step.needs < 0 or (step.gives < 0 and step.needs != value):
            burden |= step.bit
    return _Configuration(value, pending, burden)


def _is_new(known: dict[tuple[int, int], list[int]], configuration: _Configuration) -> bool:
    """Remember a configuration, unless one is known that has less of a burden and is otherwise the same."""
    burdens = known.setdefault((configuration.value, configuration.pending), [])
    if any(burden & ~configuration.burden == 0 for burden in burdens):
        return False
    burdens[:] = [burden for burden in burdens if configuration.burden & ~burden]
    burdens.append(configuration.burden)
    return True


def _moments(steps: list[_Step]) -> list[_Moment]:
    last_use = _last_uses(steps)
    invoked: list[_Step] = []
    opened: list[_Step] = []
    infos: dict[tuple[int, int], list[_Step]] = {}
    moments = []
    events: list[tuple[float, bool, _Step]] = [(step.operation.invoked, False, step) for step in steps]
    events += [(step.operation.ends, True, step) for step in steps if step.operation.outcome == "ok"]
    for index, completes, step in sorted(events, key=lambda event: event[0]):
        if not completes and step.operation.outcome == "ok":
            invoked.append(step)
            opened += [step] if step.gives >= 0 else []
        elif not completes and last_use.get(step.gives, -1) > index:
            infos[step.needs, step.gives] = [*infos.get((step.needs, step.gives), []), step]
        elif completes:
            useless = [effect for effect in infos if last_use[effect[1]] <= index]
            gone = step.bit | sum(info.bit for effect in useless for info in infos[effect])
            moments.append(_Moment(step, invoked, list(opened), list(infos.values()), gone))
            infos = {effect: alike for effect, alike in infos.items() if effect not in useless}
            opened = [other for other in opened if other is not step]
            invoked = []
    return moments


def _last_uses(steps: list[_Step]) -> dict[int, float]:
    """By value, the last record at which somebody can observe it; an info observes for as long as it is of use."""
    last: dict[int, float] = {}
    for step in steps:
        if step.needs >= 0 and step.operation.outcome == "ok":
            last[step.needs] = max(last.get(step.needs, -1), step.operation.ends)
    chained = [step for step in steps if step.needs >= 0 and step.operation.outcome == "info"]
    changed = True
    while changed:
        changed = False
        for step in chained:
            if last.get(step.gives, -1) > last.get(step.needs, -1):
                last[step.needs] = last[step.gives]
                changed = True
    return last

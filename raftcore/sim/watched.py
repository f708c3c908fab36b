"""The plugins of a simulated node, each behind a wrapper that notes what it promised and holds it to that.

A log store promises that what `write` has returned for is there after any crash. A state machine promises the same
answers and the same snapshots everywhere. A snapshot sink promises that what was committed is listed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from raftcore.backends.memory_log import MemoryLog
from raftcore.contracts import LogState, LogStore, SnapshotSink, SnapshotWriter, StateMachine, WriteBatch
from raftcore.types import Entries, Entry, LogId, SnapshotMeta

if TYPE_CHECKING:
    from raftcore.sim.host import Host

_first_index = attrgetter("first_index")
EVERYTHING = 1 << 60


class Ledger(MemoryLog):
    """What is durable on one host for certain: the writes whose calls have returned, no more."""

    def id_at(self, index: int) -> LogId | None:
        """The id of the entry at `index`; None when there is none, or it is purged."""
        if index == self._purged.index:
            return self._purged
        place = bisect_right(self._runs, index, key=_first_index) - 1
        if place < 0 or index > self._runs[place].last_index:
            return None
        return LogId(self._runs[place].leader, index)

    @property
    def vote(self) -> object:
        return self._vote

    @property
    def purged(self) -> LogId:
        return self._purged

    @property
    def runs(self) -> list[Entries]:
        return self._runs

    @property
    def last_index(self) -> int:
        return self._next - 1

    def holds(self, log_id: LogId) -> bool:
        """The entry is on the disk, or a snapshot that covers it was when it was purged."""
        return log_id.index <= self._purged.index or self.id_at(log_id.index) == log_id

    def entries(self) -> list[Entry]:
        """Every entry behind the purged ones."""
        return [entry for run in self._runs for entry in run]

    def copy(self) -> Ledger:
        other = Ledger()
        other._runs, other._next, other._vote = list(self._runs), self._next, self._vote
        other._purged, other._committed = self._purged, self._committed
        return other


class WatchedLog:
    """A log store under watch. `ledger` is what it has promised to hold, `in_flight` the writes under way."""

    def __init__(self, store: LogStore, host: Host) -> None:
        self.blocking = store.blocking
        self._store = store
        self._host = host

    def open(self) -> LogState:
        state = self._store.open()
        ledger = Ledger()
        ledger._vote, ledger._purged, ledger._committed = state.vote, state.purged, state.committed
        ledger._next = state.purged.index + 1
        if state.last.index > state.purged.index:
            runs: list[Entries] = []
            while (at := runs[-1].last_index + 1 if runs else ledger._next) <= state.last.index:
                more = self._store.read(at, state.last.index + 1, EVERYTHING)
                if not more:
                    self._host.violate(
                        "log store contract: no holes",
                        f"open() says that the log ends at {state.last.index}, read({at}, …) is empty",
                    )
                    break
                runs += more
            ledger._runs, ledger._next = runs, runs[-1].last_index + 1 if runs else ledger._next
        self._compare(ledger)
        self._host.ledger, self._host.in_flight = ledger, []
        return state

    def _compare(self, found: Ledger) -> None:
        """What is on the disk is what was promised, or that and the writes that were under way when it crashed."""
        expected = [self._host.ledger]
        for batch in self._host.in_flight:
            after = expected[-1].copy()
            if isinstance(batch, WriteBatch):
                after.write(batch)
            else:
                after.purge(batch)
            expected.append(after)
        if not any(_same(one, found) for one in expected):
            self._host.violate(
                "log store contract: what write() has returned for is durable",
                f"the log store {type(self._store).__name__} acknowledged {_told(self._host.ledger)} before the crash "
                f"and holds {_told(found)} after it: it acknowledges a write before it is durable, or drops or "
                "changes one that was",
            )

    def write(self, batch: WriteBatch) -> None:
        host = self._host
        host.calling("write")
        host.in_flight.append(batch)
        self._store.write(batch)
        host.when_finished(lambda: self._written(batch))

    def _written(self, batch: WriteBatch) -> None:
        self._host.in_flight.pop(0)
        self._host.ledger.write(batch)
        self._host.note_durable()

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        self._host.counts["log reads"] += 1
        return self._store.read(start, stop, max_bytes)

    def purge(self, upto: LogId) -> None:
        host = self._host
        host.calling("purge")
        host.in_flight.append(upto)
        self._store.purge(upto)

        def purged() -> None:
            host.in_flight.pop(0)
            host.ledger.purge(upto)
            host.counts["purges"] += 1

        host.when_finished(purged)

    def close(self) -> None:
        self._store.close()


def _same(expected: Ledger, found: Ledger) -> bool:
    return (expected.vote, expected.purged, expected.entries()) == (found.vote, found.purged, found.entries())


def _told(ledger: Ledger) -> str:
    return f"vote {ledger.vote}, entries {ledger.purged.index + 1}..{ledger.last_index}"


class WatchedMachine:
    """A state machine under watch: its answers are compared with those of every other node."""

    def __init__(self, machine: StateMachine, host: Host) -> None:
        self.blocking = machine.blocking
        self.machine = machine
        self._host = host
        self._applied = 0

    def open(self) -> LogId | None:
        last = self.machine.open()
        self._applied = 0 if last is None else last.index
        return last

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        results = self.machine.apply(run)
        self._host.applied(run, results, self._applied)
        self._applied = run.last_index
        return results

    def snapshot(self) -> Iterator[bytes]:
        return self.machine.snapshot()

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        self._host.calling("restore")
        self.machine.restore(meta, chunks)
        self._applied = meta.last.index

    def close(self) -> None:
        self.machine.close()


class WatchedSink:
    """A snapshot sink under watch: what it has committed stays listed until it is deleted."""

    def __init__(self, sink: SnapshotSink, host: Host) -> None:
        self.shared = sink.shared
        self._sink = sink
        self._host = host

    def start(self) -> None:
        self._sink.start()

    def list(self) -> list[SnapshotMeta]:
        found = self._sink.list()
        missing = self._host.snapshots.keys() - {meta.id for meta in found}
        if missing:
            self._host.violate(
                "snapshot sink contract: what commit() has returned for exists",
                f"the sink {type(self._sink).__name__} lost the snapshot {min(missing)}: it was committed, and never "
                "deleted",
            )
        return found

    def begin(self, meta: SnapshotMeta) -> SnapshotWriter:
        self._host.calling("snapshot")
        return WatchedWriter(self._sink.begin(meta), self._host)

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        return self._sink.open(id, offset)

    def delete(self, id: str) -> None:
        self._host.calling("snapshot")
        self._host.snapshots.pop(id, None)
        self._sink.delete(id)
        self._host.counts["snapshots deleted"] += 1

    def close(self) -> None:
        self._sink.close()


class WatchedWriter:
    """A snapshot being written, under watch."""

    def __init__(self, writer: SnapshotWriter, host: Host) -> None:
        self._writer = writer
        self._host = host

    def write(self, chunk: bytes) -> None:
        self._host.calling("snapshot")
        self._writer.write(chunk)

    def commit(self, meta: SnapshotMeta) -> None:
        self._host.calling("snapshot")
        self._writer.commit(meta)
        self._host.when_finished(lambda: self._host.committed_snapshot(meta))

    def abort(self) -> None:
        self._writer.abort()

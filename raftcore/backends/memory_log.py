"""A log store that keeps everything in memory, for tests, simulations and benchmarks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import attrgetter

from raftcore.contracts import LogState, WriteBatch
from raftcore.errors import StorageError
from raftcore.types import NO_LOG, NO_VOTE, Entries, LogId, Vote

_first_index = attrgetter("first_index")
_last_index = attrgetter("last_index")


def clip(runs: Iterable[Entries], start: int, stop: int, max_bytes: int) -> list[Entries]:
    """What `LogStore.read` answers, out of consecutive `runs` of which the first contains `start`.

    The entries with start <= index < stop, as many as fit `max_bytes` of payload and at least one if there is one.
    """
    taken: list[Entries] = []
    room = max_bytes
    for run in runs:
        if run.first_index >= stop or start >= stop:
            break
        part = run.part(start, stop - 1)
        if part.size > room:
            last = part.first_index - 1
            for payload in part.payloads:
                room -= len(payload)
                if room < 0 and (taken or last >= part.first_index):
                    break
                last += 1
            if last >= part.first_index:
                taken.append(part.part(part.first_index, last))
            break
        taken.append(part)
        room -= part.size
    return taken


class MemoryLog:
    """The vote and the log of one node, in memory: the very runs that were written, neither copied nor encoded.

    What was written stays with the object: opened again after `close`, it plays a disk that survives its node.
    """

    blocking = False

    def __init__(self) -> None:
        self._runs: list[Entries] = []
        self._next = 1
        self._vote: Vote = NO_VOTE
        self._purged: LogId = NO_LOG
        self._committed = 0
        self._failed = ""

    def open(self) -> LogState:
        self._failed = ""
        last = self._runs[-1].last_id if self._runs else self._purged
        return LogState(self._vote, self._purged, last, self._committed)

    def write(self, batch: WriteBatch) -> None:
        if self._failed:
            self._refuse_after_failure()
        purged = batch.reset or self._purged
        end = self._next if batch.reset is None else purged.index + 1
        cut = batch.truncate_from
        # Everything is checked before anything is changed: a batch takes effect as a whole or not at all.
        if cut is not None and cut < end:
            if cut <= purged.index:
                raise self._failure(f"entries from {cut} on can't be cut off: {purged.index} is purged")
            end = cut
        for run in batch.runs:
            if run.first_index != end:
                raise self._failure(f"{run!r} does not follow the log's end: the next index is {end}")
            end = run.last_index + 1
        if batch.vote is not None:
            self._vote = batch.vote
        if batch.reset is not None:
            self._purged = batch.reset
            self._runs.clear()
        if cut is not None:
            self._truncate(cut)
        self._runs += batch.runs
        self._next = end
        if batch.committed > self._committed:
            self._committed = batch.committed

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        if start <= self._purged.index:
            raise StorageError(f"entry {start} can't be read: the log in memory begins behind {self._purged.index}")
        runs = self._runs
        if start >= self._next:
            return []
        position = bisect_right(runs, start, key=_first_index) - 1
        return clip((runs[i] for i in range(position, len(runs))), start, stop, max_bytes)

    def purge(self, upto: LogId) -> None:
        self._refuse_after_failure()
        if upto.index <= self._purged.index:
            return
        if upto.index >= self._next:
            raise self._failure(f"{upto.index} can't be purged: the log ends at {self._next - 1}")
        runs = self._runs
        del runs[: bisect_right(runs, upto.index, key=_last_index)]
        if runs:
            runs[0] = runs[0].part(upto.index + 1, runs[0].last_index)
        self._purged = upto

    def close(self) -> None:
        """Nothing to release."""

    def _truncate(self, cut: int) -> None:
        runs = self._runs
        position = bisect_left(runs, cut, key=_last_index)
        if position == len(runs):
            return
        run = runs[position]
        del runs[position:]
        if run.first_index < cut:
            runs.append(run.part(run.first_index, cut - 1))

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise StorageError(
                f"the log in memory takes nothing more after a failed call ({self._failed}); restart the node"
            )

    def _failure(self, reason: str) -> StorageError:
        self._failed = reason
        return StorageError(f"the log in memory: {reason}; this is a defect of the caller, restart the node")

"""The engine's view of the log: where it begins and ends, who led when, what is durable, and its newest runs.

    purged        durable            last
      │  cached?     │                 │
      ▼──────────────▼─────────────────▼
      base ········ written │ being written │ not yet taken

Runs are the unit; nothing here looks at single entries. The index of leaders (one row a leadership) answers
"whose entry is at index i" for the whole log without reading it. Older runs leave the memory when
`cache_bytes` is exceeded; the store has them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from raftcore.errors import InvariantViolation
from raftcore.types import NO_LEADER, Entries, LeaderId, LogId

NO_END = 1 << 63
"""An index that no log reaches."""


class Log:
    """See the module's text. Indexes are of entries; `durable` is the last index known to be on this node's
    disk, and `dirty` says that there is something to write."""

    __slots__ = (
        "_cache_bytes",
        "_cached",
        "_firsts",
        "_in_flight",
        "_leaders",
        "_reset",
        "_runs",
        "_starts",
        "_truncate_from",
        "_unwritten",
        "base",
        "dirty",
        "durable",
        "last",
    )

    def __init__(self, base: LogId, last: LogId, leaders: list[tuple[int, LeaderId]], cache_bytes: int) -> None:
        """A log that is wholly durable. `leaders`: (first index, leader) for every leadership behind `base`,
        in order."""
        self.base = base
        self.last = last
        self.durable = last.index
        self._firsts = [first for first, _ in leaders]
        self._leaders = [leader for _, leader in leaders]
        self._runs: list[Entries] = []
        self._starts: list[int] = []
        self._cached = 0
        self._cache_bytes = cache_bytes
        self._unwritten: list[Entries] = []
        self._truncate_from: int | None = None
        self._reset: LogId | None = None
        self.dirty = False
        self._in_flight: deque[tuple[int, int]] = deque()

    # -- whose entry is where -------------------------------------------------------------------------------------

    def leader_at(self, index: int) -> LeaderId | None:
        """The leader of the entry at `index`; None when the log does not reach there, or no longer does."""
        if index == self.last.index:
            return self.last.leader
        if index == self.base.index:
            return self.base.leader
        if not self.base.index < index < self.last.index:
            return None
        return self._leaders[bisect_right(self._firsts, index) - 1]

    def id_at(self, index: int) -> LogId | None:
        """The entry's id, as `leader_at`."""
        if len(self._runs) > 1 and self._runs[-2].last_index == index:
            return self._runs[-2].last_id  # what precedes the newest run: by far the most frequent question
        leader = self.leader_at(index)
        return None if leader is None else LogId(leader, index)

    def last_not_after(self, index: int, leader: LeaderId) -> LogId:
        """The newest entry at or before `index` whose leader is not after `leader`; the base when there is none.

        Both sides of a rejection use this, so that one rejection skips a whole leadership (paper §5.3, end).
        """
        index = min(index, self.last.index)
        for position in range(bisect_right(self._firsts, index) - 1, -1, -1):
            if self._leaders[position] <= leader:
                return LogId(self._leaders[position], index)
            index = self._firsts[position] - 1
        return self.base

    def first_conflict(self, run: Entries) -> int | None:
        """The first index at which `run` and this log hold entries of different leaders, None when they agree.

        Only the overlap counts. Leaders never decrease along a log, so the overlap agrees exactly when its ends do.
        """
        first, last = max(run.first_index, self.base.index + 1), min(run.last_index, self.last.index)
        if first > last or self.leader_at(first) == run.leader == self.leader_at(last):
            return None
        if self.leader_at(first) != run.leader:
            return first
        return self._firsts[bisect_right(self._firsts, first)]

    # -- growing and shrinking ------------------------------------------------------------------------------------

    def append(self, run: Entries) -> None:
        """Add a run right behind the end."""
        if run.first_index != self.last.index + 1:
            raise InvariantViolation(
                f"log would have a hole: it ends at {self.last.index}, a run begins at {run.first_index}"
            )
        if run.leader != self.last.leader or not self._leaders:
            if run.leader < self.last.leader:
                raise InvariantViolation(f"leaders would decrease: {run.leader} behind {self.last.leader}")
            self._firsts.append(run.first_index)
            self._leaders.append(run.leader)
        self.last = run.last_id
        self.dirty = True
        self._unwritten.append(run)
        self._remember(run)

    def truncate(self, index: int) -> None:
        """Drop the entries from `index` on. What was on its way to the disk no longer counts as durable there."""
        end = index - 1
        if index > self.last.index:
            return
        if index <= self.base.index:
            raise InvariantViolation(f"truncation at {index} reaches behind the purged {self.base.index}")
        while self._firsts and self._firsts[-1] > end:
            del self._firsts[-1], self._leaders[-1]
        self.last = LogId(self._leaders[-1], end) if self._leaders else self.base
        self._cut_cache(end)
        self._unwritten = [run.part(run.first_index, end) for run in self._unwritten if run.first_index <= end]
        if self.durable > end or self._in_flight:
            # A write in flight may hold entries from `index` on: the store must delete them whatever it has by then.
            self._truncate_from = index if self._truncate_from is None else min(index, self._truncate_from)
        self.dirty = bool(self._unwritten) or self._truncate_from is not None or self._reset is not None
        self.durable = min(self.durable, end)
        # An earlier write's completion must not make newer entries at the same indexes durable (etcd's "append ABA").
        self._in_flight = deque((ticket, min(upto, end)) for ticket, upto in self._in_flight)

    def reset(self, base: LogId) -> None:
        """Forget everything: the log continues behind `base`, which an installed snapshot covers.

        The snapshot is durable, so everything up to `base` is, whatever the store still says.
        """
        self.base = self.last = self._reset = base
        self.dirty = True
        self.durable = base.index
        self._firsts, self._leaders = [], []
        self._runs, self._starts, self._cached = [], [], 0
        self._unwritten, self._truncate_from = [], None
        self._in_flight = deque((ticket, base.index) for ticket, _ in self._in_flight)

    def purge(self, upto: LogId) -> None:
        """Forget the entries up to and including `upto`, which the log holds."""
        keep = bisect_right(self._firsts, upto.index + 1) - 1
        if keep >= 0:
            del self._firsts[:keep], self._leaders[:keep]
            self._firsts[0] = max(self._firsts[0], upto.index + 1)
            if self._firsts[0] > self.last.index:
                self._firsts, self._leaders = [], []
        self.base = upto
        drop = bisect_right(self._starts, upto.index + 1) - 1
        if self.last.index == upto.index:
            drop = len(self._runs)
        if drop > 0:
            self._cached -= sum(run.weight for run in self._runs[:drop])
            del self._runs[:drop], self._starts[:drop]

    # -- the newest runs ------------------------------------------------------------------------------------------

    def read(self, first: int, max_bytes: int, last: int = NO_END) -> list[Entries] | None:
        """Runs from `first` on, at least one and at most `max_bytes` of weight, that begin no later than at
        `last`; None when memory does not reach back to `first`."""
        starts = self._starts
        if not starts or first < starts[0]:
            return None
        position = len(starts) - 1
        if first < starts[position]:
            position = bisect_right(starts, first) - 1
        run = self._runs[position]
        found = [run if run.first_index == first else run.part(first, run.last_index)]
        if found[0].last_index >= last:
            return found
        room = max_bytes - found[0].weight
        for following in range(position + 1, len(starts)):
            run = self._runs[following]
            room -= run.weight
            if room < 0 or run.first_index > last:
                break
            found.append(run)
        return found

    def remember(self, runs: list[Entries]) -> None:
        """Put runs that were read from the store at start into the cache; they must end where the log does."""
        for run in runs:
            self._remember(run)

    def _remember(self, run: Entries) -> None:
        self._runs.append(run)
        self._starts.append(run.first_index)
        self._cached += run.weight
        if self._cached > self._cache_bytes:
            self._evict()

    def _evict(self) -> None:
        """Bring the cache down to three quarters, so that this is rare; what is not durable yet stays."""
        goal, drop = self._cache_bytes * 3 // 4, 0
        for run in self._runs:
            if self._cached <= goal or run.last_index > self.durable:
                break
            self._cached -= run.weight
            drop += 1
        del self._runs[:drop], self._starts[:drop]

    def _cut_cache(self, end: int) -> None:
        while self._starts and self._starts[-1] > end:
            self._cached -= self._runs[-1].weight
            del self._runs[-1], self._starts[-1]
        if self._runs and self._runs[-1].last_index > end:
            run = self._runs[-1]
            kept = run.part(run.first_index, end)
            self._cached -= run.weight - kept.weight
            self._runs[-1] = kept

    # -- the way to the disk --------------------------------------------------------------------------------------

    def take_unwritten(self, ticket: int) -> tuple[LogId | None, int | None, list[Entries]]:
        """(reset to, truncate from, runs) to write next, under a ticket that `written` will bring back."""
        taken = self._reset, self._truncate_from, self._unwritten
        self._reset, self._truncate_from, self._unwritten = None, None, []
        self.dirty = False
        self._in_flight.append((ticket, self.last.index))
        return taken

    def written(self, ticket: int) -> None:
        """Every write up to `ticket` is durable."""
        while self._in_flight and self._in_flight[0][0] <= ticket:
            upto = self._in_flight.popleft()[1]
            if upto > self.durable:
                self.durable = upto


def empty_log(cache_bytes: int) -> Log:
    """A log that never held anything."""
    return Log(LogId(NO_LEADER, 0), LogId(NO_LEADER, 0), [], cache_bytes)

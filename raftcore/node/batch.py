"""A batch: the proposals of one turn and who waits for them. They travel together, and are answered in one pass."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence

from raftcore.errors import RaftCoreError
from raftcore.types import Entries

Waiter = asyncio.Future[bytes | None] | tuple[asyncio.Future[list[bytes | None]], int]
"""A caller's future: for one payload, or (future, n) for the n payloads of `propose_many`."""


class Batch:
    """Payloads and who waits for them. `first` and `last` are their indexes once they are appended."""

    __slots__ = ("_collected", "deadline", "first", "has_many", "last", "payloads", "size", "waiters")

    def __init__(
        self, payloads: list[bytes], waiters: Sequence[Waiter], has_many: bool, size: int, deadline: float
    ) -> None:
        self.payloads = payloads
        self.waiters = waiters
        self.has_many = has_many
        self.size = size
        self.deadline = deadline
        self.first = self.last = 0
        self._collected: list[bytes | None] = []

    def parts(self, max_bytes: int) -> list[Batch]:
        """The batch in parts of at most so many bytes each; what one caller gave stays together."""
        parts: list[Batch] = []
        start = end = size = 0
        waiters: list[Waiter] = []
        for waiter in self.waiters:
            count = waiter[1] if isinstance(waiter, tuple) else 1
            added = sum(map(len, self.payloads[end : end + count]))
            if waiters and size + added > max_bytes:
                parts.append(Batch(self.payloads[start:end], waiters, self.has_many, size, self.deadline))
                start, size, waiters = end, 0, []
            end, size = end + count, size + added
            waiters.append(waiter)
        parts.append(Batch(self.payloads[start:end], waiters, self.has_many, size, self.deadline))
        return parts

    def answered(self, run: Entries, results: Sequence[bytes | None]) -> bool:
        """Take the results of `run` that belong here. True when that was the last of them."""
        if self.first == run.first_index and self.last == run.last_index:
            self.resolve(results)
            return True
        start = max(self.first, run.first_index) - run.first_index
        stop = min(self.last, run.last_index) - run.first_index + 1
        self._collected.extend(results[start:stop])
        if self.last > run.last_index:
            return False
        self.resolve(self._collected)
        return True

    def resolve(self, results: Sequence[bytes | None]) -> None:
        """Give everybody who still waits their answer."""
        if not self.has_many:
            for future, result in zip(self.waiters, results, strict=True):
                if not future.done():  # type: ignore[union-attr]  # has_many is False: no tuples
                    future.set_result(result)  # type: ignore[union-attr]  # the same
            return
        start = 0
        for waiter in self.waiters:
            if isinstance(waiter, tuple):
                many, count = waiter
                if not many.done():
                    many.set_result(list(results[start : start + count]))
                start += count
            else:
                if not waiter.done():
                    waiter.set_result(results[start])
                start += 1

    def fail(self, error: RaftCoreError) -> None:
        """Tell everybody who still waits that it failed, each with an exception of its own."""
        for waiter in self.waiters:
            future = waiter[0] if isinstance(waiter, tuple) else waiter
            if not future.done():
                future.set_exception(copy_of(error))


def copy_of(error: RaftCoreError) -> RaftCoreError:
    """One exception object can't be raised in many tasks: each would add to the same traceback."""
    other = copy.copy(error)  # with its attributes
    other.__cause__ = error.__cause__
    return other

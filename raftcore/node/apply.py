"""The apply worker: committed runs go to the state machine, in order, one call at a time; answers go to those who wait.

Everything that must not run beside an apply (a view for a snapshot, a restore, a query) goes through `exclusive`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from raftcore.errors import RaftCoreError, StorageError
from raftcore.node.storage import Worker
from raftcore.types import Entries, EntryKind, LogId, Membership
from raftcore.wire import decode_membership

if TYPE_CHECKING:
    import asyncio

    from raftcore.contracts import StateMachine
    from raftcore.engine import Engine

T = TypeVar("T")
Results = Sequence[bytes | None]


class Applier:
    """`applied`: the last entry that the state machine holds; `membership` what was in force there, and where
    it was set."""

    def __init__(
        self,
        machine: StateMachine,
        worker: Worker,
        engine: Engine,
        applied: LogId,
        membership: tuple[LogId, Membership],
        batch_bytes: int,
        read: Callable[[int, int, int], asyncio.Future[list[Entries]]],
        answered: Callable[[Entries, Results], None],
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.machine = machine
        self.applied = applied
        self.membership = membership
        self.worker = worker
        self._engine = engine
        self._batch_bytes = batch_bytes
        self._read = read
        self._answered = answered
        self._wake = wake
        self._fail = fail
        self._busy = False

    def advance(self, target: int) -> None:
        """Apply up to `target`, or as much of it as is one batch; the next turn goes on."""
        if self._busy:
            return
        first = self.applied.index + 1
        runs = self._engine.log.read(first, self._batch_bytes, target)
        if runs is None:
            self._busy = True
            self._read(first, target + 1, self._batch_bytes).add_done_callback(self._when_read)
        else:
            self._apply(runs, target)

    def _when_read(self, future: asyncio.Future[list[Entries]]) -> None:
        self._busy = False
        if future.cancelled():
            return
        failure = future.exception()
        if failure is not None:
            self._fail(failure)
            return
        runs = future.result()
        if runs and runs[0].first_index == self.applied.index + 1:  # not overtaken by a snapshot
            try:
                self._apply(runs, self._engine.applicable)
            except RaftCoreError as error:
                self._fail(error)
        self._wake()

    def _apply(self, runs: list[Entries], target: int) -> None:
        if runs[-1].last_index > target:
            runs = [run.part(run.first_index, target) for run in runs if run.first_index <= target]
        if self.machine.blocking:
            self._busy = True
            self.worker.submit(self._results, runs).add_done_callback(lambda future: self._when_applied(runs, future))
            return
        for run in runs:
            if run.kind is EntryKind.NORMAL:
                results = self._result(run)
                self.applied = run.last_id
                self._answered(run, results)
            else:
                self._done(run, ())
        if self.applied.index < target:
            self._wake()

    def _when_applied(self, runs: list[Entries], future: asyncio.Future[list[Results]]) -> None:
        self._busy = False
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._fail(error)
            return
        for run, results in zip(runs, future.result(), strict=True):
            self._done(run, results)
        self._wake()

    def _results(self, runs: list[Entries]) -> list[Results]:
        return [self._result(run) if run.kind is EntryKind.NORMAL else () for run in runs]

    def _result(self, run: Entries) -> Results:
        try:
            results = self.machine.apply(run)
        except RaftCoreError:
            raise
        except Exception as error:  # a plugin's failure becomes ours, with the place in the log
            raise StorageError(
                f"state machine {type(self.machine).__name__} failed on entries {run.first_index}..{run.last_index}: "
                f"{type(error).__name__}: {error}; it is not known how many of them took effect, so this node stops"
            ) from error
        if len(results) != len(run.payloads):
            raise StorageError(
                f"state machine {type(self.machine).__name__} gave {len(results)} answers to the {len(run)} entries "
                f"{run.first_index}..{run.last_index}; apply must answer every entry"
            )
        return results

    def _done(self, run: Entries, results: Results) -> None:
        self.applied = run.last_id
        if run.kind is EntryKind.NORMAL:
            self._answered(run, results)
        elif run.kind is EntryKind.MEMBERSHIP:
            self.membership = (run.last_id, decode_membership(run.payloads[0]))

    async def exclusive(self, call: Callable[[], T], *, long: bool = False) -> T:
        """Call when nothing is being applied, and apply nothing meanwhile. `long` ones run in the thread in
        any case."""
        if not self.machine.blocking and not long and not self._busy:
            return call()
        while self._busy:
            # The thread takes calls in order: once this one returns, the apply before it has returned too.
            await self.worker.run(lambda: None)
        self._busy = True
        try:
            return await self.worker.run(call)
        finally:
            self._busy = False
            self._wake()

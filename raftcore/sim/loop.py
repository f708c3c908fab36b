"""An asyncio event loop in virtual time, for any number of simulated processes at once.

Rules
1. Nothing waits: when no callback is ready, the time jumps to the next timer. There are no threads and no sockets.
2. Every callback belongs to a *process*, which it inherits from where it was scheduled (through its context). The
   callbacks of one process run in the order in which they became ready, as asyncio promises; which process runs next
   is drawn.
3. `time()` is the clock of the process that is running, which may drift and jump; timers fire by that clock.
4. A call in an executor is made at once, in one piece, and its result arrives after a drawn latency; calls of
   one executor queue for its threads. What it did to the process's disk is in flight until then.
5. A paused process runs nothing until it resumes; a killed one never runs anything again.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from raftcore.errors import RaftCoreError

if TYPE_CHECKING:
    import random

    from raftcore.sim.disk import Disk

T = TypeVar("T")

BUSY_LIMIT = 200_000
"""Callbacks that may run without the time moving on; more of them are a loop that never ends."""


CLOSING_SECONDS = 60.0


class Livelock(RaftCoreError):
    """Callbacks schedule each other for ever, and the time stands still."""


def _nothing() -> None:
    """Nothing looks at the process."""


class Process:
    """One simulated process: its callbacks, its clock and its disk.

    `latency` gives the seconds that a call in an executor takes. `after` is called when one of its callbacks has run.
    """

    __slots__ = (
        "_local_at",
        "_rate",
        "_true_at",
        "after",
        "alive",
        "context",
        "disk",
        "dropped",
        "executors",
        "latency",
        "name",
        "paused",
        "queued",
        "ready",
        "tasks",
    )

    def __init__(self, name: str, *, now: float = 0.0, started_at: float = 0.0, rate: float = 1.0) -> None:
        """`now`: the true time; `started_at`: what its clock shows then; `rate`: how fast that runs."""
        self.name = name
        self.alive = True
        self.paused = False
        self.queued = False
        self.ready: deque[Handle] = deque()
        self.dropped: list[Handle] = []
        """What it did not come to do before it died."""
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self.disk: Disk | None = None
        self.latency: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], None] = _nothing
        self.executors: dict[object, _Threads] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self._true_at, self._local_at, self._rate = now, started_at, rate

    def clock(self, now: float) -> float:
        """What this process's clock shows at the true time `now`."""
        return self._local_at + (now - self._true_at) * self._rate

    def true_time(self, when: float) -> float:
        """The first true time at which the clock shows `when` or more."""
        true = self._true_at + (when - self._local_at) / self._rate
        while self.clock(true) < when:
            true = math.nextafter(true, math.inf)
        return true


_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("raftcore.sim.process")


class _Threads:
    """The threads of one executor: how many are free, and the calls that wait for one."""

    __slots__ = ("free", "waiting")

    def __init__(self, free: int) -> None:
        self.free = free
        self.waiting: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[object, ...]]] = deque()


class Handle:
    """A callback that waits for its turn or, with `local_when`, for a time of its process's clock."""

    __slots__ = ("args", "call", "context", "local_when", "process")

    def __init__(
        self,
        process: Process,
        call: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        local_when: float | None = None,
    ) -> None:
        self.process = process
        self.call: Callable[..., object] | None = call
        self.args = args
        self.context = context
        self.local_when = local_when

    def cancel(self) -> None:
        self.call = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.call is None

    def when(self) -> float:
        return self.local_when or 0.0


class SimLoop(asyncio.AbstractEventLoop):
    """See the module. `now` is the true time in seconds; `steps` counts the callbacks that have run.

    `errors` holds what asyncio wants logged: failures that nobody has looked at.
    """

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self.errors: list[str] = []
        self._rng = rng
        self._random = rng.random
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._runnable: list[Process] = []
        self._processes: dict[Process, None] = {}
        self._main = Process("main")
        self._current = self._main
        self._when_finished: list[Callable[[], None]] | None = None
        self._running = self._closing = self._closed = False

    # -- processes ----------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task of `process`; a failure of it is one of `errors`."""
        self._processes[process] = None
        before, self._current = self._current, process
        try:
            _ = process.context.copy().run(self.create_task, work)  # `process.tasks` keeps it
        finally:
            self._current = before

    def call(self, delay: float, process: Process, call: Callable[..., object], *args: object) -> None:
        """Run a callback in `process` after `delay` true seconds."""
        self._count += 1
        heapq.heappush(self._timers, (self.now + delay, self._count, Handle(process, call, args, process.context)))

    def pause(self, process: Process) -> None:
        """The process stands still, as with SIGSTOP; its clock goes on."""
        process.paused = True
        if process.queued:
            process.queued = False
            self._runnable.remove(process)

    def resume(self, process: Process) -> None:
        """The process goes on, with everything that became due meanwhile."""
        process.paused = False
        self._queue(process)

    def kill(self, process: Process) -> None:
        """The process is gone, as with SIGKILL: nothing of it runs any more."""
        process.alive = False
        process.dropped.extend(process.ready)
        process.ready.clear()
        if process.queued:
            process.queued = False
            self._runnable.remove(process)
        for task in process.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own way to say: on purpose

    def set_clock(self, process: Process, *, jump: float = 0.0, rate: float | None = None) -> None:
        """From now on the clock of `process` runs at `rate`, `jump` (not negative) seconds further on."""
        process._local_at, process._true_at = process.clock(self.now) + jump, self.now
        if rate is not None:
            process._rate = rate
        for place, (_, count, handle) in enumerate(self._timers):
            if handle.process is process and handle.local_when is not None:
                self._timers[place] = (max(self.now, process.true_time(handle.local_when)), count, handle)
        heapq.heapify(self._timers)

    def when_finished(self, call: Callable[[], None]) -> None:
        """From within a call in an executor: `call` when its latency has passed, unless the process has died by then;
        elsewhere at once."""
        if self._when_finished is not None:
            self._when_finished.append(call)
        else:
            call()

    # -- running ------------------------------------------------------------------------------------------------------

    def run_until(self, until: float) -> None:
        """Run everything that is due up to the true time `until`. Raises `Livelock`."""
        timers, runnable, pop = self._timers, self._runnable, heapq.heappop
        asyncio._set_running_loop(self)
        self._running = True
        busy = self.steps + BUSY_LIMIT
        try:
            while True:
                if runnable:
                    self._run_one(runnable)
                    if self.steps > busy:
                        raise Livelock(f"{BUSY_LIMIT} callbacks have run at {self.now:.6f} s and more are ready")
                elif timers and timers[0][0] <= until:
                    when, _, handle = pop(timers)
                    if handle.call is None:
                        continue
                    if not handle.process.alive:
                        handle.process.dropped.append(handle)
                        continue
                    if when > self.now:
                        self.now, busy = when, self.steps + BUSY_LIMIT
                    handle.process.ready.append(handle)
                    self._queue(handle.process)
                else:
                    break
            self.now = max(self.now, until)
        finally:
            self._running = False
            self._current = self._main
            asyncio._set_running_loop(None)

    def _run_one(self, runnable: list[Process]) -> None:
        count = len(runnable)
        place = int(self._random() * count) if count > 1 else 0
        process = runnable[place]
        ready = process.ready
        handle = ready.popleft()
        if not ready:
            process.queued = False
            runnable[place] = runnable[-1]
            runnable.pop()
        call = handle.call
        if call is None:
            return
        self._current = process
        self.steps += 1
        try:
            handle.context.run(call, *handle.args)
        except Exception as error:  # noqa: BLE001  # what asyncio would log: a callback that fails is reported
            self.call_exception_handler({"message": f"callback {call!r} failed", "exception": error})
        if process.alive and not self._closing:
            process.after()

    def _queue(self, process: Process) -> None:
        if process.ready and not process.queued and not process.paused and process.alive:
            process.queued = True
            self._runnable.append(process)

    # -- what asyncio asks for ----------------------------------------------------------------------------------------

    def time(self) -> float:
        return self._current.clock(self.now)

    def call_soon(  # type: ignore[override]  # our handles are lighter than asyncio's
        self, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> Handle:
        if context is None:
            process, context = self._current, contextvars.copy_context()
        else:
            process = context.get(_PROCESS, self._main)
        handle = Handle(process, callback, args, context)
        if process.alive:
            process.ready.append(handle)
            if not process.queued:
                self._queue(process)
        else:
            process.dropped.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there are no threads

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> Handle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: object, context: contextvars.Context | None = None
    ) -> Handle:
        process = self._current if context is None else context.get(_PROCESS, self._main)
        handle = Handle(process, callback, args, context or contextvars.copy_context(), when)
        self._count += 1
        heapq.heappush(self._timers, (max(self.now, process.true_time(when)), self._count, handle))
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: object) -> asyncio.Future[T]:
        process, future = self._current, self.create_future()
        threads = process.executors.get(executor)
        if threads is None:
            threads = process.executors[executor] = _Threads(getattr(executor, "_max_workers", 1))
        if threads.free:
            threads.free -= 1
            self._make_call(process, threads, future, func, args)
        else:
            threads.waiting.append((future, func, args))
        return future

    def _make_call(
        self,
        process: Process,
        threads: _Threads,
        future: asyncio.Future[Any],
        func: Callable[..., Any],
        args: tuple[object, ...],
    ) -> None:
        disk, result, error = process.disk, None, None
        in_flight = disk.begin_call() if disk is not None else None
        finishing = self._when_finished = []
        asyncio._set_running_loop(None)  # a thread has no loop
        try:
            result = func(*args)
        except Exception as failure:  # noqa: BLE001  # handed to whoever awaits the future
            error = failure
        finally:
            asyncio._set_running_loop(self)
            self._when_finished = None
            if disk is not None:
                disk.end_call()

        def finished() -> None:
            if in_flight is not None:
                in_flight.finish()
            for call in finishing if not self._closing else ():
                call()
            if threads.waiting:
                self._make_call(process, threads, *threads.waiting.popleft())
            else:
                threads.free += 1
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call(process.latency(), process, finished)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # as above
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        tasks = self._current.tasks
        tasks.append(task)
        task.add_done_callback(tasks.remove)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {type(error).__name__}: {error}" if error else context["message"])

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End what is left: every task is cancelled, those of dead processes too, and runs to its end unseen.

        What a dead process left undone is done first, or its tasks would wait for it for ever.
        """
        self._closing = True
        for process in self._processes:
            process.paused, process.disk = False, None
            if not process.alive:
                process.alive = True
                process.ready.extend(process.dropped)
            self._queue(process)
            for task in process.tasks:
                self._current = process
                task.cancel()
        try:
            until = self.now + CLOSING_SECONDS
            while self.now < until and any(not task.done() for process in self._processes for task in process.tasks):
                self.run_until(self.now + 1)
        finally:
            for process in self._processes:
                process.alive = False
            self._timers.clear()
            self._closed = True

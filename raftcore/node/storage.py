"""Calling blocking plugins: one thread each, one call at a time; plugins that never block are called where
they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """A plugin's own thread. `run` queues a call behind earlier ones, so a plugin sees them one at a time, in order.

    With `blocking=False` there is no thread: `run` calls at once, on the event loop.
    """

    def __init__(self, name: str, *, blocking: bool, threads: int = 1) -> None:
        self.blocking = blocking
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name) if blocking else None

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start the call; its result comes in the future. Errors too, also when there is no thread."""
        loop = asyncio.get_running_loop()
        if self._executor is not None:
            return loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))
        future: asyncio.Future[T] = loop.create_future()
        try:
            future.set_result(call(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # handed to whoever awaits the future
            future.set_exception(error)
        return future

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make the call and wait for it, also when the waiting task is cancelled: a plugin call is never left
        half-watched."""
        future = self.submit(call, *args, **kwargs)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """The thread ends when its last call is done."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)  # nobody waits here: this is the event loop

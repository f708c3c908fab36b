"""The load: many clients that write every pair until it is acknowledged, whatever happens to the members meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

from raftcore.cli.connection import NoAnswer, key_path
from raftcore.cli.processes import ClusterFailed, Process

CLIENTS = 64
GIVE_UP_SECONDS = 60.0
PAUSE_SECONDS = 0.05


class Load:
    """All clients together, and what they have seen."""

    def __init__(self, pairs: Mapping[str, bytes], processes: Sequence[Process]) -> None:
        self.acknowledged: set[str] = set()
        self.retried = 0
        self.seconds = 0.0
        self.failover_seconds: float | None = None
        self._pairs = pairs
        self._left: Iterator[tuple[str, bytes]] = iter(pairs.items())
        self._processes = processes
        self._killed_at = self._dead_at = float("inf")
        self._goal = float("inf")
        self._goal_reached = asyncio.Event()
        # So few that there is still something to write when the leader is gone.
        self.clients = max(1, min(CLIENTS, len(pairs) // 8))

    async def run(self) -> None:
        """Write everything. Raises `ClusterFailed` when a pair can't be written for too long."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._client(number))
        self.seconds = loop.time() - started

    async def reached(self, share: float) -> None:
        """Wait until this share of the pairs is acknowledged."""
        self._goal = share * len(self._pairs)
        self._goal_reached.clear()
        await self._goal_reached.wait()

    async def kill(self, process: Process) -> None:
        """Kill a member, and take the time until the others take writes again."""
        self._killed_at = asyncio.get_running_loop().time()
        await process.kill()
        self._dead_at = asyncio.get_running_loop().time()

    async def _client(self, number: int) -> None:
        count = len(self._processes)
        connections = [process.connection() for process in self._processes]
        at = number % count
        loop = asyncio.get_running_loop()
        try:
            for key, value in self._left:
                path, deadline = key_path(key), loop.time() + GIVE_UP_SECONDS
                while True:
                    asked_at = loop.time()
                    try:
                        answer = await connections[at].ask("PUT", path, value)
                    except NoAnswer as error:
                        status, problem = 503, str(error)
                    else:
                        status, problem = (
                            answer.status,
                            f"status {answer.status}: {answer.body.decode(errors='replace')}",
                        )
                    if status == 200:
                        self._acknowledge(key, asked_at)
                        break
                    if status not in (503, 504) or loop.time() > deadline:
                        raise ClusterFailed(f"the pair with key '{key}' can't be written: {problem}")
                    # Whether it has happened or not: the same value again does no harm, and only an answer counts.
                    self.retried += 1
                    at = (at + 1) % count
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            for connection in connections:
                connection.close()

    def _acknowledge(self, key: str, asked_at: float) -> None:
        self.acknowledged.add(key)
        if len(self.acknowledged) >= self._goal:
            self._goal_reached.set()
        # An answer to what was asked before may still be the old leader's.
        if self.failover_seconds is None and asked_at > self._dead_at:
            self.failover_seconds = asyncio.get_running_loop().time() - self._killed_at

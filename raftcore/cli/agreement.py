"""Whether the members of a cluster that is left alone come to hold the same state."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from raftcore.cli.connection import NoAnswer
from raftcore.cli.processes import POLL_SECONDS, Process

AGREE_SECONDS = 30.0


@dataclass(frozen=True)
class State:
    """One member at the end: what entry it has applied last, the hash of its state, its newest snapshot's entry."""

    node: str
    applied: int
    digest: str
    snapshot: int


async def agreed(processes: Sequence[Process]) -> list[State]:
    """Wait until all members hold the same state; what they hold when they don't in time.

    Raises `ClusterFailed` when one gives no answer."""
    deadline = asyncio.get_running_loop().time() + AGREE_SECONDS
    while True:
        states: list[State] = []
        for process in processes:
            try:
                states.append(await _state(process))
            except NoAnswer as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise await process.failed(f"gave no answer: {error}") from None
        if len(states) == len(processes) and are_equal(states):
            return states
        if len(states) == len(processes) and asyncio.get_running_loop().time() > deadline:
            return states
        await asyncio.sleep(POLL_SECONDS)


def are_equal(states: Sequence[State]) -> bool:
    """The same entries applied, and the same state."""
    return len({(state.applied, state.digest) for state in states}) == 1


async def _state(process: Process) -> State:
    connection = process.connection()
    try:
        digest, status = await connection.get("/digest"), await connection.get("/status")
    finally:
        connection.close()
    return State(process.node, digest["applied"], digest["digest"], status["snapshot"])

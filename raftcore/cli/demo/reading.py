"""Reading everything back from every member, and what a member says of itself."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from raftcore.cli.demo.connection import Connection, NoAnswer, key_path
from raftcore.cli.demo.processes import POLL_SECONDS, DemoFailed, Process

AGREE_SECONDS = 30.0
PAGE = 1000
SAMPLE = 100


@dataclass(frozen=True)
class State:
    """One member at the end: what entry it has applied last, the hash of its state, its newest snapshot's entry."""

    node: str
    applied: int
    digest: str
    snapshot: int


async def state(process: Process) -> State:
    """What one member says. Raises `NoAnswer`."""
    connection = process.connection()
    try:
        digest, status = await connection.get("/digest"), await connection.get("/status")
    finally:
        connection.close()
    return State(process.node, digest["applied"], digest["digest"], status["snapshot"])


async def leader(processes: Sequence[Process]) -> Process:
    """Who leads, as the members say. Raises `DemoFailed` when none of them knows."""
    for process in processes:
        connection = process.connection()
        try:
            known = (await connection.get("/status"))["leader"]
        except NoAnswer:
            continue
        finally:
            connection.close()
        found = [other for other in processes if other.node == known]
        if found:
            return found[0]
    raise DemoFailed("no member knows who leads; look at the logs of the nodes")


async def agreed(processes: Sequence[Process]) -> list[State]:
    """Wait until all members hold the same state; what they hold when they don't in time."""
    deadline = asyncio.get_running_loop().time() + AGREE_SECONDS
    while True:
        states: list[State] = []
        for process in processes:
            try:
                states.append(await state(process))
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


async def missing(process: Process, pairs: Mapping[str, bytes], acknowledged: set[str]) -> set[str]:
    """The acknowledged keys that this member does not hold with their value.

    All of them are looked up in the member's own state, page by page, and `SAMPLE` of them once more, one by one, with
    linearizable reads.
    """
    connection = process.connection()
    try:
        held = await _listed(connection)
        lost = {key for key in acknowledged if held.get(key) != pairs[key]}
        chosen = random.Random(len(acknowledged)).sample(sorted(acknowledged), min(SAMPLE, len(acknowledged)))
        for key in chosen:
            status, body = await connection.ask("GET", key_path(key))
            if status not in (200, 404):
                raise await process.failed(
                    f"did not answer for key '{key}': status {status}: {body.decode(errors='replace')}"
                )
            if status == 404 or body != pairs[key]:
                lost.add(key)
    except NoAnswer as error:
        raise await process.failed(f"gave no answer: {error}") from None
    finally:
        connection.close()
    return lost


async def _listed(connection: Connection) -> dict[str, bytes]:
    held: dict[str, bytes] = {}
    after: str | None = None
    while True:
        query = {"consistency": "stale", "limit": PAGE} | ({} if after is None else {"after": after})
        page = await connection.get(f"/kv?{urlencode(query)}")
        for item in page["items"]:
            text = item.get("value")
            held[item["key"]] = base64.b64decode(item["value_base64"]) if text is None else text.encode()
        after = page["next"]
        if after is None:
            return held

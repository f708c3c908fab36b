"""Reading everything back from every member, and who leads."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from raftcore.cli.connection import Connection, NoAnswer, key_path
from raftcore.cli.processes import ClusterFailed, Process

PAGE = 1000
SAMPLE = 100


async def leader(processes: Sequence[Process]) -> Process:
    """Who leads, as the members say. Raises `ClusterFailed` when none of them knows."""
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
    raise ClusterFailed("no member knows who leads; look at the logs of the nodes")


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
            answer = await connection.ask("GET", key_path(key))
            if answer.status not in (200, 404):
                raise await process.failed(
                    f"did not answer for key '{key}': status {answer.status}: {answer.body.decode(errors='replace')}"
                )
            if answer.status == 404 or answer.body != pairs[key]:
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

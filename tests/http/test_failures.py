from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from raftcore.config import HttpSettings
from raftcore.node import Limits

if TYPE_CHECKING:
    import httpx

Serve = Callable[..., None]


def _told(answer: httpx.Response) -> tuple[int, str, str | None, str | None]:
    body = answer.json()
    return answer.status_code, body["error"], body.get("outcome"), answer.headers.get("retry-after")


def test_a_command_without_a_leader_did_not_happen(serve: Serve) -> None:
    """503 with Retry-After: nobody took it."""

    async def check(cluster) -> None:
        left = await cluster.follower()
        for name in cluster.nodes:
            if name != left:
                await cluster.nodes[name].close(transfer=False)
        await cluster.nodes[left].wait_for(lambda status: status.leader is None)
        answer = await cluster.clients[left].put("/kv/x", content=b"1")

        assert (503, "no_leader", "not_appended", "1") == _told(answer)

    serve(check, limits=Limits(proposal_timeout_ms=300))


def test_a_command_that_may_yet_be_committed_has_an_unknown_outcome(serve: Serve) -> None:
    """504: the leader has it in its log and lost its quorum."""

    async def check(cluster) -> None:
        leader = await cluster.leader()
        cluster.isolate(leader)
        answer = await cluster.clients[leader].put("/kv/x", content=b"1")

        assert (504, "outcome_unknown", "unknown", None) == _told(answer)

    serve(check)


def test_a_request_ends_in_its_time(serve: Serve) -> None:
    """The request's own limit is for what the node's would end later; a command's outcome is then unknown."""

    async def check(cluster) -> None:
        leader = await cluster.leader()
        for name in cluster.nodes:
            if name != leader:
                await cluster.nodes[name].close(transfer=False)
        await cluster.nodes[leader].wait_for(lambda status: status.leader is None)
        write, read = await asyncio.gather(
            cluster.clients[leader].put("/kv/x", content=b"1"), cluster.clients[leader].get("/kv/x")
        )

        assert (504, "outcome_unknown", "unknown", None) == _told(write)
        assert (503, "timeout", None, "1") == _told(read)
        assert "no answer within 0.2 s (http.request_timeout_ms)" in write.json()["message"]

    serve(check, settings=HttpSettings(request_timeout_ms=200))


def test_a_command_too_many_is_refused(serve: Serve) -> None:
    """503 with Retry-After: the queue of proposals is full."""

    async def check(cluster) -> None:
        leader = await cluster.leader()
        client = cluster.clients[leader]
        cluster.isolate(leader)
        answers = await asyncio.gather(client.put("/kv/x", content=b"1"), client.put("/kv/y", content=b"2"))

        assert (503, "overloaded", "not_appended", "1") in [_told(answer) for answer in answers]

    serve(check, limits=Limits(max_pending_proposals=1))


@pytest.mark.parametrize(
    ("method", "path", "outcome"),
    [
        ("PUT", "/kv/x", "not_appended"),
        ("GET", "/kv/x", None),
    ],
)
def test_a_stopped_node_says_so(serve: Serve, method: str, path: str, outcome: str | None) -> None:
    """503: ask another member. A proposal is said not to have happened."""

    async def check(cluster) -> None:
        await cluster.nodes["n1"].close(transfer=False)
        answer = await cluster.clients["n1"].request(method, path)

        assert 503 == answer.status_code
        assert outcome == answer.json().get("outcome")
        assert "n1" in answer.json()["message"]

    serve(check)


def test_a_defect_is_answered_in_json_too(serve: Serve) -> None:
    """500 with a word; what happened is for the log, where the server puts what is raised."""

    class Defect(Exception):
        pass

    async def check(cluster) -> None:
        client, node = cluster.clients["n1"], cluster.nodes["n1"]
        client._transport.raise_app_exceptions = False

        def status() -> None:
            raise Defect("told to nobody")

        node.status = status
        answer = await client.get("/status")

        assert (500, "internal") == (answer.status_code, answer.json()["error"])
        assert "told to nobody" not in answer.text

    serve(check)

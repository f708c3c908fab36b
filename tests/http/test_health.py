from __future__ import annotations

import threading
from collections.abc import Callable

import httpx

from raftcore.backends.kv import KeyValue, Put, encode
from raftcore.http import make_app

Serve = Callable[..., None]


def test_a_member_of_a_working_cluster_is_alive_and_ready(serve: Serve) -> None:
    """Both say ok; verbose shows what was checked."""

    async def check(cluster) -> None:
        leader = await cluster.leader()
        for client in cluster.clients.values():
            for path in ("/livez", "/readyz"):
                answer = await client.get(path)
                assert (200, "ok\n") == (answer.status_code, answer.text)
        lines = (await cluster.clients["n1"].get("/readyz?verbose")).text.splitlines()

        assert ["[+] node: runs", f"[+] leader: {leader}"] == lines[:2]
        assert lines[2].startswith("[+] applied: ")

    serve(check)


def test_without_a_leader_a_member_is_alive_and_not_ready(serve: Serve) -> None:
    """Restarting it would not help; sending it requests would not either."""

    async def check(cluster) -> None:
        left = await cluster.follower()
        for name in cluster.nodes:
            if name != left:
                await cluster.nodes[name].close(transfer=False)
        await cluster.nodes[left].wait_for(lambda status: status.leader is None)
        client = cluster.clients[left]
        ready = await client.get("/readyz")

        assert 200 == (await client.get("/livez")).status_code
        assert (503, "leader: none is known\n") == (ready.status_code, ready.text)

    serve(check)


def test_a_stopped_node_is_neither(serve: Serve) -> None:
    """503 with the reason."""

    async def check(cluster) -> None:
        await cluster.nodes["n1"].close(transfer=False)
        answers = [await cluster.clients["n1"].get(path) for path in ("/livez", "/readyz?verbose")]

        assert [(503, "node: node n1 is closed\n"), (503, "[-] node: node n1 is closed\n")] == [
            (answer.status_code, answer.text) for answer in answers
        ]

    serve(check)


def test_a_node_that_is_not_started_is_neither(serve: Serve) -> None:
    """The application may serve before the node has read its log."""

    async def check(cluster) -> None:
        cluster.add("n4", {})
        answers = [await cluster.clients["n4"].get(path) for path in ("/livez", "/readyz", "/status")]

        assert [503, 503, 503] == [answer.status_code for answer in answers]

    serve(check)


def test_a_member_that_lags_behind_is_not_ready(serve: Serve) -> None:
    """It knows of a committed entry that its state machine has not taken yet."""
    gate, entered = threading.Event(), []

    class Slow(KeyValue):
        blocking = True

        def apply(self, run: object) -> list[bytes | None]:
            entered.append(self)
            gate.wait(20)
            return super().apply(run)

    async def check(cluster) -> None:
        try:
            node, client = cluster.nodes["n1"], cluster.clients["n1"]
            proposed = node.propose(encode(Put("x", b"1")))
            await node.wait_for(lambda status: node.member.applier.machine in entered)
            lagging = await client.get("/readyz")
            gate.set()
            await proposed
            ready = await client.get("/readyz")
        finally:
            gate.set()

        assert (503, 200) == (lagging.status_code, ready.status_code)
        assert lagging.text.startswith("applied: ")

    serve(check, machine=Slow)


def test_the_status_is_what_the_node_shows(serve: Serve) -> None:
    """All fields, in JSON."""

    async def check(cluster) -> None:
        status = cluster.nodes["n1"].status()
        shown = (await cluster.clients["n1"].get("/status")).json()

        assert set(status.__struct_fields__) == set(shown)
        assert ("n1", "test", [["n1", "n2", "n3"]]) == (shown["node"], shown["cluster"], shown["voters"])

    serve(check)


def test_an_application_needs_no_settings(serve: Serve) -> None:
    """The defaults serve."""

    async def check(cluster) -> None:
        transport = httpx.ASGITransport(make_app(cluster.nodes["n1"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert 200 == (await client.put("/kv/x", content=bytes(100_000))).status_code

    serve(check)

"""Fixtures for HTTP: a cluster of three real nodes on one event loop, each with its application and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from raftcore.backends.kv import KeyValue
from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.backends.memory_transport import Hub, MemoryTransport
from raftcore.config import HttpSettings
from raftcore.contracts import StateMachine
from raftcore.engine.settings import RaftSettings
from raftcore.errors import NodeStopped
from raftcore.http import make_app
from raftcore.node import Limits, Node

ADDRESSES = {name: f"{name}.example:7101" for name in ("n1", "n2", "n3")}
RAFT = RaftSettings(heartbeat_ms=20, election_timeout_ms=(100, 200))


class Cluster:
    """`nodes` and `clients` by id; a client's base is the node's application."""

    def __init__(self, settings: HttpSettings, limits: Limits, machine: Callable[[], StateMachine]) -> None:
        self.hub = Hub()
        self.settings = settings
        self.limits = limits
        self.machine = machine
        self.nodes: dict[str, Node] = {}
        self.clients: dict[str, httpx.AsyncClient] = {}

    def add(self, name: str, members: dict[str, str]) -> Node:
        """A node that is not started, and its client."""
        node = Node(
            name,
            cluster="test",
            log_store=MemoryLog(),
            state_machine=self.machine(),
            transport=MemoryTransport(self.hub),
            snapshots=MemorySnapshots(),
            address=f"{name}.example:7101",
            members=members,
            raft=RAFT,
            limits=self.limits,
        )
        self.nodes[name] = node
        transport = httpx.ASGITransport(make_app(node, self.settings))
        self.clients[name] = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30)
        return node

    async def leader(self) -> str:
        """The id of who leads, once every node knows it."""
        first, *others = self.nodes.values()
        status = await first.wait_for(lambda status: status.leader is not None)
        for node in others:
            await node.wait_for(lambda status: status.leader == first.status().leader)
        assert status.leader is not None
        return status.leader

    async def follower(self) -> str:
        """The id of one that does not lead."""
        leader = await self.leader()
        return next(name for name in self.nodes if name != leader)

    def isolate(self, name: str) -> None:
        """Cut one off from all others, both ways."""
        for other in self.nodes:
            if other != name:
                self.hub.cut(name, other)
                self.hub.cut(other, name)


@asynccontextmanager
async def _cluster(
    settings: HttpSettings, limits: Limits, machine: Callable[[], StateMachine]
) -> AsyncIterator[Cluster]:
    cluster = Cluster(settings, limits, machine)
    for name in ADDRESSES:
        cluster.add(name, ADDRESSES)
    try:
        for node in list(cluster.nodes.values()):
            await node.start()
        await cluster.leader()
        yield cluster
    finally:
        for client in cluster.clients.values():
            await client.aclose()
        for node in cluster.nodes.values():
            with suppress(NodeStopped):
                await node.close(transfer=False)


Check = Callable[[Cluster], Awaitable[None]]


@pytest.fixture
def serve() -> Callable[..., None]:
    """`serve(check)` runs an async check on a cluster that has a leader."""

    def serve(
        check: Check,
        *,
        settings: HttpSettings | None = None,
        limits: Limits | None = None,
        machine: Callable[[], StateMachine] = KeyValue,
    ) -> None:
        async def run() -> None:
            async with (
                asyncio.timeout(30),
                _cluster(settings or HttpSettings(), limits or Limits(), machine) as cluster,
            ):
                await check(cluster)

        asyncio.run(run())

    return serve

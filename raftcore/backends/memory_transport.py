"""A transport between nodes of one event loop: `send` calls the peer's endpoint with the message itself.

A `Hub` is the network; nodes that were given the same hub can reach each other. There is no registry of hubs,
so the hub has to be passed in code:

    hub = Hub()
    Node(..., transport=MemoryTransport(hub))

What TOML names ``memory`` is a transport on a hub of its own: a cluster of one node, which talks to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from raftcore.contracts.transport import Endpoint
from raftcore.errors import ConfigError, PeerRefused
from raftcore.messages import Message
from raftcore.types import NodeId, NodeInfo


class Hub:
    """The network between `MemoryTransport`s of one event loop, with the faults that tests need."""

    def __init__(self) -> None:
        self._stations: dict[NodeId, MemoryTransport] = {}
        self._cuts: set[tuple[NodeId, NodeId]] = set()

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """Lose what `sender` sends to `receiver` from now on. Neither end is told, as in a network that drops
        packets."""
        self._cuts.add((sender, receiver))
        self._route()

    def heal(self) -> None:
        """Undo every cut."""
        self._cuts.clear()
        self._route()

    def _join(self, node: NodeId, station: MemoryTransport) -> None:
        if node in self._stations:
            raise ConfigError(f"node '{node}' is on this hub already; give each node of a cluster its own id")
        self._stations[node] = station

    def _leave(self, node: NodeId) -> None:
        del self._stations[node]

    def _others(self, node: NodeId) -> list[MemoryTransport]:
        """All stations but `node`'s, in the order of their ids, so that runs are repeatable."""
        return [self._stations[other] for other in sorted(self._stations) if other != node]

    def _passes(self, sender: NodeId, receiver: NodeId) -> bool:
        return (sender, receiver) not in self._cuts

    def _route(self) -> None:
        for station in self._stations.values():
            station._route()


class MemoryTransport:
    """One node's place on a `Hub`.

    Two nodes are linked once both have started, at least one of them names the other in `set_peers`, and both
    have admitted the other's `Hello`. A refused pair tries again whenever one of the two starts or is given
    peers. The endpoints are called from within `start`, `set_peers`, `send` and `stop` of the other end: there
    is no queue in between.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._node: NodeId
        self._endpoint: Endpoint
        self._started = False
        self._peers: frozenset[NodeId] = frozenset()
        self._links: dict[NodeId, MemoryTransport] = {}
        # The links without those that are cut: all that `send` looks at.
        self._routes: dict[NodeId, MemoryTransport] = {}
        self._sent = self._received = self._dropped = self._refused = 0

    async def start(self, endpoint: Endpoint) -> None:
        """Join the hub. Raises `ConfigError` when a node of the same id is on it."""
        node = endpoint.hello.node
        self._hub._join(node, self)
        self._node, self._endpoint, self._started = node, endpoint, True
        self._settle()

    def set_peers(self, nodes: Mapping[NodeId, NodeInfo]) -> None:
        self._peers = frozenset(nodes)
        if self._started:
            self._settle()

    def send(self, peer: NodeId, message: Message) -> None:
        station = self._routes.get(peer)
        if station is None:
            self._dropped += 1
            return
        self._sent += 1
        station._received += 1
        station._endpoint.deliver(self._node, message)

    def counters(self) -> Mapping[str, int]:
        return {
            "sent": self._sent,
            "received": self._received,
            "dropped": self._dropped,
            "refused": self._refused,
        }

    async def stop(self) -> None:
        """Leave the hub. The peers are told; the own endpoint is not called again."""
        if not self._started:
            return
        self._started = False
        self._hub._leave(self._node)
        for other in list(self._links.values()):
            self._unlink(other)
            other._endpoint.peer_down(self._node, f"node '{self._node}' has stopped")

    def _settle(self) -> None:
        """Link with whom a link is wanted and not there, and end the links that neither end wants any more."""
        for other in self._hub._others(self._node):
            wanted = other._node in self._peers or self._node in other._peers
            linked = other._node in self._links
            if wanted and not linked:
                self._link(other)
            elif linked and not wanted:
                self._unlink(other)
                for station, peer in ((self, other), (other, self)):
                    station._endpoint.peer_down(peer._node, "neither of the two names the other as a peer any more")

    def _link(self, other: MemoryTransport) -> None:
        ends = ((self, other), (other, self))
        for station, peer in ends:
            try:
                station._endpoint.admit(peer._endpoint.hello)
            except PeerRefused as refusal:
                station._refused += 1
                station._endpoint.peer_down(peer._node, str(refusal))
                peer._endpoint.peer_down(station._node, f"node '{station._node}' refuses: {refusal}")
                return
        for station, peer in ends:
            station._links[peer._node] = peer
            station._route()
        for station, peer in ends:
            station._endpoint.peer_up(peer._node)

    def _unlink(self, other: MemoryTransport) -> None:
        for station, peer in ((self, other), (other, self)):
            del station._links[peer._node]
            station._route()

    def _route(self) -> None:
        self._routes = {peer: station for peer, station in self._links.items() if self._hub._passes(self._node, peer)}

"""What a simulated node has of its network: its transport, and the ends of its connections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raftcore.contracts.transport import Endpoint
from raftcore.errors import ConfigError, PeerRefused
from raftcore.messages import Hello, Message
from raftcore.types import NodeId, NodeInfo

if TYPE_CHECKING:
    from raftcore.sim.network import Network

GAP = 1e-6
"""Seconds between the arrivals of two messages of one connection: far more than adding times up rounds away, so that
their order is that of their times."""


class End:
    """One end of a connection: that of `node`, to which `transport` belongs; `peer` is at the `other` one.

    `open`: takes what arrives. `broken`: what is sent gets nowhere, for good; `blocked`: broken or cut. `silence`
    numbers the time through which nothing can come back, 0 while it can. `sent` and `arrived` count the messages
    that were let onto the way at this end and that came out of it at the other; `last` is the time (seconds) at which
    the latest of them that keeps the order arrives.
    """

    __slots__ = (
        "arrived",
        "blocked",
        "broken",
        "factor",
        "last",
        "node",
        "open",
        "other",
        "peer",
        "sent",
        "silence",
        "transport",
    )

    def __init__(self, transport: SimTransport, peer: SimTransport) -> None:
        self.transport = transport
        self.node = transport.node
        self.peer = peer.node
        self.other: End
        self.open = self.broken = self.blocked = False
        self.factor = 1.0
        self.silence = self.sent = self.arrived = 0
        self.last = 0.0

    @property
    def is_current(self) -> bool:
        """The node sends over this end; it was neither closed nor replaced."""
        return self.transport.ends.get(self.peer) is self

    # In the process of the other end: a message that was sent at this one comes out.

    def arrive(self, message: Message, number: int) -> None:
        """In its place, for all that is known here."""
        other = self.other
        if other.open:
            self.arrived += 1
            other.transport.take(self.node, message, number)
        else:
            self.transport.network.lose("broken", self.node, self.peer, number)

    def arrive_again(self, message: Message, number: int) -> None:
        """A second time."""
        if self.other.open:
            self.transport.network.counts["duplicated"] += 1
            self.other.transport.take(self.node, message, number)

    def arrive_displaced(self, message: Message, number: int, position: int) -> None:
        """Held back; `position` counts the messages that had been sent, this one included. When as many have arrived
        without it, one that was sent later is among them."""
        if self.other.open and self.arrived >= position:
            self.transport.network.counts["reordered"] += 1
        self.arrive(message, number)

    def arrive_late(self, message: Message, number: int, position: int) -> None:
        """Held back for long: over the connection that there is now."""
        receiver = self.other.transport
        now = receiver.ends.get(self.node)
        # A sender with another disk is another node: what the former one promised must not count for it.
        if self.other.open or now is None or not now.open or not self.transport.has_disk_of(now.other.transport):
            self.arrive_displaced(message, number, position)
        else:
            self.transport.network.counts["late"] += 1
            receiver.take(self.node, message, number)


class SimTransport:
    """A node's transport over a `Network`. A process that starts again has a new one, so nothing that was under way
    to the former one gets to it."""

    def __init__(self, network: Network, node: NodeId) -> None:
        self.network = network
        self.node = node
        self.endpoint: Endpoint
        self.started = False
        self.ends: dict[NodeId, End] = {}
        self.refused = 0
        self._peers: tuple[NodeId, ...] = ()
        self._pausing: set[NodeId] = set()  # peers that will be dialled when a pause is over
        self._failures: dict[NodeId, int] = {}
        self._told: dict[NodeId, str] = {}
        self._sent = self._received = self._dropped = 0

    # -- the contract -------------------------------------------------------------------------------------------------

    async def start(self, endpoint: Endpoint) -> None:
        """Join the network. Raises `ConfigError` when a node of the same name is there."""
        network, node = self.network, self.node
        if node in network.stations:
            raise ConfigError(f"node '{node}' is on this network already; stop it, or say that it crashed")
        network.powerless.discard(node)
        network.stations[node] = self
        self.endpoint, self.started = endpoint, True
        self._dial_peers()

    def set_peers(self, nodes: Mapping[NodeId, NodeInfo]) -> None:
        gone = [peer for peer in self._peers if peer not in nodes]
        self._peers = tuple(sorted(nodes))
        if self.started:
            for peer in gone:
                if peer in self.ends:
                    self.network.close(self.ends[peer], "it is not a member any more")
            self._dial_peers()

    def send(self, peer: NodeId, message: Message) -> None:
        network = self.network
        if network.on_send is not None:
            network.on_send(self.node, peer, message)
        network.sent += 1
        number = 0 if network.trace is None else network.note_send(self.node, peer, message)
        end = self.ends.get(peer)
        if end is None:
            self._dropped += 1
            network.lose("unconnected", self.node, peer, number)
            return
        if end.sent - end.arrived >= network.max_in_flight:
            self._dropped += 1
            network.lose("overflowed", self.node, peer, number)
            return
        self._sent += 1
        if end.blocked:
            network.lose_blocked(end, number)
            return
        now, draw = network.clock(), network.random
        arrival = now + (network.min_latency - network.spread * math.log(1 - draw())) * end.factor
        if arrival < end.last + GAP:
            arrival = end.last + GAP
        if network.mishap and (drawn := draw()) < network.mishap:
            network.befall(end, drawn, arrival - now, message, number)
            return
        end.sent += 1
        end.last = arrival
        network.schedule(arrival - now, peer, end.arrive, message, number)

    def counters(self) -> Mapping[str, int]:
        return {
            "sent": self._sent,
            "received": self._received,
            "dropped": self._dropped,
            "refused": self.refused,
        }

    async def stop(self) -> None:
        """Leave the network. The peers are told; the own endpoint is not called again."""
        if self.started:
            self.network.leave(self, "the peer closed the connection", silently=False)

    # -- called by the network, in this node's process ----------------------------------------------------------------

    def take(self, sender: NodeId, message: Message, number: int) -> None:
        """Deliver a message."""
        network = self.network
        self._received += 1
        network.delivered += 1
        if network.trace is not None:
            network.trace("deliver", node=self.node, sender=sender, id=number, message=type(message).__name__)
        if network.on_deliver is not None:
            network.on_deliver(sender, self.node, message)
        self.endpoint.deliver(sender, message)

    def rise(self, end: End) -> None:
        """A connection is up at this end. Of one that replaces another, lost without a word, the node hears nothing."""
        peer = end.peer
        former = self.ends.get(peer)
        self.ends[peer] = end
        end.open = True
        self.network.look_at(end)
        self._failures.pop(peer, None)
        self._told.pop(peer, None)
        if former is not None:
            former.open = False
        else:
            self.endpoint.peer_up(peer)

    def fall(self, end: End, reason: str) -> None:
        """A connection is not up at this end any more."""
        del self.ends[end.peer]
        self.tell(end.peer, reason)
        self.dial_later(end.peer)

    def go(self) -> None:
        """The node stops or has died: its endpoint is not called again."""
        self.started = False
        for end in self.ends.values():
            end.open = False
        self.ends.clear()

    def refusal_of(self, hello: Hello) -> str | None:
        """Why a peer is refused, if it is."""
        try:
            self.endpoint.admit(hello)
        except PeerRefused as refusal:
            self.refused += 1
            self.network.counts["refused"] += 1
            return str(refusal)
        return None

    def was_refused(self, peer: NodeId, reason: str) -> None:
        """The dialler `peer` does not want this node."""
        if self.started:
            self.refused += 1
            self.tell(peer, reason)

    def tell(self, peer: NodeId, reason: str) -> None:
        """Tell the node why a peer that is not up can't be reached; of reasons that repeat only the first."""
        if peer not in self.ends and self._told.get(peer) != reason:
            self._told[peer] = reason
            self.endpoint.peer_down(peer, reason)

    def has_disk_of(self, other: SimTransport) -> bool:
        """Whether the two are the same node, in different processes perhaps."""
        return self.endpoint.hello.incarnation == other.endpoint.hello.incarnation

    # -- dialling -----------------------------------------------------------------------------------------------------

    def dial_later(self, peer: NodeId) -> None:
        """Dial after a pause, which is longer each time."""
        if peer in self._pausing:
            return
        network, failures = self.network, self._failures.get(peer, 0)
        settings = network.settings
        self._failures[peer] = failures + 1
        self._pausing.add(peer)
        pause = min(settings.reconnect_max, settings.reconnect_min * 2 ** min(failures, 30))
        network.schedule(pause * network.rng.uniform(0.5, 1), self.node, self._dial, peer)

    def _dial_peers(self) -> None:
        for peer in self._peers:
            if peer not in self._pausing:
                self._dial(peer)

    def _dial(self, peer: NodeId) -> None:
        self._pausing.discard(peer)
        wanted = self.started and peer in self._peers and peer not in self.ends
        if wanted and not self.network.handshakes.dial(self, peer):
            self.dial_later(peer)

"""How simulated connections begin.

    dialler   Hello ──▶ acceptor: admits   ──▶ dialler: admits, is up   ──▶ acceptor: is up

Two nodes that dial each other at the same time share the attempt that came first. What a cut swallows on the way is
not sent again: the dialler's time-out ends the attempt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.messages import Hello
from raftcore.sim.network_transport import End, SimTransport
from raftcore.types import NodeId

if TYPE_CHECKING:
    from raftcore.sim.network import Network


class Attempt:
    """Two nodes' attempt to connect, under way until it is `over`; `expires` when the dialler's time-out is due.

    `end` is the dialler's, once that is up.
    """

    __slots__ = ("dialler", "end", "expires", "over", "peer")

    def __init__(self, dialler: SimTransport, peer: NodeId, expires: float) -> None:
        self.dialler = dialler
        self.peer = peer
        self.expires = expires
        self.end: End | None = None
        self.over = False


class Handshakes:
    """The attempts to connect that are under way in a network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._attempts: dict[tuple[NodeId, NodeId], Attempt] = {}

    def dial(self, dialler: SimTransport, peer: NodeId) -> bool:
        """Begin to connect; False when the two are at it already."""
        network, node, pair = self._network, dialler.node, _pair(dialler.node, peer)
        now, timeout = network.clock(), network.settings.handshake_timeout
        attempt = self._attempts.get(pair)
        if attempt is not None:
            if now <= attempt.expires:
                return False
            self._end(attempt)  # whoever began it is paused
        attempt = self._attempts[pair] = Attempt(dialler, peer, now + timeout)
        network.schedule(timeout, node, self._fail, attempt, f"no handshake within {timeout:g} s")
        acceptor = network.stations.get(peer)
        if acceptor is not None:
            if network.passes(node, peer):
                hello = dialler.endpoint.hello
                network.schedule(network.latency(node, peer), peer, self._greet, attempt, acceptor, hello)
        elif peer not in network.powerless and network.passes(node, peer, back=True):
            round_trip = network.latency(node, peer) + network.latency(peer, node)
            network.schedule(round_trip, node, self._fail, attempt, "connection refused: no node is running there")
        return True

    def reset(self, node: NodeId, peer: NodeId) -> None:
        """End the attempt of two nodes, if there is one."""
        attempt = self._attempts.get(_pair(node, peer))
        if attempt is not None:
            self._tell_dialler(attempt, "connection reset")

    def leave(self, station: SimTransport, reason: str, *, silently: bool) -> None:
        """A node's transport is gone: end what it began; what others began with it fails, which they are told unless
        it went `silently`."""
        for pair in sorted(self._attempts):
            attempt = self._attempts[pair]
            if attempt.dialler is station:
                self._end(attempt)
            elif attempt.peer == station.node and not silently:
                self._tell_dialler(attempt, reason)

    def _greet(self, attempt: Attempt, acceptor: SimTransport, hello: Hello) -> None:
        """In the acceptor's process: the dialler's Hello has come."""
        if attempt.over or not acceptor.started:
            return
        network, node, dialler = self._network, acceptor.node, attempt.dialler.node
        reason = acceptor.refusal_of(hello)
        if reason is not None:
            acceptor.tell(dialler, reason)
        if not network.passes(node, dialler):
            return
        way = network.latency(node, dialler)
        if reason is None:
            network.schedule(way, dialler, self._answer, attempt, acceptor)
        else:
            network.schedule(way, dialler, self._refused, attempt, f"node '{node}' refuses: {reason}")

    def _refused(self, attempt: Attempt, reason: str) -> None:
        """In the dialler's process: the acceptor does not want it."""
        attempt.dialler.refused += 1
        self._fail(attempt, reason)

    def _answer(self, attempt: Attempt, acceptor: SimTransport) -> None:
        """In the dialler's process: the acceptor has admitted it, and the acceptor's Hello has come."""
        network, dialler = self._network, attempt.dialler
        if attempt.over or network.clock() > attempt.expires:
            return
        node, peer = dialler.node, acceptor.node
        way = network.latency(node, peer) if network.passes(node, peer) else None
        reason = dialler.refusal_of(acceptor.endpoint.hello)
        if reason is not None:
            if way is not None:
                network.schedule(way, peer, acceptor.was_refused, node, f"node '{node}' refuses: {reason}")
            self._fail(attempt, reason)
            return
        end = attempt.end = End(dialler, acceptor)
        end.other = End(acceptor, dialler)
        end.other.other = end
        if way is not None:
            end.last = network.clock() + way  # messages come behind the news that the dialler is up
            network.schedule(way, peer, self._accepted, attempt, end.other)
        dialler.rise(end)

    def _accepted(self, attempt: Attempt, end: End) -> None:
        """In the acceptor's process: the dialler has admitted it."""
        if not attempt.over and not end.broken and end.transport.started:
            self._end(attempt)
            self._network.counts["connected"] += 1
            end.transport.rise(end)

    def _fail(self, attempt: Attempt, reason: str) -> None:
        """In the dialler's process: it has come to nothing."""
        if attempt.over:
            return
        self._end(attempt)
        if attempt.end is not None:
            self._network.drop(attempt.end, reason)  # it is up at this end only
        else:
            attempt.dialler.tell(attempt.peer, reason)
            attempt.dialler.dial_later(attempt.peer)

    def _tell_dialler(self, attempt: Attempt, reason: str) -> None:
        network, node = self._network, attempt.dialler.node
        if network.passes(attempt.peer, node):
            network.schedule(network.latency(attempt.peer, node), node, self._fail, attempt, reason)

    def _end(self, attempt: Attempt) -> None:
        attempt.over = True
        del self._attempts[_pair(attempt.dialler.node, attempt.peer)]


def _pair(node: NodeId, peer: NodeId) -> tuple[NodeId, NodeId]:
    return (node, peer) if node < peer else (peer, node)

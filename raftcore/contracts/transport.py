"""The contract of a transport: one-way messages between nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from raftcore.messages import Hello, Message
from raftcore.types import NodeId, NodeInfo


class Endpoint(Protocol):
    """What a node offers to its transport. Every method is called on the node's event loop and returns at once."""

    hello: Hello
    """What to say first on every connection, and to expect an answer of the same kind to."""

    def admit(self, hello: Hello) -> None:
        """Check a peer's `Hello`. Raises `PeerRefused`, with the reason, when the peer must not be talked to."""
        ...

    def deliver(self, sender: NodeId, message: Message) -> None:
        """Hand over a message from a peer that was admitted."""
        ...

    def peer_up(self, peer: NodeId) -> None:
        """The peer can be reached (again)."""
        ...

    def peer_down(self, peer: NodeId, reason: str) -> None:
        """The peer can't be reached; `reason` is for the operator."""
        ...


class Transport(Protocol):
    """One-way messages between the nodes of one cluster. All methods are called on the event loop.

    Delivery. At most once. Messages that one peer sent over one connection arrive in order; nothing is promised across
    reconnections, and a message may be lost at any time: Raft repairs it. A late message does harm, so don't store
    messages for a peer that is away.

    Handshake. Before the first message each way the two ends exchange their `Hello`; each calls `Endpoint.admit` with
    the other's and, when it raises, tells the peer the reason, closes, counts it and tries again later with back-off.

    Bounds. `send` never waits. What a peer does not take is held up to a limit in bytes that is an option, and dropped
    beyond it (and counted). Every length that a peer controls is checked before memory is allocated for it.

    Errors. A peer's garbage closes that connection, is counted, and never raises into the node. Only `start` may
    raise: `StorageError` is not its business, `ConfigError` is (an address that can't be bound).
    """

    async def start(self, endpoint: Endpoint) -> None:
        """Listen, and begin to call `endpoint`. Raises `ConfigError` when the own address can't be used."""
        ...

    def set_peers(self, nodes: Mapping[NodeId, NodeInfo]) -> None:
        """The members to keep in touch with, the own node left out. Called again whenever the membership changes.

        Peers that are missing here but connected by themselves (a new member that has not yet been told of)
        may still send, and can be sent to over the connection that they opened.
        """
        ...

    def send(self, peer: NodeId, message: Message) -> None:
        """Send, or drop when the peer can't be reached or its queue is full. Never blocks, never raises.

        In one process the object itself may be passed: nobody changes a message. Others use `raftcore.wire`.
        """
        ...

    def counters(self) -> Mapping[str, int]:
        """Growing counts for the operator: messages and bytes each way, dropped, refused peers, bad frames."""
        ...

    async def stop(self) -> None:
        """Close every connection; afterwards `endpoint` is not called again."""
        ...

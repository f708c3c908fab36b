"""The options of the transport over TCP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[transport.options.tls]`: three PEM files. Relative paths lie in the node's data directory."""

    ca: str
    """The certificates of the authorities whose nodes are talked to."""

    certificate: str
    """This node's certificate, with any that lead from it to the authority. Its subject alternative names must
    hold the node's id: as a DNS name, or as the URI ``raftcore:<id>`` when the id is no DNS name."""

    key: str
    """The certificate's private key, not encrypted."""


class TcpOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[transport.options]` of the backend ``tcp``."""

    bind: str = ""
    """Where to listen, as ``host:port``, when that is not the node's address: ``0.0.0.0:7101`` in a container.
    Default: the node's address."""

    tls: TlsFiles | None = None
    """Encrypt, and let only nodes with a certificate of the cluster's authority in. Without it anyone who can
    reach the port can pose as a member. All members must agree."""

    max_frame_bytes: Positive = 32 * 1024 * 1024
    """The largest message that is taken from a peer, and sent to one. Must be larger on every member than one
    message of entries (`raft.max_message_bytes`, or one payload when that is more) or of a snapshot
    (`snapshots.chunk_bytes`)."""

    max_queue_bytes: Positive = 64 * 1024 * 1024
    """What may wait for one peer that takes it slower than it is sent; more is dropped, and Raft sends it again."""

    max_connections: Positive = 256
    """Connections that others may have opened to this node, those that have not said yet who they are included."""

    handshake_timeout_ms: Positive = 5_000
    """How long connecting may take, and once more the handshake."""

    close_timeout_ms: Positive = 1_000
    """How long a connection that is being closed may take to hand over what was sent before."""

    silence_ms: Annotated[int, Meta(ge=1000)] = 10_000
    """A peer whose machine acknowledges nothing for so long is disconnected (where the platform can tell)."""

    reconnect_min_ms: Positive = 50
    """The pause after a first failed attempt to connect; it doubles with every further one. Each is shortened at
    random by up to a half, so that nodes that lost each other do not try in step."""

    reconnect_max_ms: Positive = 5_000
    """The longest pause between two attempts: how late a peer that comes back may be noticed."""

    def __post_init__(self) -> None:
        if self.max_queue_bytes < self.max_frame_bytes:
            raise ValueError(
                f"max_queue_bytes: {self.max_queue_bytes} is less than max_frame_bytes ({self.max_frame_bytes}), so "
                f"that the largest message would never be sent; try {2 * self.max_frame_bytes}"
            )
        if self.reconnect_max_ms < self.reconnect_min_ms:
            raise ValueError(
                f"reconnect_max_ms: {self.reconnect_max_ms} is less than reconnect_min_ms ({self.reconnect_min_ms}); "
                f"try {100 * self.reconnect_min_ms}"
            )

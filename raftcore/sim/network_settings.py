"""What the simulated network does by itself."""

from __future__ import annotations

import msgspec


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults are a good local network. Times are in seconds.

    A *chance* is that of one message, from 0 to 1. The five are drawn in the order of loss, duplication, reordering,
    late, stall, and the first that comes up is all that befalls the message.
    """

    min_latency: float = 0.0001
    """The shortest way from one node to another."""

    median_latency: float = 0.0003
    """Half of the messages take longer than this, with an exponential tail."""

    stall: float = 0.0005
    """The chance that a message, and all behind it, wait for a packet to be sent again."""

    stall_seconds: float = 0.03
    """How much longer that takes, in the mean."""

    loss: float = 0.0
    """The chance that a message gets lost."""

    duplication: float = 0.0
    """The chance that a message comes twice; the second one comes out of order."""

    reordering: float = 0.0
    """The chance that a message is held back while later ones pass."""

    reordering_seconds: float = 0.005
    """How long it is held back, in the mean."""

    late: float = 0.0
    """The chance that a message is held back for long and outlives its connection: it is delivered if the two nodes
    are connected then, be it by a later connection, unless the receiver's process is another one."""

    late_seconds: float = 2.0
    """How long it is held back, in the mean."""

    max_in_flight: int = 10_000
    """How many messages may be under way from one node to another; more are dropped. To a node that is paused, all
    that are sent stay under way."""

    handshake_timeout: float = 1.0
    """How long the node that dials waits for the other's answers."""

    reconnect_min: float = 0.02
    """The pause after a first failed attempt to connect; it doubles with every further one. Each is shortened at
    random by up to a half."""

    reconnect_max: float = 1.0
    """The longest pause between two attempts."""

    silence_min: float = 2.0
    """How soon, at the earliest, an end of a connection gives up because nothing can come back."""

    silence_max: float = 6.0
    """How soon at the latest; drawn for each end."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "late", "stall"):
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise ValueError(f"{name}: {chance} is not a chance; give a number from 0 to 1")
        for low, high in (
            ("min_latency", "median_latency"),
            ("reconnect_min", "reconnect_max"),
            ("silence_min", "silence_max"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if not 0 <= least <= most:
                raise ValueError(
                    f"{low}, {high}: {least} to {most} is no range; give two that are not negative, the lesser first"
                )

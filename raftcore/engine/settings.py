"""The protocol's settings, with what each is for and what goes wrong when it is off."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class RaftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[raft]`. The defaults suit a local network and need no tuning."""

    heartbeat_ms: Positive = 100
    """How often an idle leader shows that it is there. At most a third of the lower election timeout."""

    election_timeout_ms: tuple[Positive, Positive] = (1000, 2000)
    """A member that hears nothing of a leader for a random time in this range asks for an election. Too
    short, and a pause of the garbage collector or the disk costs a leader; too long, and a dead leader is
    noticed late. The lower bound is also how long a member that hears a leader refuses to vote for another
    one, and a leader without a quorum steps down after it."""

    lease_ms: Positive | None = None
    """How long after the sending of a heartbeat that a quorum has answered a lease read is served without
    asking again. Must stay below the lower election timeout by more than clocks drift in that time. Default:
    nine tenths of it."""

    vote_order: Literal["standard", "node"] = "standard"
    """`standard`: one leader a term, as in the paper. `node`: a greater (term, node) still wins within a
    term, so that a split vote needs no new term. All members must use the same."""

    pre_vote: bool = True
    """Ask whether an election could be won before starting it, so that a member that was cut off disturbs nobody."""

    check_quorum: bool = True
    """A leader that has not heard from a quorum for an election timeout steps down. Lease reads need it."""

    max_message_bytes: Positive = 1024 * 1024
    """Payload bytes in one message to a follower; one greater payload still goes, alone."""

    max_inflight_messages: Positive = 64
    """Messages with entries on their way to one follower before the first of them is acknowledged."""

    max_inflight_bytes: Positive = 16 * 1024 * 1024
    """Payload bytes on their way to one follower."""

    max_uncommitted_bytes: Positive = 64 * 1024 * 1024
    """Payload bytes appended by the leader and not yet committed; beyond it proposals are refused as `Overloaded`."""

    cache_bytes: Positive = 64 * 1024 * 1024
    """Payload bytes of the newest entries that are kept in memory; older ones are read from the log store
    when a follower needs them."""

    def __post_init__(self) -> None:
        low, high = self.election_timeout_ms
        if low >= high:
            raise ValueError(
                f"election_timeout_ms: [{low}, {high}] must be a range, the lower bound first; try [{low}, {2 * low}]"
            )
        if 3 * self.heartbeat_ms > low:
            raise ValueError(
                f"heartbeat_ms: {self.heartbeat_ms} is more than a third of the lower election timeout "
                f"({low}); "
                f"a lost heartbeat or two would cost the leader; try {max(1, low // 10)}"
            )
        if self.lease_ms is not None and self.lease_ms >= low:
            raise ValueError(
                f"lease_ms: {self.lease_ms} must be below the lower election timeout ({low}), or a lease read "
                "could "
                f"be stale; try {low * 9 // 10}"
            )
        if not self.check_quorum and self.lease_ms is not None:
            raise ValueError("lease_ms: a lease needs check_quorum = true")

    @property
    def lease_seconds(self) -> float:
        low = self.election_timeout_ms[0]
        return (self.lease_ms if self.lease_ms is not None else low * 0.9) / 1000

"""The protocol's settings, with what each is for and what goes wrong when it is off."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class RaftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[raft]`. The defaults suit a local network and need no tuning."""

    heartbeat_ms: Positive = 100
    """How often an idle leader shows that it is there. At most a third of the lower election timeout. Too
    small costs messages; too large, and what was lost on the way waits longer for its repair."""

    election_timeout_ms: tuple[Positive, Positive] = (1000, 2000)
    """A member that hears nothing of a leader for a random time in this range asks for an election. Too
    short, and a pause of the garbage collector or the disk costs a leader; too long, and a dead leader is
    noticed late. The lower bound is also how long a member that hears a leader refuses to vote for another
    one, and a leader without a quorum steps down after it. Use the same on all members: a lease trusts the
    others to hold still for so long."""

    lease_ms: Positive | None = None
    """How long after the sending of a heartbeat that a quorum has answered a lease read is served without
    asking again. Must stay below the lower election timeout by more than clocks drift in that time; nearer,
    and a lease read can be stale. Default: nine tenths of it."""

    vote_order: Literal["standard", "node"] = "standard"
    """`standard`: one leader a term, as in the paper. `node`: a greater (term, node) still wins within a
    term, so that a split vote needs no new term. All members must use the same: the two rules do not mix."""

    pre_vote: bool = True
    """Ask whether an election could be won before starting it, so that a member that was cut off disturbs
    nobody. Without it, such a member comes back with a higher term and may cost the cluster its leader."""

    check_quorum: bool = True
    """A leader that has not heard from a quorum for an election timeout steps down, and a member that hears a
    leader refuses its vote to others. Lease reads need it. Without it, a leader that is cut off takes
    proposals that it can't commit, and a member that was removed can disturb the others. Use the same on all
    members."""

    max_message_bytes: Positive = 1024 * 1024
    """Payload bytes in one message to a follower, 48 added for each entry; one greater payload still goes,
    alone. Too large, and one message holds up the heartbeats behind it. Must stay below what the transport
    takes (`transport.options.max_frame_bytes`)."""

    max_inflight_messages: Positive = 64
    """Messages with entries on their way to one follower before the first of them is acknowledged; beyond it
    the next entries wait. Too small, and a follower far away is always behind."""

    max_inflight_bytes: Positive = 16 * 1024 * 1024
    """Payload bytes on their way to one follower, 48 added for each entry; beyond it the next entries wait. A
    message that is begun below the limit may exceed it."""

    max_uncommitted_bytes: Positive = 64 * 1024 * 1024
    """Payload bytes appended by the leader and not yet committed, 48 added for each entry; beyond it
    proposals are refused as `Overloaded`. The batch that reaches it is taken whole, so there can be up to
    `limits.max_pending_bytes` more."""

    cache_bytes: Positive = 64 * 1024 * 1024
    """Payload bytes of the newest entries that are kept in memory, 48 added for each entry; older ones are
    read from the log store when a follower needs them. What is not durable on this node yet stays in any
    case. Too small costs reads from the disk."""

    def __post_init__(self) -> None:
        low, high = self.election_timeout_ms
        if low >= high:
            raise ValueError(
                f"election_timeout_ms: [{low}, {high}] must be a range, the lower bound first; try [{low}, {2 * low}]"
            )
        if 3 * self.heartbeat_ms > low:
            raise ValueError(
                f"heartbeat_ms: {self.heartbeat_ms} is more than a third of the lower election timeout ({low}); a "
                f"lost heartbeat or two would cost the leader; try {max(1, low // 10)}"
            )
        if self.lease_ms is not None and self.lease_ms >= low:
            raise ValueError(
                f"lease_ms: {self.lease_ms} must be below the lower election timeout ({low}), or a lease read could "
                f"be stale; try {low * 9 // 10}"
            )
        if not self.check_quorum and self.lease_ms is not None:
            raise ValueError("lease_ms: a lease needs check_quorum = true")

    @property
    def lease_seconds(self) -> float:
        low = self.election_timeout_ms[0]
        return (self.lease_ms if self.lease_ms is not None else low * 0.9) / 1000

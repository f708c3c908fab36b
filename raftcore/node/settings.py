"""The settings of the node around the protocol: its limits, and when it takes snapshots."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[limits]`: how much may wait, and for how long."""

    max_payload_bytes: Positive = 1024 * 1024
    """The largest single proposal; a larger one is refused as `PayloadTooLarge`. Must stay below what the
    transport takes (`transport.options.max_frame_bytes`), or an entry is accepted that never reaches anybody.
    Use the same on all members: the leader checks what a follower passes on."""

    max_batch_bytes: Positive = 8 * 1024 * 1024
    """The payload in bytes of one call of `propose_many`, and of one message in which a follower passes
    proposals to the leader. Must stay below what the transport takes (`transport.options.max_frame_bytes`),
    or what a follower passes on is dropped and ends as `OutcomeUnknown`."""

    max_pending_proposals: Positive = 100_000
    """Proposals that wait for an answer on this node, those that followers have passed on to it included; one
    more is refused as `Overloaded`."""

    max_pending_bytes: Positive = 64 * 1024 * 1024
    """Their payload in bytes; a proposal that does not fit is refused as `Overloaded`."""

    max_pending_reads: Positive = 100_000
    """Reads of this node's callers that wait, to be confirmed or for this node to have applied far enough;
    one more is refused as `Overloaded`."""

    proposal_timeout_ms: Positive = 10_000
    """A proposal that has no answer by then ends as `OutcomeUnknown`, or as `NotAppended` when no leader took
    it. It bounds changes of membership and transfers too. Below the upper election timeout, every change of
    leader shows as errors."""

    read_timeout_ms: Positive = 5_000
    """A read that can't be served by then ends as `ReadUnavailable`."""

    apply_batch_bytes: Positive = 4 * 1024 * 1024
    """Payload bytes handed to the state machine at a time while the node catches up, 48 added for each entry.
    Too large, and queries and snapshots wait behind it; so does the event loop, with a state machine that is
    called on it."""

    storage_stall_ms: Positive = 1_000
    """A write to the log that took longer is reported to observers as `storage_stalled` when it is done.
    Nothing else follows."""

    shutdown_ms: Positive = 5_000
    """How long closing waits for leadership to be handed over before it goes on without; the others then wait
    for an election timeout."""


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to take snapshots and what to keep; the table `[snapshots]` without its `backend` and `options`."""

    every_entries: NotNegative = 10_000
    """Take one after so many applied entries; 0 means never by itself, only when asked, and then the log
    grows without end. Too small, and the node is busy with snapshots; too large, and the log is long, and so
    is a start."""

    keep: Positive = 3
    """How many snapshots to keep. With one, there is none to go back to when it is damaged."""

    trailing_entries: NotNegative = 5_000
    """How many entries that the newest snapshot covers stay in the log, so that a follower that is a little behind
    needs no snapshot."""

    chunk_bytes: Positive = 256 * 1024
    """The size of one message of a snapshot on its way to a follower. Each waits for the answer to the one
    before, so small ones are slow over a long way. Must stay below what the transport takes
    (`transport.options.max_frame_bytes`)."""

    idle_timeout_ms: Positive = 10_000
    """A transfer without any progress for so long is given up and begun again later, from where it stood. A
    follower throws away what it has of a snapshot when nothing more of it came for three times as long."""

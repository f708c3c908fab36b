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
    """The largest single proposal; a larger one is refused as `PayloadTooLarge`."""

    max_pending_proposals: Positive = 100_000
    """Proposals of this node's callers that wait for an answer; one more is refused as `Overloaded`."""

    max_pending_bytes: Positive = 64 * 1024 * 1024
    """Their payload in bytes."""

    max_pending_reads: Positive = 100_000
    """Reads of this node's callers that wait to be confirmed; one more is refused as `Overloaded`."""

    proposal_timeout_ms: Positive = 10_000
    """A proposal that has no answer by then ends as `OutcomeUnknown`, or as `NotAppended` when it never left
    the queue."""

    read_timeout_ms: Positive = 5_000
    """A read that can't be confirmed by then ends as `ReadUnavailable`."""

    apply_batch_bytes: Positive = 4 * 1024 * 1024
    """Payload bytes handed to one `StateMachine.apply` while the node catches up."""

    storage_stall_ms: Positive = 1_000
    """A write to the log that takes longer is reported to observers as `storage_stalled`."""

    shutdown_ms: Positive = 5_000
    """How long closing waits for leadership to be handed over before it goes on without."""


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to take snapshots and what to keep; the table `[snapshots]` without its `backend` and `options`."""

    every_entries: NotNegative = 10_000
    """Take one after so many applied entries; 0 means never by itself, only when asked."""

    keep: Positive = 3
    """How many snapshots to keep."""

    trailing_entries: NotNegative = 5_000
    """How many entries that the newest snapshot covers stay in the log, so that a follower that is a little behind
    needs no snapshot."""

    chunk_bytes: Positive = 256 * 1024
    """The size of one message of a snapshot on its way to a follower."""

    idle_timeout_ms: Positive = 10_000
    """A transfer without any progress for so long is given up and begun again later, from where it stood."""

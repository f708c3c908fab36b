"""Snapshots between nodes (paper §7): when a follower needs one, and what installing it means for log and commit.

Bytes are the node's affair; here is what they mean.

Rules
1. A snapshot that reaches no further than what is committed here changes nothing, and is answered as
   installed.
2. Neither term nor vote come from a snapshot.
3. When the log holds the snapshot's last entry, what follows it is kept; otherwise the whole log gives way
   (§7).
4. The membership in a snapshot is whole and takes the place of everything up to its last entry.
5. Entries are purged only below the newest durable snapshot, and not beyond one that a follower is being
   sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine import election, membership, replication
from raftcore.engine.output import ChunkArrived, SnapshotAnswered, SnapshotWanted
from raftcore.engine.progress import Progress, State
from raftcore.errors import InvariantViolation
from raftcore.messages import SnapshotChunk, SnapshotReply, SnapshotStatus
from raftcore.types import LogId, NodeId, SnapshotMeta

if TYPE_CHECKING:
    from raftcore.engine.engine import Engine


# -- the leader ---------------------------------------------------------------------------------------------------


def offer(engine: Engine, peer: NodeId, progress: Progress) -> None:
    """The log no longer reaches back to where `peer` is: it needs the newest snapshot."""
    progress.snapshot(engine.snapshot_last.index)
    engine.events.append(SnapshotWanted(peer))


def on_reply(engine: Engine, sender: NodeId, reply: SnapshotReply, now: float) -> None:
    """A follower reports: contact in any case, and entries can follow once it is installed."""
    known = replication.answered(engine, sender, reply)
    if known is None:
        return
    lead, progress = known
    if progress.acknowledged(reply.match):
        lead.acknowledged(sender, reply.match)
    if progress.state is State.SNAPSHOT and reply.status is SnapshotStatus.INSTALLED:
        progress.probe(progress.match + 1)
    engine.events.append(SnapshotAnswered(sender, reply))


def purgeable(engine: Engine, trailing: int) -> LogId | None:
    """How far the log may be purged now, keeping `trailing` entries behind the snapshot; None: not at all (rule 5)."""
    # A snapshot from the leader may be durable before the entries that it covers are.
    index = min(engine.snapshot_last.index - trailing, engine.log.durable)
    if engine.leadership is not None:
        for progress in engine.leadership.progress.values():
            if progress.state is State.SNAPSHOT:
                index = min(index, progress.snapshot_index)
    return engine.log.id_at(index) if index > engine.log.base.index else None


def saved(engine: Engine, last: LogId) -> None:
    """A snapshot up to `last` is durable on this node."""
    if last.index > engine.commit:
        raise InvariantViolation(f"snapshot up to {last.index}, but only {engine.commit} is committed")
    engine.snapshot_last = max(engine.snapshot_last, last)


# -- the follower -------------------------------------------------------------------------------------------------


def on_chunk(engine: Engine, sender: NodeId, message: SnapshotChunk, now: float) -> None:
    """Part of a snapshot from the leader: hand it to the node if it brings anything new."""
    meta = message.meta
    if not election.follow(engine, sender, message.vote, message.round, now):
        engine.send.append((sender, SnapshotReply(engine.vote, message.round, meta.id, SnapshotStatus.FAILED, 0)))
    elif meta.last.index <= engine.commit:
        engine.reply_when_vote_durable(sender, installed_reply(engine, meta, message.round))  # rule 1
    else:
        engine.events.append(ChunkArrived(sender, message))


def installed_reply(engine: Engine, meta: SnapshotMeta, round: int) -> SnapshotReply:
    """The snapshot is in place, or was not needed; what is committed here and durable agrees with every
    leader's log."""
    match = min(engine.commit, engine.log.durable)
    return SnapshotReply(engine.vote, round, meta.id, SnapshotStatus.INSTALLED, meta.size, match)


def installed(engine: Engine, meta: SnapshotMeta) -> None:
    """The snapshot is durable here and the state machine holds it: make log, commit and membership follow."""
    engine.installing = None
    engine.deadline_moved = True
    last = meta.last
    engine.snapshot_last = max(engine.snapshot_last, last)
    if last.index <= engine.commit:
        return
    if engine.log.leader_at(last.index) != last.leader:
        engine.log.reset(last)
        engine.history = membership.History([(meta.membership_at, meta.membership)], last.index)
        membership.in_force(engine, jumped=True)
    engine.commit_to(last.index)

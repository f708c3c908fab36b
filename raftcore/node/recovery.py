"""Starting: read what the disk holds, and refuse what can't be true before anything is said to anyone.

Order
1. The state machine comes to at least the newest readable snapshot (a volatile one starts there).
2. The log must begin at or before the end of the state; a gap between them is lost data.
3. The whole log is read once: no holes, checksums right, leaders never decreasing.
4. A log that ends before the newest snapshot, or holds another entry where it ends, gives way to it: the
   snapshot is committed.
5. The state machine must not be ahead of the log, nor disagree with it about an entry.
6. Everything that a snapshot covers, that was applied, or that the store's hint says, is committed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from raftcore.contracts import LogState, LogStore, SnapshotSink, StateMachine, WriteBatch
from raftcore.engine.log import Log
from raftcore.errors import CorruptData
from raftcore.node.storage import Worker
from raftcore.types import (
    NO_LOG,
    NO_MEMBERSHIP,
    Entries,
    EntryKind,
    LeaderId,
    LogId,
    Membership,
    SnapshotMeta,
    Vote,
)
from raftcore.wire import decode_membership

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("raftcore.recovery")

SCAN_BYTES = 4 * 1024 * 1024
PROGRESS_EVERY = 1_000_000
# Never "restore the log from a backup": an older log has forgotten votes and acknowledgements that others rely on.
ADD_ANEW = "set its data directory aside, remove this member from the cluster and add it anew with an empty one"
RESTORE_SNAPSHOTS = "restore the snapshots from a backup, or remove this member and add it anew with an empty directory"


class Recovered(msgspec.Struct):
    """What the disk says, found consistent."""

    vote: Vote
    log: Log
    memberships: list[tuple[LogId, Membership]]
    commit: int
    applied: LogId
    snapshots: list[SnapshotMeta]

    def membership_at(self, index: int) -> tuple[LogId, Membership]:
        """What was in force after the entry at `index`."""
        found = (NO_LOG, NO_MEMBERSHIP)
        for log_id, membership in self.memberships:
            if log_id.index <= index:
                found = (log_id, membership)
        return found


class _Scan:
    """The log as it is read: who led when, the memberships in it, and its newest runs."""

    def __init__(self, purged: LogId, cache_bytes: int) -> None:
        self.end = purged
        self.leaders: list[tuple[int, LeaderId]] = []
        self.memberships: list[tuple[LogId, Membership]] = []
        self.tail: list[Entries] = []
        self._cached = 0
        self._cache_bytes = cache_bytes

    def add(self, run: Entries) -> None:
        if run.first_index != self.end.index + 1:
            raise CorruptData(
                f"log store: entry {self.end.index + 1} is missing, the next one is {run.first_index}; {ADD_ANEW}"
            )
        if run.leader < self.end.leader:
            raise CorruptData(
                f"log store: entry {run.first_index} is of {run.leader}, behind an entry of {self.end.leader}; "
                f"entries of different logs are mixed; {ADD_ANEW}"
            )
        if not self.leaders or run.leader != self.end.leader:
            self.leaders.append((run.first_index, run.leader))
        if run.kind is EntryKind.MEMBERSHIP:
            self.memberships.append((run.last_id, decode_membership(run.payloads[0])))
        self.end = run.last_id
        self.tail.append(run)
        self._cached += run.weight
        if self._cached > 2 * self._cache_bytes:
            while self._cached > self._cache_bytes:
                self._cached -= self.tail.pop(0).weight


async def recover(
    store: LogStore,
    store_worker: Worker,
    machine: StateMachine,
    machine_worker: Worker,
    sink: SnapshotSink,
    sink_worker: Worker,
    cache_bytes: int,
) -> Recovered:
    """Open all three and bring them to one state. Raises `StorageError`, mostly `CorruptData`, naming what
    contradicts what."""
    state = await store_worker.run(store.open)
    await sink_worker.run(sink.start)
    snapshots = await sink_worker.run(sink.list)
    opened = await (machine_worker.run(machine.open) if machine.blocking else _now(machine.open))
    applied = opened or NO_LOG
    if snapshots and snapshots[0].last.index > applied.index:
        applied = await machine_worker.run(_restore_newest, machine, sink, snapshots, state.purged.index, applied)
    if state.purged.index > applied.index:
        raise CorruptData(
            f"the log begins behind entry {state.purged.index}, but the state ends at {applied.index} and no snapshot "
            f"covers what is between; {RESTORE_SNAPSHOTS}"
        )
    if state.purged.index and not (snapshots and snapshots[0].last.index >= state.purged.index):
        # Who the members are may have been said in the purged entries, so an older snapshot will not do.
        raise CorruptData(
            f"the log begins behind entry {state.purged.index}, but there is no snapshot that reaches there; it held "
            f"who the members are: {RESTORE_SNAPSHOTS}"
        )
    scan = await _scan(store, store_worker, state, cache_bytes)
    newest = snapshots[0].last if snapshots else NO_LOG
    if newest.index > state.purged.index and _id_at(scan, state.purged, newest.index) != newest:
        logger.info(
            "the log (%d..%d) gives way to the snapshot at %d", state.purged.index + 1, scan.end.index, newest.index
        )
        await store_worker.run(store.write, WriteBatch(reset=newest, committed=newest.index))
        state, scan = LogState(state.vote, newest, newest, newest.index), _Scan(newest, cache_bytes)
    _agree(applied, state, scan)
    log = Log(state.purged, scan.end, scan.leaders, cache_bytes)
    log.remember(scan.tail)
    memberships = [(snapshots[0].membership_at, snapshots[0].membership)] if snapshots else []
    set_at = memberships[0][0].index if memberships else 0
    memberships += [entry for entry in scan.memberships if entry[0].index > set_at]
    commit = max(min(state.committed, scan.end.index), applied.index, newest.index)
    return Recovered(state.vote, log, memberships, commit, applied, snapshots)


async def _now(call: object) -> LogId | None:
    return call()  # type: ignore[operator,no-any-return]  # a state machine's open, called on the loop


def _restore_newest(
    machine: StateMachine, sink: SnapshotSink, snapshots: list[SnapshotMeta], purged: int, applied: LogId
) -> LogId:
    """Restore the newest snapshot that can be read; an older one serves as long as the log still reaches back to it."""
    failure: CorruptData | None = None
    for meta in list(snapshots):
        if meta.last.index <= applied.index or meta.last.index < purged:
            break
        try:
            machine.restore(meta, verified(meta, sink.open(meta.id)))
        except CorruptData as error:
            logger.error("snapshot %s is damaged: %s; trying an older one", meta.id, error)
            failure = failure or error
            snapshots.remove(meta)
            continue
        return meta.last
    if failure is not None and purged > applied.index:
        raise failure
    return applied


def verified(meta: SnapshotMeta, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks, the last of which is handed over only when size and digest of the whole are right. Raises
    `CorruptData`."""
    import hashlib

    digest, size, held = hashlib.sha256(), 0, b""
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if held:
            yield held
        held = chunk
    if size != meta.size or digest.hexdigest() != meta.digest:
        raise CorruptData(
            f"snapshot {meta.id}: {size} bytes with SHA-256 {digest.hexdigest()[:12]}…, its manifest says {meta.size} "
            f"bytes with {meta.digest[:12]}…; delete it so that an older one, or the leader's, is used"
        )
    if held:
        yield held


async def _scan(store: LogStore, worker: Worker, state: LogState, cache_bytes: int) -> _Scan:
    scan, reported = _Scan(state.purged, cache_bytes), state.purged.index
    while scan.end.index < state.last.index:
        runs = await worker.run(store.read, scan.end.index + 1, state.last.index + 1, SCAN_BYTES)
        if not runs:
            raise CorruptData(
                f"log store: it ends at {scan.end.index} when read, but says that it ends at {state.last.index}"
            )
        for run in runs:
            scan.add(run)
        if scan.end.index - reported >= PROGRESS_EVERY:
            reported = scan.end.index
            logger.info("read the log up to %d of %d", reported, state.last.index)
    if scan.end != state.last:
        raise CorruptData(f"log store: its last entry is {scan.end}, but it says that it is {state.last}")
    return scan


def _id_at(scan: _Scan, purged: LogId, index: int) -> LogId | None:
    if index == purged.index:
        return purged
    if not purged.index < index <= scan.end.index:
        return None
    return LogId([leader for first, leader in scan.leaders if first <= index][-1], index)


def _agree(applied: LogId, state: LogState, scan: _Scan) -> None:
    """The state machine against the log."""
    if applied.index > scan.end.index:
        raise CorruptData(
            f"the state machine has applied entry {applied.index}, but the log ends at {scan.end.index}: the log has "
            f"lost entries that were acknowledged; {ADD_ANEW}"
        )
    held = _id_at(scan, state.purged, applied.index) if applied.index >= state.purged.index else None
    if held is not None and held != applied and applied.index:
        raise CorruptData(
            f"the state machine has applied entry {applied.index} of {applied.leader}, but the log holds one of "
            f"{held.leader} there; the two are not of the same node; correct the paths, or {ADD_ANEW}"
        )

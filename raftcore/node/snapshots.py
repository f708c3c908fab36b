"""The snapshot worker: builds snapshots while applies go on, prunes, purges the log, sends to and receives
from other members.

A build takes its view between two applies and writes it chunk by chunk in a thread. A transfer goes one chunk
at a time, each answered with the offset that the follower wants next, so that a lost message is sent again
and a lost connection resumes where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING

from raftcore.contracts import SnapshotSink, SnapshotWriter
from raftcore.engine.progress import State
from raftcore.engine.snapshots import installed_reply
from raftcore.errors import CorruptData, NodeStopped
from raftcore.messages import SnapshotChunk, SnapshotReply, SnapshotStatus
from raftcore.node.batch import copy_of
from raftcore.node.recovery import verified
from raftcore.types import LogId, NodeId, SnapshotMeta

if TYPE_CHECKING:
    from raftcore.contracts import Transport
    from raftcore.engine import Engine
    from raftcore.node.apply import Applier
    from raftcore.node.settings import SnapshotPolicy
    from raftcore.node.storage import Worker

logger = logging.getLogger("raftcore.snapshots")

RESEND_SECONDS = 1.0
"""A chunk without an answer is sent again after this time, until the idle timeout."""


class Incoming:
    """A snapshot that is being received: what has arrived so far."""

    def __init__(self, meta: SnapshotMeta, writer: SnapshotWriter) -> None:
        self.meta = meta
        self.writer = writer
        self.offset = 0
        self.digest = hashlib.sha256()

    def take(self, data: bytes) -> None:
        """Write the next bytes (in a thread)."""
        self.writer.write(data)
        self.digest.update(data)
        self.offset += len(data)

    def finish(self) -> None:
        """Verify and commit (in a thread). Raises `CorruptData`."""
        if self.offset != self.meta.size or self.digest.hexdigest() != self.meta.digest:
            self.writer.abort()
            raise CorruptData(
                f"snapshot {self.meta.id} arrived with {self.offset} bytes and SHA-256 "
                f"{self.digest.hexdigest()[:12]}…, sent were {self.meta.size} bytes with {self.meta.digest[:12]}…"
            )
        self.writer.commit(self.meta)


class Snapshots:
    """All snapshot work of one node. `known`: the committed snapshots, newest first."""

    def __init__(
        self,
        sink: SnapshotSink,
        worker: Worker,
        policy: SnapshotPolicy,
        engine: Engine,
        applier: Applier,
        transport: Transport,
        known: list[SnapshotMeta],
        spawn: Callable[[Coroutine[object, object, None]], object],
        purge: Callable[[LogId], None],
        wake: Callable[[], None],
        notify: Callable[[str, dict[str, object]], None],
    ) -> None:
        self.known = known
        self._sink = sink
        self._worker = worker
        self._policy = policy
        self._engine = engine
        self._applier = applier
        self._transport = transport
        self._spawn = spawn
        self._purge = purge
        self._wake = wake
        self._notify = notify
        self._building = False
        self._ended: NodeStopped | None = None
        self._waiting: list[asyncio.Future[SnapshotMeta]] = []
        self._wanted_again: list[asyncio.Future[SnapshotMeta]] = []
        self._answers: dict[NodeId, asyncio.Queue[SnapshotReply]] = {}
        self._pinned: dict[str, int] = {}
        self._chunks: asyncio.Queue[tuple[NodeId, SnapshotChunk]] = asyncio.Queue(maxsize=16)
        self._incoming: Incoming | None = None
        spawn(self._receive())

    # -- building -----------------------------------------------------------------------------------------------------

    def after_apply(self) -> None:
        """Begin a snapshot if the policy says that it is time."""
        every, last = self._policy.every_entries, self._engine.snapshot_last.index
        if every and self._applier.applied.index - last >= every:
            self._begin_build()

    def trigger(self) -> asyncio.Future[SnapshotMeta]:
        """Take a snapshot now; one that is being taken already does not count, since it may be older than
        what the caller saw."""
        future: asyncio.Future[SnapshotMeta] = asyncio.get_running_loop().create_future()
        if self._ended is not None:
            future.set_exception(copy_of(self._ended))
        else:
            self._wanted_again.append(future)
            self._begin_build()
        return future

    def _begin_build(self) -> None:
        if not self._building:
            self._building = True
            self._spawn(self._build())

    async def _build(self) -> None:
        try:
            while True:
                self._waiting, self._wanted_again = self._wanted_again, []
                meta = await self._build_one()
                for future in self._waiting:
                    if not future.done():
                        future.set_result(meta)
                if not self._wanted_again:
                    break
        finally:
            self._building = False
        await self.prune()

    def end(self, reason: NodeStopped) -> None:
        """The node stops: nobody gets a snapshot any more."""
        self._ended = reason
        for future in self._waiting + self._wanted_again:
            if not future.done():
                future.set_exception(copy_of(reason))

    async def _build_one(self) -> SnapshotMeta:
        meta, view = await self._applier.exclusive(self._view)
        if self.known and self.known[0].last == meta.last:
            _close(view)
            return self.known[0]
        started = asyncio.get_running_loop().time()
        meta = await self._written(meta, view)
        self._remember(meta)
        self._engine.snapshot_saved(meta.last)
        seconds = asyncio.get_running_loop().time() - started
        self._notify(
            "snapshot_saved", {"id": meta.id, "index": meta.last.index, "bytes": meta.size, "seconds": seconds}
        )
        return meta

    def _view(self) -> tuple[SnapshotMeta, Iterator[bytes]]:
        last, (membership_at, membership) = self._applier.applied, self._applier.membership
        # A node reaches each entry once, so this id never names two streams of bytes.
        name = f"{last.index:020d}-{last.leader.term:010d}-{self._engine.node}"
        return SnapshotMeta(name, last, membership, membership_at), self._applier.machine.snapshot()

    async def _written(self, meta: SnapshotMeta, view: Iterator[bytes]) -> SnapshotMeta:
        writer = await self._worker.run(self._sink.begin, meta)
        digest, size = hashlib.sha256(), 0

        def write_next() -> int | None:
            chunk = next(view, None)
            if chunk is None:
                return None
            digest.update(chunk)
            writer.write(chunk)
            return len(chunk)

        try:
            while (written := await self._worker.run(write_next)) is not None:
                size += written
        except BaseException:
            await self._worker.run(writer.abort)
            raise
        finally:
            await self._worker.run(_close, view)
        finished = SnapshotMeta(
            meta.id, meta.last, meta.membership, meta.membership_at, size, digest.hexdigest(), meta.format
        )
        await self._worker.run(writer.commit, finished)
        return finished

    def _remember(self, meta: SnapshotMeta) -> None:
        # One from the leader may have come, and gone further, while one was being built here.
        self.known.append(meta)
        self.known.sort(key=lambda known: known.last, reverse=True)

    async def prune(self) -> None:
        """Delete what is beyond `keep` and not being sent, and purge what of the log the newest snapshot
        makes needless."""
        needless = [meta for meta in self.known[self._policy.keep :] if not self._pinned.get(meta.id)]
        for meta in needless:  # all of them before the first wait: others may prune meanwhile
            self.known.remove(meta)
        for meta in needless:
            await self._worker.run(self._sink.delete, meta.id)
        upto = self._engine.purgeable(self._policy.trailing_entries)
        if upto is not None:
            self._purge(upto)

    # -- sending ------------------------------------------------------------------------------------------------------

    def send_to(self, peer: NodeId) -> None:
        """Bring `peer` the newest snapshot, until it has it or this node no longer leads."""
        if peer not in self._answers:
            self._answers[peer] = asyncio.Queue(maxsize=16)
            self._spawn(self._send(peer))

    def answered(self, peer: NodeId, reply: SnapshotReply) -> None:
        """A follower reports on a snapshot. A report too many is dropped: chunks are sent again, and answered again."""
        answers = self._answers.get(peer)
        if answers is not None and not answers.full():
            answers.put_nowait(reply)

    async def _send(self, peer: NodeId) -> None:
        try:
            while self._needs_snapshot(peer):
                meta = self.known[0] if self.known else await self.trigger()
                self._pinned[meta.id] = self._pinned.get(meta.id, 0) + 1
                # Each attempt takes the newest, so a follower that is gone does not hold the log back for ever.
                self._engine.snapshot_begins(peer, meta.last)
                try:
                    done = await self._send_one(peer, meta)
                except CorruptData as error:
                    logger.error("snapshot for %s can't be read: %s; taking another", peer, error)
                    await self._drop(meta)
                    done = False
                finally:
                    self._pinned[meta.id] -= 1
                if done:
                    self._notify("snapshot_sent", {"peer": peer, "id": meta.id, "index": meta.last.index})
                elif self._needs_snapshot(peer):
                    await asyncio.sleep(RESEND_SECONDS)
        finally:
            del self._answers[peer]
        await self.prune()

    async def _drop(self, damaged: SnapshotMeta) -> None:
        """Put a new snapshot in the place of one that can't be read."""
        if damaged in self.known:
            self.known.remove(damaged)
        await self.trigger()

    def _needs_snapshot(self, peer: NodeId) -> bool:
        lead = self._engine.leadership
        progress = lead.progress.get(peer) if lead is not None else None
        return progress is not None and progress.state is State.SNAPSHOT

    async def _send_one(self, peer: NodeId, meta: SnapshotMeta) -> bool:
        """Send one snapshot from where the follower wants it. False when it stalled, failed, or is needed no more."""
        answers = self._answers[peer]
        position, chunks = 0, _Reader(self._sink, meta, 0, self._policy.chunk_bytes)
        data = await self._worker.run(chunks.next)
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        while self._needs_snapshot(peer):
            lead = self._engine.leadership
            if lead is None:
                return False
            done = position + len(data) >= meta.size
            self._transport.send(peer, SnapshotChunk(self._engine.vote, lead.round, meta, position, data, done))
            reply = await self._answer(answers, meta.id, position)
            if reply is None:
                if loop.time() - idle_since >= self._policy.idle_timeout_ms / 1000:
                    return False
                continue
            if reply.status is not SnapshotStatus.WANT:
                return reply.status is SnapshotStatus.INSTALLED
            idle_since = loop.time()
            if reply.offset != position + len(data):
                chunks = _Reader(self._sink, meta, reply.offset, self._policy.chunk_bytes)
            position = reply.offset
            data = await self._worker.run(chunks.next)
        return False

    async def _answer(self, answers: asyncio.Queue[SnapshotReply], id: str, sent: int) -> SnapshotReply | None:
        """The answer to the chunk at offset `sent`. One that asks for that offset was given before the chunk arrived;
        sending the chunk again for it would double every message from then on."""
        try:
            async with asyncio.timeout(RESEND_SECONDS):
                while True:
                    reply = await answers.get()
                    if reply.snapshot == id and (reply.status is not SnapshotStatus.WANT or reply.offset != sent):
                        return reply
        except TimeoutError:
            return None

    # -- receiving ----------------------------------------------------------------------------------------------------

    def arrived(self, sender: NodeId, chunk: SnapshotChunk) -> None:
        """A chunk from the leader. One too many is dropped: it is sent again."""
        if not self._chunks.full():
            self._chunks.put_nowait((sender, chunk))

    async def _receive(self) -> None:
        try:
            while True:
                sender, chunk = await self._next_chunk()
                reply = await self._take(sender, chunk)
                if reply is not None:
                    self._engine.reply_when_vote_durable(sender, reply)
                    self._wake()
        finally:
            await self._abandon()

    async def _next_chunk(self) -> tuple[NodeId, SnapshotChunk]:
        while self._incoming is not None:
            try:
                async with asyncio.timeout(self._policy.idle_timeout_ms / 1000 * 3):
                    return await self._chunks.get()
            except TimeoutError:
                await self._abandon()
        return await self._chunks.get()

    async def _abandon(self) -> None:
        if self._incoming is not None:
            incoming, self._incoming = self._incoming, None
            await self._worker.run(incoming.writer.abort)

    async def _take(self, sender: NodeId, chunk: SnapshotChunk) -> SnapshotReply | None:
        engine, meta = self._engine, chunk.meta
        if meta.last.index <= engine.commit:
            return installed_reply(engine, meta, chunk.round)
        if self._incoming is None or self._incoming.meta.id != meta.id:
            await self._abandon()
            self._incoming = Incoming(meta, await self._worker.run(self._sink.begin, meta))
        incoming = self._incoming
        if chunk.offset == incoming.offset:
            await self._worker.run(incoming.take, chunk.data)
            if chunk.done:
                return await self._install(sender, incoming, chunk.round)
        return SnapshotReply(engine.vote, chunk.round, meta.id, SnapshotStatus.WANT, incoming.offset)

    async def _install(self, sender: NodeId, incoming: Incoming, round: int) -> SnapshotReply:
        engine, meta = self._engine, incoming.meta
        self._incoming = None
        try:
            await self._worker.run(incoming.finish)
        except CorruptData as error:
            logger.warning("%s from %s; it is sent again", error, sender)
            return SnapshotReply(engine.vote, round, meta.id, SnapshotStatus.FAILED, 0)
        self._remember(meta)
        engine.installing = meta.id
        await self._applier.exclusive(lambda: self._restore(meta), long=True)
        engine.snapshot_installed(meta)
        self._notify(
            "snapshot_installed", {"id": meta.id, "index": meta.last.index, "bytes": meta.size, "from": sender}
        )
        await self.prune()
        return installed_reply(engine, meta, round)

    def _restore(self, meta: SnapshotMeta) -> None:
        """Bring the state machine to the snapshot (in its thread), unless applies have gone past it meanwhile."""
        if self._applier.applied.index >= meta.last.index:
            return
        self._applier.machine.restore(meta, verified(meta, self._sink.open(meta.id)))
        self._applier.applied = meta.last
        self._applier.membership = (meta.membership_at, meta.membership)


class _Reader:
    """A snapshot's stream from an offset on, in pieces of one size (used in a thread)."""

    def __init__(self, sink: SnapshotSink, meta: SnapshotMeta, offset: int, piece: int) -> None:
        self._sink, self._meta, self._offset, self._piece = sink, meta, offset, piece
        self._chunks: Iterator[bytes] | None = None
        self._buffer = bytearray()

    def next(self) -> bytes:
        """The next piece; empty at the end."""
        if self._chunks is None:
            self._chunks = self._sink.open(self._meta.id, self._offset)
        while len(self._buffer) < self._piece:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        data = bytes(self._buffer[: self._piece])
        del self._buffer[: self._piece]
        return data


def _close(view: Iterator[bytes]) -> None:
    """A view that is a generator may hold something open."""
    close = getattr(view, "close", None)
    if close is not None:
        close()

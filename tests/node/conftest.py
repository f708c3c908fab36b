"""What the tests of the node share: clusters in memory, and plugins that do what a test tells them to.

A cluster begins with n1 as its leader, so tests need not look for it. Nodes are real, on a real event loop; `run`
looks after each test that nothing is left on the loop and that no callback failed unseen.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.memory_snapshots import MemorySnapshots, MemorySnapshotWriter
from raftcore.backends.memory_transport import Hub, MemoryTransport
from raftcore.contracts import Event, WriteBatch
from raftcore.engine import RaftSettings
from raftcore.messages import Message
from raftcore.node import Limits, Node, SnapshotPolicy, Status
from raftcore.types import NO_LOG, Entries, LogId, SnapshotMeta

SECONDS = 15.0


class Gate:
    """Lets calls through while it is open; `waiting` counts those that stand before it. For threads."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.waiting = 0

    def close(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.waiting += 1
        assert self._open.wait(SECONDS)
        self.waiting -= 1


class Journal:
    """A state machine that keeps every payload in order and answers with it and a mark.

    `kept`: the state; `durable`: a list that stands for the disk of a durable one. `runs`: (first, last) of each apply.
    `overlaps`: calls that ran beside another. A payload ``b"raise"`` fails, ``b"short"`` gets one answer too few.
    """

    def __init__(self, *, blocking: bool = False, durable: list[tuple[LogId, list[bytes]]] | None = None) -> None:
        self.blocking = blocking
        self.durable = durable
        self.kept: list[bytes] = []
        self.last = NO_LOG
        self.runs: list[tuple[int, int]] = []
        self.restored: list[int] = []
        self.calls: list[str] = []
        self.overlaps = 0
        self.gate = Gate()
        self.view_gate = Gate()
        self.restore_gate = Gate()
        self.views_closed = 0
        self.view_failure: Exception | None = None
        self._inside = False

    def open(self) -> LogId | None:
        self.calls.append("open")
        if self.durable is None:
            return None
        if self.durable:
            self.last, self.kept = self.durable[-1][0], list(self.durable[-1][1])
        return self.last

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        with self.alone():
            if self.blocking:
                self.gate.pass_through()
            if b"raise" in run.payloads:
                raise ValueError("told to")
            self.kept += run.payloads
            self.last = run.last_id
            self.runs.append((run.first_index, run.last_index))
            self._store()
            answers = [payload + b"!" for payload in run.payloads]
            return answers[1:] if b"short" in run.payloads else answers

    def alone(self) -> Self:
        return self

    def __enter__(self) -> None:
        self.overlaps += self._inside
        self._inside = True

    def __exit__(self, *error: object) -> None:
        self._inside = False

    def snapshot(self) -> Iterator[bytes]:
        with self.alone():
            kept = list(self.kept)
        return self._view(kept)

    def _view(self, kept: list[bytes]) -> Iterator[bytes]:
        try:
            for payload in [b"", *kept]:
                self.view_gate.pass_through()
                if self.view_failure is not None:
                    raise self.view_failure
                yield msgspec.msgpack.encode(payload)
        finally:
            self.views_closed += 1

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        with self.alone():
            self.restore_gate.pass_through()
            data = b"".join(chunks)
            kept: list[bytes] = []
            while data:
                # Each payload is a msgpack byte string of less than 256 bytes: marker, length, bytes.
                kept.append(data[2 : 2 + data[1]])
                data = data[2 + data[1] :]
            self.kept, self.last = kept[1:], meta.last
            self.restored.append(meta.last.index)
            self._store()

    def _store(self) -> None:
        if self.durable is not None:
            self.durable[:] = [(self.last, list(self.kept))]

    def close(self) -> None:
        self.calls.append("close")


class ControlledLog(MemoryLog):
    """A log in memory that is called in a thread, like one on a disk.

    `gate`: writes wait before it, and are durable only behind it. `delay`: seconds that a write takes. `fail_on`: which
    call of `write` fails. `most_at_once`: how many calls there were at the same time.
    """

    def __init__(self, *, blocking: bool = True) -> None:
        super().__init__()
        self.blocking = blocking
        self.gate = Gate()
        self.read_gate = Gate()
        self.delay = 0.0
        self.fail_on: int | None = None
        self.fail_purge = False
        self.fail_read = False
        self.batches: list[WriteBatch] = []
        self.reads: list[tuple[int, int]] = []
        self.most_at_once = self._inside = 0
        self.calls: list[str] = []

    def write(self, batch: WriteBatch) -> None:
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        self.gate.pass_through()
        threading.Event().wait(self.delay) if self.delay else None
        self.batches.append(batch)
        self._inside -= 1
        if len(self.batches) == self.fail_on:
            raise OSError(5, "input/output error")
        super().write(batch)

    def read(self, start: int, stop: int, max_bytes: int) -> list[Entries]:
        self.reads.append((start, stop))
        self.read_gate.pass_through()
        if self.fail_read:
            raise OSError(5, "input/output error")
        return super().read(start, stop, max_bytes)

    def purge(self, upto: LogId) -> None:
        if self.fail_purge:
            raise OSError(5, "input/output error")
        super().purge(upto)

    def close(self) -> None:
        self.calls.append("close")


class ControlledSnapshots(MemorySnapshots):
    """Snapshots in memory; `aborted` counts those that were thrown away, `opened` notes (id, offset) of readings."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = 0
        self.deleted: list[str] = []
        self.delete_gate = Gate()
        self.opened: list[tuple[str, int]] = []
        self.calls: list[str] = []

    def begin(self, meta: SnapshotMeta) -> MemorySnapshotWriter:
        sink, writer = self, super().begin(meta)

        class Writer(MemorySnapshotWriter):
            def abort(self) -> None:
                sink.aborted += 1

        writer.__class__ = Writer
        return writer

    def open(self, id: str, offset: int = 0) -> Iterator[bytes]:
        self.opened.append((id, offset))
        return super().open(id, offset)

    def delete(self, id: str) -> None:
        self.delete_gate.pass_through()
        self.deleted.append(id)
        super().delete(id)

    def damage(self, id: str) -> None:
        """Change a byte of a stored snapshot."""
        meta, data = self._committed[id]
        self._committed[id] = (meta, data[:-1] + bytes([data[-1] ^ 1]))

    def close(self) -> None:
        self.calls.append("close")


class Wire(MemoryTransport):
    """A transport in memory that keeps what was sent; `drop` decides what is lost, `alter` what arrives instead."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self.sent: list[tuple[str, Message]] = []
        self.drop: Callable[[str, Message], bool] = lambda peer, message: False
        self.alter: Callable[[Message], Message] = lambda message: message
        self.calls: list[str] = []

    def send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, message))
        if not self.drop(peer, message):
            super().send(peer, self.alter(message))

    def of_kind(self, kind: type) -> list[Any]:
        """The messages of one kind that were sent, lost ones too."""
        return [message for _, message in self.sent if type(message) is kind]

    async def stop(self) -> None:
        self.calls.append("stop")
        await super().stop()


class Witness:
    """An observer that keeps the events; `fails` makes it raise."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fails = False

    def notify(self, event: Event) -> None:
        self.events.append(event)
        if self.fails:
            raise RuntimeError("told to")

    def details(self, name: str) -> list[dict[str, object]]:
        """What was said of the events of this name."""
        return [event.detail for event in self.events if event.name == name]


class Place:
    """What belongs to one node of a cluster: its plugins, of which log and snapshots outlive it."""

    def __init__(self, log: ControlledLog, path: Path) -> None:
        self.log = log
        self.sink = ControlledSnapshots()
        self.path = path
        self.machine: Journal
        self.wire: Wire
        self.witness = Witness()
        self.node: Node


async def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until the condition holds, looking again every millisecond."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # conditions of all kinds, not all of which have an event
            await asyncio.sleep(0.001)


class Cluster:
    """Nodes n1, n2, … on one hub: ``async with Cluster(...) as cluster``. Item access gives a node's `Place`."""

    def __init__(
        self,
        path: Path,
        size: int = 3,
        *,
        blocking_log: bool = False,
        machine: Callable[[], Journal] = Journal,
        policy: Mapping[str, int] | None = None,
        limits: Mapping[str, int] | None = None,
        **raft: Any,
    ) -> None:
        self.hub = Hub()
        self.path = path
        self.members = {f"n{number}": f"address-{number}" for number in range(1, size + 1)}
        self.places: dict[str, Place] = {}
        self.blocking_log = blocking_log
        self.machine = machine
        self.policy = SnapshotPolicy(**{"every_entries": 0, **(policy or {})})
        self.limits = Limits(**{"proposal_timeout_ms": 5000, "read_timeout_ms": 5000, **(limits or {})})
        self.raft = RaftSettings(**{"heartbeat_ms": 20, "election_timeout_ms": (150, 300), **raft})
        self._number = 0

    def __getitem__(self, id: str) -> Place:
        return self.places[id]

    def node(self, id: str, *, machine: Journal | None = None, pristine: bool = False, **options: Any) -> Node:
        """A node on the disks that `id` had before (`pristine`: on empty ones)."""
        self._number += 1
        place = self.places.get(id)
        if place is None or pristine:
            log = ControlledLog(blocking=self.blocking_log)
            place = self.places[id] = Place(log, self.path / f"{id}-{self._number}")
        place.machine = machine or self.machine()
        place.wire = Wire(self.hub)
        options = {"members": self.members, "raft": self.raft, "limits": self.limits, **options}
        options.setdefault("snapshot_policy", self.policy)
        options.setdefault("rng", random.Random(f"{id}-{self._number}"))
        place.node = Node(
            id,
            cluster="test",
            log_store=place.log,
            state_machine=place.machine,
            transport=place.wire,
            snapshots=place.sink,
            address=f"address-{id[1:]}",
            data_dir=place.path,
            observers=[place.witness],
            **options,
        )
        return place.node

    async def start(self, id: str, **options: Any) -> Node:
        """Make and start a node."""
        node = self.node(id, **options)
        await node.start()
        return node

    async def leader(self) -> Node:
        """Wait until a majority of the running nodes agrees on a leader that runs."""
        found: list[Node] = []

        def agreed() -> bool:
            found[:] = [node for node in self.running() if node.status().role == "leader"]
            told = [node.status().leader for node in self.running()]
            return bool(found) and told.count(found[-1].id) > len(self.members) // 2

        await eventually(agreed)
        return found[-1]

    def running(self) -> list[Node]:
        """The nodes that take part."""
        nodes = [place.node for place in self.places.values()]
        return [node for node in nodes if node._member is not None and not node._member.stopped]

    async def applied(self, index: int, *ids: str) -> None:
        """Wait until these nodes (all that run) have applied up to `index`."""
        nodes = [self.places[name].node for name in ids] or self.running()
        for node in nodes:
            await node.wait_for(lambda status: status.applied >= index, SECONDS)

    def followers(self) -> list[Node]:
        """Those that run and do not lead."""
        return [node for node in self.running() if node.status().role != "leader"]

    async def restart(self, id: str, **options: Any) -> Node:
        """Close a node and start it again on its disks."""
        await self.places[id].node.close(transfer=False)
        return await self.start(id, **options)

    def isolate(self, id: str) -> None:
        """Lose everything to and from a node; nobody is told."""
        for other in self.places:
            if other != id:
                self.hub.cut(id, other)
                self.hub.cut(other, id)

    async def __aenter__(self) -> Self:
        for name in self.members:
            await self.start(name)
        if self.members:
            first = self.places["n1"].node
            first.trigger.election()
            await self.leader()
            # A new leader writes down whose disks its members have; then nothing happens by itself any more.
            status = await first.wait_for(
                lambda status: (
                    all(info.incarnation for info in status.nodes.values()) and status.commit == status.last_index
                ),
                SECONDS,
            )
            await self.applied(status.commit)
        return self

    async def __aexit__(self, *error: object) -> None:
        for place in self.places.values():
            for gate in (
                place.log.gate,
                place.log.read_gate,
                place.sink.delete_gate,
                place.machine.gate,
                place.machine.view_gate,
                place.machine.restore_gate,
            ):
                gate.open()
        for place in self.places.values():
            await place.node.close(transfer=False)


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Cluster]:
    """Make a cluster: ``async with cluster(3) as c``; see `Cluster` for what can be asked for."""
    return lambda size=3, **options: Cluster(tmp_path, size, **options)


@pytest.fixture
def journal() -> type[Journal]:
    """The state machine that the clusters use."""
    return Journal


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Coroutine[object, object, None]]:
    """``await eventually(condition)``."""
    return eventually


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a test's coroutine, bounded in time; afterwards no task, no timer and no unseen failure may be left."""

    def run(
        main: Callable[[], Awaitable[None]], factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        failures: list[dict[str, Any]] = []

        async def bounded() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: failures.append(context))
            async with asyncio.timeout(SECONDS):
                await main()
            await asyncio.sleep(0)

            assert {asyncio.current_task()} == asyncio.all_tasks()
            assert [] == [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

        assert [] == failures

    return run


@pytest.fixture
def status_when() -> Callable[..., Coroutine[object, object, Status]]:
    """``await status_when(node, condition)``: its status as soon as the condition holds of it."""

    async def wait(node: Node, condition: Callable[[Status], bool]) -> Status:
        return await node.wait_for(condition, SECONDS)

    return wait

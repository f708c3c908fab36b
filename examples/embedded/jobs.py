"""A job queue that three members keep, embedded in one asyncio program. The leader goes away, and the work goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from raftcore import Entries, LogId, Node, SnapshotMeta
from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.backends.memory_transport import Hub, MemoryTransport

MEMBERS = {"n1": "n1", "n2": "n2", "n3": "n3"}
encode = msgspec.msgpack.encode


class Add(msgspec.Struct, tag=1, array_like=True):
    """Put a job at the end of the queue. Answered with its number."""

    text: str


class Take(msgspec.Struct, tag=2, array_like=True):
    """Give the first job to `worker`, or again the one that it has. Answered with (number, text), or None."""

    worker: str


class Finish(msgspec.Struct, tag=3, array_like=True):
    """The worker is done with job `number`. A second time changes nothing, so it may be sent again."""

    number: int


class Jobs:
    """The state machine: the same commands in the same order give the same queue everywhere."""

    blocking = False

    def __init__(self) -> None:
        self.last = 0
        self.waiting: dict[int, str] = {}
        self.taken: dict[str, tuple[int, str]] = {}
        self._decode = msgspec.msgpack.Decoder(Add | Take | Finish).decode

    def open(self) -> LogId | None:
        return None  # nothing is kept beside the snapshots and the log

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        return [self._answer(payload) for payload in run.payloads]

    def _answer(self, payload: bytes) -> bytes | None:
        try:
            command = self._decode(payload)
        except msgspec.MsgspecError:
            return None  # refused: raising would stop the node
        match command:
            case Add(text):
                self.last += 1
                self.waiting[self.last] = text
                return encode(self.last)
            case Take(worker):
                if worker not in self.taken and self.waiting:
                    number = next(iter(self.waiting))
                    self.taken[worker] = number, self.waiting.pop(number)
                return encode(self.taken.get(worker))
            case Finish(number):
                self.taken = {worker: job for worker, job in self.taken.items() if job[0] != number}
        return None

    def snapshot(self) -> Iterator[bytes]:
        return iter([encode((self.last, self.waiting, self.taken))])

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        kind = tuple[int, dict[int, str], dict[str, tuple[int, str]]]
        self.last, self.waiting, self.taken = msgspec.msgpack.decode(b"".join(chunks), type=kind)

    def close(self) -> None:
        pass


def make_node(id: str, hub: Hub) -> Node:
    """One member. A real one has an `SqliteLog`, a `DirectorySnapshots`, a `TcpTransport` and a `data_dir`."""
    return Node(
        id,
        cluster="jobs",
        log_store=MemoryLog(),
        state_machine=Jobs(),
        transport=MemoryTransport(hub),
        snapshots=MemorySnapshots(),
        members=MEMBERS,
    )


async def work(name: str, node: Node) -> None:
    """Take jobs through any member until there are none."""
    while (job := msgspec.msgpack.decode(await node.propose(encode(Take(name))) or b"\xc0")) is not None:
        number, text = job
        print(f"job {number}, {text}: done by {name}")
        await node.propose(encode(Finish(number)))


def left(jobs: Jobs) -> int:
    """How many jobs are not done."""
    return len(jobs.waiting) + len(jobs.taken)


async def main() -> None:
    """Begin the cluster, work, lose the leader, go on."""
    hub = Hub()
    nodes = {name: make_node(name, hub) for name in MEMBERS}
    for node in nodes.values():
        await node.start()
    first = nodes["n1"]
    await first.propose_many([encode(Add(text)) for text in ("sweep", "cook", "wash", "iron")])
    await work("ann", nodes["n2"])

    leader = first.status().leader or ""
    await first.propose_many([encode(Add(text)) for text in ("paint", "plant")])
    await nodes.pop(leader).close()
    print("the leader is gone")
    other = nodes[min(nodes)]
    await work("bob", other)
    print("left:", await other.query(left))
    for node in nodes.values():
        await node.close(transfer=False)  # all of them go: there is nobody to hand leadership to


if __name__ == "__main__":
    asyncio.run(main())

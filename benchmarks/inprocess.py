"""Three nodes in one process, memory log, memory transport, a state machine that does nothing: what the core
itself costs.

    python -m benchmarks.inprocess [--clients 1,64,256] [--batch 1] [--loop uvloop|asyncio] [--seconds 2] [--json]

Each client proposes empty payloads on the leader, one after the other, and waits until each is committed
*and* applied. The clients share one process with all three nodes. Nothing touches a disk or a socket; for
that see the other benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.backends.memory_transport import Hub, MemoryTransport
from raftcore.contracts import StateMachine
from raftcore.node import Limits, Node, SnapshotPolicy
from raftcore.types import Entries, LogId, SnapshotMeta

MEMBERS = {name: name for name in ("n1", "n2", "n3")}


class Nothing(StateMachine):
    """Answers None to everything."""

    blocking = False

    def open(self) -> LogId | None:
        return None

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        return [None] * len(run.payloads)

    def snapshot(self) -> Iterator[bytes]:
        return iter(())

    def restore(self, meta: SnapshotMeta, chunks: object) -> None:
        return None

    def close(self) -> None:
        return None


def make_node(name: str, hub: Hub) -> Node:
    """One of the three, everything in memory."""
    return Node(
        name,
        cluster="benchmark",
        log_store=MemoryLog(),
        state_machine=Nothing(),
        transport=MemoryTransport(hub),
        snapshots=MemorySnapshots(),
        limits=Limits(max_pending_proposals=1_000_000),
        snapshot_policy=SnapshotPolicy(every_entries=0),
        rng=random.Random(name),
    )


async def measure(clients: int, batch: int, seconds: float) -> float:
    """Proposals a second, committed and applied, over about `seconds`."""
    hub = Hub()
    nodes = [make_node(name, hub) for name in MEMBERS]
    for node in nodes:
        await node.start()
    for node in nodes:
        await node.bootstrap(MEMBERS)
    nodes[0].trigger.election()
    leader = nodes[0]
    await leader.wait_for(lambda status: status.role == "leader" and status.applied >= 2, what="leadership")

    done = 0
    payloads = [b""] * batch
    ends = time.perf_counter() + seconds
    started = time.perf_counter()

    async def client() -> int:
        count = 0
        if batch == 1:
            propose = leader.propose
            while True:
                await propose(b"")
                count += 1
                if not count & 63 and time.perf_counter() >= ends:
                    return count
        while time.perf_counter() < ends:
            await leader.propose_many(payloads)
            count += batch
        return count

    done = sum(await asyncio.gather(*(client() for _ in range(clients))))
    rate = done / (time.perf_counter() - started)
    for node in nodes:
        await node.close(transfer=False)
    return rate


def main() -> None:
    """Measure every row that the command line asks for, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", default="1,64,256", help="numbers of concurrent callers, separated by commas")
    parser.add_argument("--batch", type=int, default=1, help="payloads in each call (more than 1: propose_many)")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each row runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if arguments.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    gc.freeze()
    rows = []
    for clients in map(int, arguments.clients.split(",")):
        with asyncio.Runner(loop_factory=factory) as runner:
            rate = runner.run(measure(clients, arguments.batch, arguments.seconds))
        rows.append({"clients": clients, "batch": arguments.batch, "proposals_per_second": round(rate)})
        if not arguments.json:
            print(f"{clients:>5} callers, batches of {arguments.batch:<3} {rate:>12,.0f}/s", flush=True)
    if arguments.json:
        report = {"loop": arguments.loop, "python": sys.version.split()[0], "rows": rows}
        print(msgspec.json.encode(report).decode())


if __name__ == "__main__":
    main()

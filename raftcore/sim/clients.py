"""The clients of a simulated cluster: what they ask, and the history of what they were told.

A client's call runs in the process of the node that it asks, as a request handler would: if that process dies
the client never hears, and what became of its call is unknown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from raftcore.errors import NodeStopped, NotAppended, OutcomeUnknown, ReadUnavailable
from raftcore.sim.history import History
from raftcore.sim.machine import Book, encode

if TYPE_CHECKING:
    from raftcore.node import Node
    from raftcore.node.reading import Consistency
    from raftcore.sim.host import Host
    from raftcore.sim.watched import WatchedMachine
    from raftcore.sim.world import World

REGISTERS, LISTS, COUNTERS = 3, 2, 2
NOT_DONE = (NotAppended, NodeStopped, ReadUnavailable)


class Clients:
    """All clients of one run. `acknowledged` counts, by payload, the proposals that were answered."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        self.history = History()
        self.acknowledged: Counter[bytes] = Counter()
        self.last_outcome: dict[str, str] = {}
        """How the newest call to each node ended: ok, fail or info."""
        self._idle = list(range(count))
        self._next_client = count
        self._next_value = 0
        self._open: dict[int, tuple[Host, int]] = {}

    # -- what they can ask --------------------------------------------------------------------------------------------

    def write(self, host: Host, rng: random.Random, pad: int = 0) -> bool:
        """Set a register."""
        key, value = f"register/{rng.randrange(REGISTERS)}", self._value()
        return self._propose(host, "write", key, value, ["write", key, value, b"." * pad])

    def cas(self, host: Host, rng: random.Random) -> bool:
        """Set a register if it has the value that some node shows now, or another one."""
        key, value = f"register/{rng.randrange(REGISTERS)}", self._value()
        machine = host.machine
        expected = machine.pages.get(key) if isinstance(machine, Book) and rng.random() < 0.8 else self._next_value - 3
        return self._propose(host, "cas", key, [expected, value], ["cas", key, expected, value])

    def append(self, host: Host, rng: random.Random) -> bool:
        """Append to a list."""
        key, value = f"list/{rng.randrange(LISTS)}", self._value()
        return self._propose(host, "append", key, value, ["append", key, value])

    def add(self, host: Host, rng: random.Random) -> bool:
        """Add to a counter."""
        key, value = f"counter/{rng.randrange(COUNTERS)}", rng.randint(1, 5)
        # A counter's commands are alike, so each carries a number of its own: that is how it is found in the log.
        return self._propose(host, "add", key, value, ["add", key, value, self._value()])

    def read(self, host: Host, key: str, consistency: Consistency) -> bool:
        """Read a key."""
        return self._begin(host, "read", key, None, lambda node: self._query(node, key, consistency), consistency)

    def any_key(self, rng: random.Random) -> str:
        return rng.choice(self.keys)

    @property
    def keys(self) -> list[str]:
        groups = (("register", REGISTERS), ("list", LISTS), ("counter", COUNTERS))
        return [f"{group}/{number}" for group, count in groups for number in range(count)]

    def batch(self, host: Host, rng: random.Random, count: int) -> bool:
        """Propose several commands at once, without a history: what was acknowledged has to be applied."""
        payloads = [encode(["write", "batch", self._value(), b"." * rng.choice([0, 0, 50])]) for _ in range(count)]
        return self.propose_raw(host, payloads)

    def propose_raw(self, host: Host, payloads: list[bytes]) -> bool:
        """Propose commands of anybody's."""
        if host.node is None or not host.serves:
            return False

        async def ask(node: Node) -> None:
            try:
                await node.propose_many(payloads)
            except (NotAppended, OutcomeUnknown, NodeStopped):
                self.world.counts["proposals refused or unknown"] += 1
                self.last_outcome[host.name] = "fail"
            else:
                self.acknowledged.update(payloads)
                self.last_outcome[host.name] = "ok"

        self.world.loop.spawn(host.process, ask(host.node))
        return True

    # -- how they ask -------------------------------------------------------------------------------------------------

    def _value(self) -> int:
        self._next_value += 1
        return self._next_value

    def _propose(self, host: Host, f: str, key: str, value: object, command: list[Any]) -> bool:
        payload = encode(command)

        async def ask(node: Node) -> tuple[str, object]:
            answer = msgspec.msgpack.decode(await node.propose(payload) or b"")
            self.acknowledged[payload] += 1
            return ("fail" if f == "cas" and answer is False else "ok"), value

        return self._begin(host, f, key, value, ask)

    @staticmethod
    async def _query(node: Node, key: str, consistency: Consistency) -> tuple[str, object]:
        def page(watched: WatchedMachine) -> object:
            book: Book = watched.machine  # type: ignore[assignment]  # these clients speak to nothing else
            return book.pages.get(key)

        return "ok", await node.query(page, consistency)

    def _begin(
        self,
        host: Host,
        f: str,
        key: str,
        value: object,
        ask: Callable[[Node], Coroutine[Any, Any, tuple[str, object]]],
        consistency: Consistency = "linearizable",
    ) -> bool:
        if not self._idle or host.node is None or not host.serves:
            return False
        client = self._idle.pop(0)
        call = self.history.invoke(
            client,
            f,
            key,
            value,
            time=self._nanoseconds(),
            node=host.name,
            life=host.starts,
            consistency=consistency,
        )
        self.world.note("invoke", client=client, id=call, node=host.name, f=f, key=key, value=value)
        self._open[call] = (host, client)
        self.world.loop.spawn(host.process, self._run(call, host.node, ask))
        return True

    async def _run(self, call: int, node: Node, ask: Callable[[Node], Coroutine[Any, Any, tuple[str, object]]]) -> None:
        error = ""
        try:
            outcome, value = await ask(node)
        except NOT_DONE as failure:
            outcome, value, error = "fail", None, str(failure)
        except OutcomeUnknown as failure:
            outcome, value, error = "info", None, str(failure)
        self._complete(call, outcome, value, error)

    def _complete(self, call: int, outcome: str, value: object, error: str = "") -> None:
        host, client = self._open.pop(call)
        self.last_outcome[host.name] = outcome
        self.history.complete(call, outcome, value, time=self._nanoseconds(), error=error)
        self.world.note("complete", id=call, outcome=outcome, value=value, text=error)
        self.world.counts[f"answers {outcome}"] += 1
        if outcome == "info":  # it may still happen, so this client never asks again
            client, self._next_client = self._next_client, self._next_client + 1
        self._idle.append(client)

    def host_down(self, host: Host) -> None:
        """The process is gone: its callers do not know what became of their calls."""
        for call in [call for call, (asked, _) in self._open.items() if asked is host]:
            self._complete(call, "info", None, "the node died")

    @property
    def waiting(self) -> int:
        """Calls that have no answer yet."""
        return len(self._open)

    def _nanoseconds(self) -> int:
        return round(self.world.loop.now * 1e9)

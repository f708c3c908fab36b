"""What the clients do, and the proof in the end that the cluster serves again.

Keys are replaced by new ones after a while, so that what has to be compared with what stays small enough to be checked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

from raftcore.cli.chaos.clients import Client, Record
from raftcore.cli.processes import POLL_SECONDS, ClusterFailed
from raftcore.node.reading import Consistency

PAUSE_SECONDS: Final = 0.05
USES: Final = 200
"""Operations on a key before it is replaced."""

SERVE_SECONDS: Final = 30.0
"""How long it may take, once all faults have ended, until every member does what it is asked."""

Sort = Literal["register", "list", "counter"]
_LIVE: Final[dict[Sort, int]] = {"register": 3, "list": 2, "counter": 2}
_SORTS: Final[tuple[Sort, ...]] = ("register", "register", "list", "counter")
_READS: Final[tuple[Consistency, ...]] = ("linearizable", "linearizable", "lease", "stale")


class Key:
    """A key, how often it was used, and, of a register, the value that was in it last as far as anybody knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uses = 0
        self.seen: int | None = None


class Workload:
    """All clients together."""

    def __init__(self, record: Record, seed: int, clients: int) -> None:
        self._record = record
        self._members = list(record.cluster.members.values())
        self._seed = seed
        self._clients = clients
        self._last_value = 0
        self._keys: dict[Sort, list[Key]] = {"register": [], "list": [], "counter": []}
        self._live = {sort: [self._new_key(sort) for _ in range(live)] for sort, live in _LIVE.items()}

    async def run(self, until: asyncio.Event) -> None:
        """Ask and ask until the event is set; what is under way then is finished."""
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._clients + 1):
                group.create_task(self._client(f"c{number}", until))

    async def _client(self, name: str, until: asyncio.Event) -> None:
        client, rng = Client(self._record, name), random.Random(f"{self._seed} {name}")
        try:
            while not until.is_set():
                await self._something(client, rng)
                await asyncio.sleep(rng.uniform(0, PAUSE_SECONDS))
        finally:
            client.close()

    async def _something(self, client: Client, rng: random.Random) -> None:
        member, sort = rng.choice(self._members), rng.choice(_SORTS)
        key = self._key(sort, rng)
        if rng.random() < 0.45:
            good, value = await client.read(member, key.name, rng.choice(_READS))
            if good and isinstance(value, int):
                key.seen = value
        elif sort == "list":
            await client.append(member, key.name, self._new_value())
        elif sort == "counter":
            await client.add(member, key.name, rng.randint(1, 5))
        elif rng.random() < 0.4:
            value = self._new_value()
            if await client.cas(member, key.name, key.seen, value):
                key.seen = value
        else:
            value = self._new_value()
            if await client.write(member, key.name, value):
                key.seen = value

    async def prove(self) -> None:
        """Every member takes a write, and every key that was ever used is read once more. Raises `ClusterFailed`."""
        client = Client(self._record, "c0")
        keys = [key for keys in self._keys.values() for key in keys]
        try:
            async with asyncio.timeout(SERVE_SECONDS):
                for member in self._members:
                    await _until_done(partial(client.write, member, keys[0].name, self._new_value()))
                for number, key in enumerate(keys):
                    member = self._members[number % len(self._members)]
                    await _until_done(partial(client.confirm, member, key.name))
        except TimeoutError:
            raise ClusterFailed(
                f"{SERVE_SECONDS:g} s after all faults had ended the cluster did not do everything it was asked; "
                "the history says what it answered"
            ) from None
        finally:
            client.close()

    def _new_value(self) -> int:
        """One that no operation had before."""
        self._last_value += 1
        return self._last_value

    def _key(self, sort: Sort, rng: random.Random) -> Key:
        live = self._live[sort]
        at = rng.randrange(len(live))
        live[at].uses += 1
        if live[at].uses > USES:
            live[at] = self._new_key(sort)
        return live[at]

    def _new_key(self, sort: Sort) -> Key:
        key = Key(f"{sort}/{len(self._keys[sort])}")
        self._keys[sort].append(key)
        return key


async def _until_done(attempt: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await attempt():
            return
        await asyncio.sleep(POLL_SECONDS)

"""Faults of processes and their disks: killed, paused, torn, damaged. One at a time; each is undone before it ends."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Final

from raftcore.cli.chaos.cluster import Cluster, Member
from raftcore.cli.chaos.disk import LogFiles
from raftcore.cli.connection import NoAnswer
from raftcore.cli.processes import POLL_SECONDS

LEADER_SECONDS: Final = 5.0
"""How long to wait for somebody to lead who can then be killed."""

DOWN_SECONDS: Final = (0.1, 1.5)
PAUSE_SECONDS: Final = (1.0, 3.0)
"""Longer than the longest election timeout: the others elect another leader meanwhile."""

REFUSE_SECONDS: Final = 20.0


class ProcessFaults:
    """See `raftcore.cli.chaos.nemesis.Faults`."""

    kinds = frozenset({"leader_kills", "kills", "pauses", "torn", "damaged"})

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._members = list(cluster.members.values())

    async def do(self, kind: str, rng: random.Random) -> str:
        """Raises `ClusterFailed` when a member does not come back, or comes back when it must not."""
        match kind:
            case "leader_kills":
                return await self._kill_leader(rng)
            case "kills":
                return await self._kill_some(rng)
            case "pauses":
                return await self._pause(rng)
            case "torn":
                return await self._tear(rng)
        return await self._damage(rng)

    async def _kill_leader(self, rng: random.Random) -> str:
        leader, deadline = None, asyncio.get_running_loop().time() + LEADER_SECONDS
        while leader is None and asyncio.get_running_loop().time() < deadline:
            leader = await self._cluster.leader()
        if leader is None:
            return await self._kill_some(rng)
        await self._kill([leader], "killed while it led", rng)
        return "leader_kills"

    async def _kill_some(self, rng: random.Random) -> str:
        """Any number at once, and all of them too: then only what is on the disks is left."""
        chosen = rng.sample(self._members, rng.randint(1, len(self._members)))
        await self._kill(chosen, "killed", rng)
        return "kills"

    async def _kill(self, chosen: list[Member], reason: str, rng: random.Random) -> None:
        await asyncio.gather(*(self._cluster.kill(member, reason) for member in chosen))
        await asyncio.sleep(rng.uniform(*DOWN_SECONDS))
        await asyncio.gather(*(self._cluster.start_member(member) for member in chosen))

    async def _pause(self, rng: random.Random) -> str:
        """The leader more often than others: it does not notice that time goes by, and that it is replaced."""
        leader = await self._cluster.leader() if rng.random() < 0.6 else None
        member = leader or rng.choice(self._members)
        self._cluster.pause(member)
        try:
            await asyncio.sleep(rng.uniform(*PAUSE_SECONDS))
        finally:
            self._cluster.resume(member)
        return "pauses"

    async def _tear(self, rng: random.Random) -> str:
        member = rng.choice(self._members)
        await self._cluster.kill(member, "killed in the middle of a write")
        text = await asyncio.to_thread(LogFiles(member.data).tear, rng)
        self._cluster.trace.add("fault", fault="torn", node=member.node, text=text)
        await self._cluster.start_member(member)
        return "torn"

    async def _damage(self, rng: random.Random) -> str:
        """What was acknowledged is destroyed: the member must refuse to start. Then it gets its files back."""
        member = rng.choice(self._members)
        await self._cluster.kill(member, "killed, and its log is damaged")
        files, copy = LogFiles(member.data), member.data / "before-damage"
        await asyncio.to_thread(files.copy_to, copy)
        text = await asyncio.to_thread(files.damage, rng)
        if text:
            self._cluster.trace.add("fault", fault="damaged", node=member.node, text=text)
            await self._must_refuse(member, text)
        await asyncio.to_thread(files.put_back, copy)
        await self._cluster.start_member(member)
        return "damaged" if text else "kills"

    async def _must_refuse(self, member: Member, damage: str) -> None:
        """Otherwise its files stay as they are, to be looked at, with the copy beside them."""
        said = await asyncio.to_thread(member.said)
        await member.start()
        connection = member.connection(POLL_SECONDS)
        serves = False
        try:
            async with asyncio.timeout(REFUSE_SECONDS):
                while member.exit_code is None and not serves:
                    await asyncio.sleep(POLL_SECONDS)
                    with suppress(NoAnswer):
                        await connection.ask("GET", "/livez")
                        serves = True
        except TimeoutError:
            serves = True
        finally:
            connection.close()
        if serves:
            await member.kill()
            raise await member.failed(f"started with a damaged log ({damage})")
        reason = (await asyncio.to_thread(member.said))[len(said) :]
        if member.exit_code != 1 or not any("damaged" in line for line in reason):
            raise await member.failed(
                f"did not say that its log is damaged ({damage}), and exited with {member.exit_code}"
            )

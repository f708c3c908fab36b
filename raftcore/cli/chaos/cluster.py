"""The cluster that is tormented: real nodes behind the network of the tool, and who is meant to run at the moment."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from raftcore.cli.chaos.network import Network
from raftcore.cli.connection import NoAnswer
from raftcore.cli.processes import Process, configuration, free_addresses, make_room
from raftcore.sim.trace import Trace

NODES: Final = ("n1", "n2", "n3", "n4", "n5")
STATUS_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 0.2

# Short elections, so that many faults fit; requests that end before clients give up; snapshots and purges all the time.
_SETTINGS: Final = """
[raft]
heartbeat_ms = 50
election_timeout_ms = [400, 800]

[limits]
proposal_timeout_ms = 2000
read_timeout_ms = 1500

[transport.options]
bind = "{bind}"
handshake_timeout_ms = 1000
reconnect_max_ms = 400

[snapshots]
backend = "directory"
every_entries = 200
trailing_entries = 50

[[observers]]
backend = "log"
"""


class Member(Process):
    """A node. `runs`: whether it is meant to. `life`: how often it has been started. `bind`: where it listens."""

    def __init__(self, node: str, directory: Path, raft: str, http: str, bind: str) -> None:
        super().__init__(node, directory, raft, http)
        self.data = directory / node
        self.bind = bind
        self.runs = False
        self.life = 0


class Cluster:
    """The members by name, the `leaders` that were seen as (term, node), and `problems`: what members must not do."""

    def __init__(self, members: list[Member], trace: Trace) -> None:
        self.members = {member.node: member for member in members}
        self.network = Network(
            {member.node: member.raft for member in members}, {member.node: member.bind for member in members}
        )
        self.trace = trace
        self.leaders: set[tuple[int, str]] = set()
        self.problems: list[str] = []

    async def start(self) -> None:
        """Start everything, and wait for a leader. Raises `ClusterFailed`."""
        await self.network.start()
        await asyncio.gather(*(self.start_member(member) for member in self.members.values()))
        await asyncio.gather(*(member.until_ready() for member in self.members.values()))

    async def start_member(self, member: Member) -> None:
        """Start a member, and wait until it answers. Raises `ClusterFailed`."""
        member.life += 1
        await member.start()
        await member.until_live()
        member.runs = True
        self.trace.add("up", node=member.node)

    async def kill(self, member: Member, reason: str) -> None:
        """SIGKILL."""
        member.runs = False
        self.trace.add("down", node=member.node, reason=reason)
        await member.kill()

    def pause(self, member: Member) -> None:
        """SIGSTOP."""
        self.trace.add("pause", node=member.node)
        member.pause()

    def resume(self, member: Member) -> None:
        """SIGCONT."""
        member.resume()
        self.trace.add("resume", node=member.node)

    async def stop(self) -> None:
        """End every process, and the network."""
        for member in self.members.values():
            member.runs = False
        await asyncio.gather(*(member.stop() for member in self.members.values()))
        await self.network.stop()

    async def leader(self) -> Member | None:
        """Who leads now, as far as the members say; of two that believe it, the one of the later term."""
        found = await asyncio.gather(*(self._status(member) for member in self.members.values()))
        leading = {status["term"]: status["node"] for status in found if status.get("role") == "leader"}
        return self.members[leading[max(leading)]] if leading else None

    async def _status(self, member: Member) -> dict[str, Any]:
        connection = member.connection(STATUS_SECONDS)
        try:
            status: dict[str, Any] = await connection.get("/status")
        except NoAnswer:
            return {}
        else:
            return status
        finally:
            connection.close()

    async def watch(self) -> None:
        """Note roles as they change, for ever. Raises `ClusterFailed` when a member ends by itself."""
        async with asyncio.TaskGroup() as group:
            for member in self.members.values():
                group.create_task(self._watch(member))

    async def _watch(self, member: Member) -> None:
        known: tuple[str, int, str | None] | None = None
        while True:
            if member.runs and member.exit_code is not None:
                raise await member.failed(f"ended by itself with exit code {member.exit_code}")
            status = await self._status(member)
            if status:
                role = status["role"], status["term"], status["leader"]
                if role != known:
                    known = role
                    self._note_role(member.node, *role)
            await asyncio.sleep(WATCH_SECONDS)

    def logged(self, event: str) -> int:
        """How often an event of raftcore's observers is in the members' logs."""
        return sum(f": {event} " in line for member in self.members.values() for line in member.said())

    def _note_role(self, node: str, role: str, term: int, leader: str | None) -> None:
        self.trace.add("role", node=node, role=role, term=term, leader=leader)
        if leader is not None:
            self.leaders.add((term, leader))


def prepare(directory: Path, count: int, trace: Trace) -> Cluster:
    """Make the directory anew, with a configuration for each node; nothing runs yet. Raises as `make_room`."""
    make_room(directory, "chaos", NODES)
    addresses = free_addresses(3 * count)
    members = [
        Member(node, directory, raft, http, bind)
        for node, raft, http, bind in zip(NODES[:count], addresses[::3], addresses[1::3], addresses[2::3], strict=True)
    ]
    listed = {member.node: member.raft for member in members}
    for member in members:
        settings = _SETTINGS.format(bind=member.bind)
        member.file.write_text(configuration("chaos", member, listed, settings), encoding="utf-8")
    return Cluster(members, trace)

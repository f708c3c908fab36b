"""Reads that wait: to be confirmed by the leader, and then for this node to have applied far enough.

Reads of one turn are one group and share one confirmation. A group is *held* while nobody leads, *asked*
while the engine or the leader confirms it, and *confirmed* until the state machine has reached its index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from raftcore.errors import NotLeader, OutcomeUnknown, Overloaded, RaftCoreError, ReadUnavailable
from raftcore.messages import ForwardReply
from raftcore.node.batch import copy_of
from raftcore.node.forwarding import READ, Forwarding, ReadRequest, Reply, error_of
from raftcore.types import NO_VOTE

if TYPE_CHECKING:
    from raftcore.engine import Engine
    from raftcore.types import NodeId

Consistency = Literal["linearizable", "lease", "stale"]
"""linearizable: confirmed by a quorum after the read began. lease: by the leader's lease, if it holds (needs
clocks whose speeds differ little), else by a quorum. stale: whatever this node has applied."""


class Group:
    """Reads that share a confirmation. `reply` instead of futures: another member asked, and only wants the
    index. `asked`: the leader that it was sent to, as `request`, when this node's vote was `vote`."""

    __slots__ = ("asked", "deadline", "futures", "lease", "reply", "request", "vote")

    def __init__(self, lease: bool, deadline: float, reply: Reply | None = None) -> None:
        self.lease = lease
        self.deadline = deadline
        self.futures: list[asyncio.Future[int]] = []
        self.asked: NodeId | None = None
        self.request = 0
        self.vote = NO_VOTE
        self.reply = reply

    def fail(self, error: RaftCoreError) -> None:
        if self.reply is not None:
            self.reply.error(error)
        for future in self.futures:
            if not future.done():
                future.set_exception(copy_of(error))


class Reading:
    """All reads of one node. `new` and `held` are groups that are not asked for yet."""

    def __init__(
        self,
        engine: Engine,
        forwarding: Forwarding,
        timeout: float,
        limit: int,
        applied: Callable[[], int],
        no_use: set[NodeId],
        arm: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._forwarding = forwarding
        self._timeout = timeout
        self._limit = limit
        self._applied = applied
        self._no_use = no_use
        self._arm = arm
        self._next_id = 0
        self.new: dict[bool, Group] = {}
        self.held: list[Group] = []
        self._asked: dict[int, Group] = {}
        self._confirmed: list[tuple[int, Group]] = []
        self.count = 0

    def add(self, lease: bool, now: float) -> asyncio.Future[int]:
        """A read of this node's: the index that it may be served at, once that is applied. Raises `Overloaded`."""
        if self.count >= self._limit:
            raise Overloaded(
                f"{self.count} reads wait already (limits.max_pending_reads is {self._limit}); try again when some "
                "are answered"
            )
        group = self.new.get(lease)
        if group is None:
            group = self.new[lease] = Group(lease, now + self._timeout)
            self._arm(group.deadline)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        group.futures.append(future)
        self.count += 1
        return future

    def serve(self, request: bytes, reply: Reply, now: float) -> None:
        """Another member wants a read index."""
        lease = msgspec.msgpack.decode(request, type=ReadRequest).lease
        if self._engine.leadership is None:
            reply.error(NotLeader(f"node {self._engine.node} does not lead"))
        else:
            group = Group(lease, now + self._timeout, reply)
            self._arm(group.deadline)
            self._ask(group, now)

    def hand_over(self, now: float) -> None:
        """Ask for everything that waits: the engine when this node leads, the leader when one is known."""
        if not self.new and not self.held:
            return
        waiting = self.held + list(self.new.values())
        self.held, self.new = [], {}
        for group in waiting:
            self._ask(group, now)

    def _ask(self, group: Group, now: float) -> None:
        engine, leader = self._engine, self._engine.leader
        if engine.leadership is not None:
            self._next_id += 1
            self._asked[self._next_id] = group
            engine.read(self._next_id, lease=group.lease, now=now)
        elif leader is not None and leader not in self._no_use and group.reply is None:
            self._next_id += 1
            number = self._next_id
            group.asked = leader
            self._asked[number] = group
            request = msgspec.msgpack.encode(ReadRequest(group.lease))
            group.vote = engine.vote
            group.request = self._forwarding.send(leader, READ, [request], lambda reply: self._forwarded(number, reply))
        else:
            self.held.append(group)

    def _forwarded(self, id: int, reply: ForwardReply | OutcomeUnknown) -> None:
        group = self._asked.pop(id, None)
        if group is None:
            return
        error = reply if isinstance(reply, OutcomeUnknown) else error_of(reply)
        if isinstance(reply, OutcomeUnknown) or error is not None:
            if isinstance(error, NotLeader) and group.asked is not None and group.vote == self._engine.vote:
                self._no_use.add(group.asked)
            group.asked = None
            self.held.append(group)  # a read may always be asked again; its deadline bounds it
        else:
            self._confirm(group, int.from_bytes(reply.results[0] or b"", "big"))

    def confirmed(self, ids: list[int], index: int) -> None:
        """The engine has confirmed these."""
        for number in ids:
            group = self._asked.pop(number, None)
            if group is not None:
                self._confirm(group, index)

    def refused(self, ids: list[int]) -> None:
        """This node leads no more: ask whoever does."""
        for number in ids:
            group = self._asked.pop(number, None)
            if group is None:
                continue
            if group.reply is not None:
                group.fail(
                    ReadUnavailable(f"node {self._engine.node} stopped leading before it could confirm the read")
                )
            else:
                self.held.append(group)

    def leader_changed(self) -> None:
        """Somebody else leads: what was sent to the last one is asked again (a read may be asked twice)."""
        for number, group in list(self._asked.items()):
            if group.asked is not None and group.vote != self._engine.vote:
                del self._asked[number]
                self._forwarding.forget(group.request)
                group.asked = None
                self.held.append(group)

    def _confirm(self, group: Group, index: int) -> None:
        if group.reply is not None:
            group.reply.results([index.to_bytes(8, "big")])
        else:
            self._confirmed.append((index, group))

    def settle(self) -> None:
        """Answer the confirmed reads that the state machine has caught up with."""
        if not self._confirmed:
            return
        applied, later = self._applied(), []
        for index, group in self._confirmed:
            if index > applied:
                later.append((index, group))
                continue
            self.count -= len(group.futures)
            for future in group.futures:
                if not future.done():
                    future.set_result(applied)
        self._confirmed = later

    def _groups(self) -> list[Group]:
        return [*self.new.values(), *self.held, *self._asked.values(), *(group for _, group in self._confirmed)]

    def next_deadline(self) -> float:
        """When the first group runs out of time."""
        if not self.count and not self._asked:
            return float("inf")
        return min((group.deadline for group in self._groups()), default=float("inf"))

    def expire(self, now: float) -> None:
        """End what has waited too long."""
        self._end(
            lambda group: group.deadline <= now,
            ReadUnavailable(
                f"node {self._engine.node}: no confirmation within {self._timeout:g} s (limits.read_timeout_ms); "
                "there may be no leader with a quorum; a read with consistency 'stale' needs none"
            ),
        )

    def fail_all(self, error: RaftCoreError) -> None:
        """The node stops."""
        self._end(lambda group: True, error)

    def _end(self, which: Callable[[Group], bool], error: RaftCoreError) -> None:
        ended = [group for group in self._groups() if which(group)]
        if not ended:
            return
        gone = set(map(id, ended))
        self.new = {lease: group for lease, group in self.new.items() if id(group) not in gone}
        self.held = [group for group in self.held if id(group) not in gone]
        self._asked = {key: group for key, group in self._asked.items() if id(group) not in gone}
        self._confirmed = [(index, group) for index, group in self._confirmed if id(group) not in gone]
        for group in ended:
            self._forwarding.forget(group.request)
            self.count -= len(group.futures)
            group.fail(error)

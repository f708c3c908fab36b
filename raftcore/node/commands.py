"""Commands to the cluster other than proposals: membership and leadership. Any member takes them; the leader
carries them out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from raftcore.engine.log import NO_END
from raftcore.errors import MembershipRefused, NotLeader, OutcomeUnknown, RaftCoreError, WaitTimeout
from raftcore.messages import ForwardReply
from raftcore.node.forwarding import CHANGE, TRANSFER, Change, Forwarding, Handover, Reply, error_of

if TYPE_CHECKING:
    from raftcore.engine import Engine
    from raftcore.types import NodeId

_encode = msgspec.msgpack.encode


class Commands:
    """`until(predicate)` waits for a change of this node's state; `wake` makes it take a turn."""

    def __init__(
        self,
        engine: Engine,
        forwarding: Forwarding,
        no_use: set[NodeId],
        until: Callable[[Callable[[], bool]], Awaitable[None]],
        wake: Callable[[], None],
        timeout: float,
    ) -> None:
        self._engine = engine
        self._forwarding = forwarding
        self._no_use = no_use
        self._until = until
        self._wake = wake
        self._timeout = timeout

    async def change(self, change: Change) -> None:
        """Change the members; returns when the new membership is committed. Raises `MembershipRefused`,
        `OutcomeUnknown`, …"""
        await self._run(CHANGE, change, self._change)

    async def transfer(self, handover: Handover) -> None:
        """Hand leadership over; returns when this has happened. Raises `WaitTimeout` when the target did not
        take it."""
        await self._run(TRANSFER, handover, self._transfer)

    async def serve(self, kind: str, command: Change | Handover, reply: Reply) -> None:
        """Another member passes a command on."""
        try:
            async with asyncio.timeout(self._timeout):
                if isinstance(command, Change):
                    await self._change(command)
                else:
                    await self._transfer(command)
        except RaftCoreError as error:
            reply.error(error)
        except TimeoutError:
            reply.error(OutcomeUnknown(self._took_too_long(kind)))
        else:
            reply.results([])

    async def _run(self, kind: str, command: Change | Handover, here: Callable[..., Awaitable[None]]) -> None:
        begun = False
        try:
            async with asyncio.timeout(self._timeout):
                if self._engine.leadership is None:
                    await self._until(self._leader_can_be_reached)
                begun = True
                if self._engine.leadership is not None:
                    await here(command)
                else:
                    await self._forward(kind, command)
        except TimeoutError:
            if begun:
                raise OutcomeUnknown(self._took_too_long(kind)) from None
            raise NotLeader(
                f"node {self._engine.node}: {kind} was not begun, since no leader could be reached within "
                f"{self._timeout:g} s (limits.proposal_timeout_ms); try again"
            ) from None

    def _leader_can_be_reached(self) -> bool:
        return self._engine.leader is not None and self._engine.leader not in self._no_use

    def _took_too_long(self, kind: str) -> str:
        return (
            f"node {self._engine.node}: {kind} was not finished within {self._timeout:g} s "
            "(limits.proposal_timeout_ms); it may yet be; look at the status before asking again"
        )

    async def _forward(self, kind: str, command: Change | Handover) -> None:
        leader = self._engine.leader
        if leader is None:
            raise NotLeader(f"node {self._engine.node} does not lead, and knows of no leader; try again")
        future: asyncio.Future[ForwardReply | OutcomeUnknown] = asyncio.get_running_loop().create_future()
        request = self._forwarding.send(
            leader, kind, [_encode(command)], lambda reply: None if future.done() else future.set_result(reply)
        )
        try:
            reply = await future
        finally:
            self._forwarding.forget(request)
        error = reply if isinstance(reply, OutcomeUnknown) else error_of(reply)
        if error is not None:
            raise error

    async def _change(self, change: Change) -> None:
        engine = self._engine
        current, term = engine.membership, engine.vote.leader
        set_at = engine.history.effective_id.index
        if change.based_on not in (None, set_at):
            raise MembershipRefused(
                f"the members have changed since they were looked at (entry {change.based_on} set them then, entry "
                f"{set_at} does now); look at them again"
            )
        voters = current.voters[-1] if change.voters is None else tuple(change.voters)
        learners = (*current.learners, *change.nodes) if change.learners is None else tuple(change.learners)
        index = engine.change_membership(voters, learners, change.nodes)
        self._wake()

        def finished() -> bool:
            return engine.vote.leader != term or (
                engine.commit >= index and not engine.membership.is_joint and engine.history.pending_index == NO_END
            )

        await self._until(finished)
        wanted = (tuple(sorted(set(voters))),), tuple(sorted(set(learners) - set(voters)))
        if (engine.membership.voters, engine.membership.learners) != wanted or engine.commit < index:
            raise OutcomeUnknown(
                f"node {engine.node} stopped leading before the change of membership was committed; the next leader "
                "finishes it or drops it; look at the status"
            )

    async def _transfer(self, handover: Handover) -> None:
        engine = self._engine
        term = engine.vote.leader
        engine.transfer_leadership(handover.target, asyncio.get_running_loop().time())
        lead = engine.leadership
        target = lead.transfer.target if lead is not None and lead.transfer is not None else handover.target
        self._wake()
        await self._until(
            lambda: engine.leadership is None or engine.leadership.transfer is None or engine.vote.leader != term
        )
        if engine.leadership is not None and engine.vote.leader == term:
            raise WaitTimeout(
                f"{target} did not take over leadership within {engine.election_low:g} s; node {engine.node} goes on "
                "leading"
            )

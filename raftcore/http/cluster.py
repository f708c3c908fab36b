"""Commands to the cluster over HTTP: members, leadership, snapshots."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from raftcore.errors import NodeStopped, WaitTimeout
from raftcore.http.answers import Failure, reply
from raftcore.http.asking import Asking

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from raftcore.config import HttpSettings
    from raftcore.node import Node
    from raftcore.types import Membership

NEWS_SECONDS = 1.0

Id = Annotated[str, Meta(pattern="^[A-Za-z0-9._-]+$")]
Address = Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):[0-9]{1,5}$")]


class NewMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /members``."""

    id: Id
    address: Address


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /members/promote``."""

    id: Id


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /leader``; without a target the leader chooses."""

    target: Id | None = None


class ClusterFace:
    """``/members``, ``/leader`` and ``/snapshot``."""

    def __init__(self, node: Node, settings: HttpSettings) -> None:
        self._node = node
        self._settings = settings

    async def members(self, request: Request) -> Response:
        """``GET /members``: who is in the cluster. ``POST``: one more, as a learner; committed when answered."""
        asking = Asking(request, self._settings)
        if request.method == "POST":
            new = await asking.json(NewMember)
            await asking.command(lambda: self._node.add_learner(new.id, new.address, wait=False))
        else:
            await asking.read(self._node.read(asking.consistency))
        return self._members()

    async def promote(self, request: Request) -> Response:
        """``POST /members/promote``: a learner becomes a voter."""
        asking = Asking(request, self._settings)
        promoted = (await asking.json(Promotion)).id
        membership, based_on = await self._membership(asking)
        if promoted in membership.voters[-1]:
            raise Failure(409, "membership_refused", f"node '{promoted}' is a voter already", outcome="not_appended")
        self._must_be_member(membership, promoted)
        voters = [*membership.voters[-1], promoted]
        await asking.command(lambda: self._node.change_membership(voters, based_on=based_on))
        return self._members()

    async def remove(self, request: Request) -> Response:
        """``DELETE /members/{id}``: a voter or a learner leaves."""
        asking = Asking(request, self._settings)
        removed = request.path_params["id"]
        membership, based_on = await self._membership(asking)
        self._must_be_member(membership, removed)
        voters = [voter for voter in membership.voters[-1] if voter != removed]
        learners = [learner for learner in membership.learners if learner != removed]
        await asking.command(lambda: self._node.change_membership(voters, learners, based_on=based_on))
        return self._members()

    async def transfer(self, request: Request) -> Response:
        """``POST /leader``: hand leadership over; done when answered."""
        asking = Asking(request, self._settings)
        target = (await asking.json(Transfer, optional=True)).target
        before = self._node.status().leader
        await asking.command(lambda: self._node.transfer_leadership(target))
        # It is done, but this member may not have heard of it yet.
        with contextlib.suppress(WaitTimeout, NodeStopped):
            await self._node.wait_for(lambda status: status.leader not in (None, before), NEWS_SECONDS)
        return reply({"leader": self._node.status().leader})

    async def snapshot(self, request: Request) -> Response:
        """``POST /snapshot``: this member takes one now."""
        meta = await Asking(request, self._settings).read(self._node.trigger.snapshot())
        return reply({"id": meta.id, "index": meta.last.index, "term": meta.last.leader.term, "bytes": meta.size})

    async def _membership(self, asking: Asking) -> tuple[Membership, int]:
        """The members, as new as what is committed, and the entry that set them: from an old list one would be left
        out who joined since, and somebody may join before this one is used."""
        await asking.read(self._node.read())
        engine = self._node.member.engine
        return engine.membership, engine.history.effective_id.index

    def _must_be_member(self, membership: Membership, id: str) -> None:
        if id not in membership.members:
            known = ", ".join(membership.members)
            raise Failure(404, "no_such_member", f"node '{id}' is not a member; the members are {known}")

    def _members(self) -> Response:
        status = self._node.status()
        members = [
            {
                "id": member,
                "address": info.address,
                "role": "learner" if member in status.learners else "voter",
                "leader": member == status.leader,
            }
            for member, info in sorted(status.nodes.items())
        ]
        return reply({"members": members, "joint": len(status.voters) > 1})

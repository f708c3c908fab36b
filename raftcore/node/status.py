"""What a node shows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftcore.types import NodeId, NodeInfo

if TYPE_CHECKING:
    from raftcore.node.member import Member


class PeerStatus(msgspec.Struct, frozen=True):
    """What the leader knows of one follower. `match` and `next` are indexes; `state` is probe, pipeline or snapshot."""

    match: int
    next: int
    state: str
    in_flight: int
    in_flight_bytes: int


class Status(msgspec.Struct, frozen=True):
    """A node at one moment. Indexes: 0 stands for "none yet".

    `durable` ≤ `last_index` is what this node's disk holds; `applied` ≤ `commit`; `purged` ≤ `snapshot` ≤ `applied`.
    `voters` holds two lists while the configuration is joint; `membership_index` is the entry that set them. `peers` is
    filled on the leader only. `pending_*` count what this node's callers wait for; `refused_messages` what peers sent
    that had no place here.
    """

    node: NodeId
    cluster: str
    role: str
    term: int
    leader: NodeId | None
    last_index: int
    durable: int
    commit: int
    applied: int
    snapshot: int
    purged: int
    membership_index: int
    voters: list[list[NodeId]]
    learners: list[NodeId]
    nodes: dict[NodeId, NodeInfo]
    peers: dict[NodeId, PeerStatus]
    pending_proposals: int
    pending_bytes: int
    pending_reads: int
    refused_messages: int
    transport: dict[str, int]


def status_of(member: Member, cluster: str) -> Status:
    """The status of a member at work."""
    engine, lead = member.engine, member.engine.leadership
    peers = {
        peer: PeerStatus(
            progress.match, progress.next, progress.state.value, progress.in_flight, progress.in_flight_bytes
        )
        for peer, progress in (lead.progress.items() if lead is not None else ())
    }
    return Status(
        node=engine.node,
        cluster=cluster,
        role=engine.role.value if not member.stopped else "stopped",
        term=engine.vote.leader.term,
        leader=engine.leader,
        last_index=engine.log.last.index,
        durable=engine.log.durable,
        commit=engine.commit,
        applied=member.applier.applied.index,
        snapshot=engine.snapshot_last.index,
        purged=engine.log.base.index,
        membership_index=engine.history.effective_id.index,
        voters=[list(group) for group in engine.membership.voters],
        learners=list(engine.membership.learners),
        nodes=engine.membership.nodes,
        peers=peers,
        pending_proposals=member.proposals.count,
        pending_bytes=member.proposals.bytes,
        pending_reads=member.reading.count,
        refused_messages=member.refused_messages + engine.refused,
        transport=dict(member.parts.transport.counters()),
    )

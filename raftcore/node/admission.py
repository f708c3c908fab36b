"""Whether another node may be talked to: same cluster, another name, a shared version, the same order of votes, and
the disk that is known by that name."""

from __future__ import annotations

from raftcore.errors import PeerRefused
from raftcore.messages import Hello


class UnknownDisk(PeerRefused):
    """Everything fits but the disk."""


def check_hello(mine: Hello, theirs: Hello, incarnation: str) -> None:
    """Raises `PeerRefused`, with the reason and what to do about it. `incarnation`: the disk that is known by their
    name, "" when none is."""
    name = theirs.node
    if theirs.cluster != mine.cluster:
        raise PeerRefused(
            f"node {name!r} belongs to cluster {theirs.cluster!r}, this node ({mine.node}) to {mine.cluster!r}; "
            "correct the address or cluster.name"
        )
    if name == mine.node:
        raise PeerRefused(
            f"another process at {theirs.address} calls itself {name!r} too; every node needs an id of its own"
        )
    (their_oldest, their_newest), (oldest, newest) = theirs.versions, mine.versions
    if their_oldest > newest or their_newest < oldest:
        raise PeerRefused(
            f"node {name!r} speaks versions {their_oldest}..{their_newest} of the protocol, this node ({mine.node}) "
            f"{oldest}..{newest}; upgrade the older one"
        )
    if theirs.vote_order != mine.vote_order:
        raise PeerRefused(
            f"node {name!r} has raft.vote_order = {theirs.vote_order!r}, this node ({mine.node}) {mine.vote_order!r}: "
            "the two rules do not mix; use the same on all members"
        )
    if incarnation and incarnation != theirs.incarnation:
        raise UnknownDisk(
            f"node {name!r} has come back with another disk (incarnation {theirs.incarnation}, known is "
            f"{incarnation}): it has forgotten what it promised; remove it from the cluster and add it anew"
        )

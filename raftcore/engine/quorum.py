"""Quorum arithmetic: who must agree. Everything that counts nodes asks here, in two questions.

A joint configuration is the AND of its sets (paper §6): it has committed what both have, and it has elected
whom both have.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from raftcore.types import Membership, NodeId


class VoteResult(enum.Enum):
    """How a vote stands: `LOST` means that it can't be won any more."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


class Quorum:
    """The majorities of a membership's voter sets."""

    __slots__ = ("_groups", "voters")

    def __init__(self, membership: Membership) -> None:
        self._groups = membership.voters
        self.voters = membership.all_voters

    def committed_index(self, acked: Mapping[NodeId, int]) -> int:
        """The greatest number that a quorum has reached; a node that is missing from `acked` stands at 0."""
        if len(self._groups) > 1:
            return min(_majority_reached(group, acked) for group in self._groups)
        return _majority_reached(self.voters, acked)

    def vote_result(self, votes: Mapping[NodeId, bool]) -> VoteResult:
        """How the election stands, given who granted and who refused. Votes of nodes that are no voters count
        nothing."""
        results = {_majority_vote(group, votes) for group in self._groups}
        if VoteResult.LOST in results:
            return VoteResult.LOST
        return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON


def _majority_reached(group: tuple[NodeId, ...], acked: Mapping[NodeId, int]) -> int:
    reached = [acked.get(node, 0) for node in group]
    reached.sort()
    return reached[(len(reached) - 1) // 2] if reached else 0


def _majority_vote(group: tuple[NodeId, ...], votes: Mapping[NodeId, bool]) -> VoteResult:
    needed = len(group) // 2 + 1
    granted = sum(votes.get(node, False) for node in group)
    open_votes = sum(node not in votes for node in group)
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + open_votes >= needed else VoteResult.LOST

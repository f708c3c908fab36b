"""When a node accepts a leader, and when it may vote for a candidate: the two rules that the vote orders differ in.

`standard`: the paper's. One vote a term, so one leader a term; a vote for nobody is the node "".
`node`: votes are ordered by (term, node). A greater node still wins within a term, so a split vote costs no
new term; several nodes may then lead in one term, one after the other, and entries are told apart by
`LeaderId`.
"""

from __future__ import annotations

from typing import Protocol

from raftcore.types import LeaderId, Vote


class VoteOrder(Protocol):
    """The two rules, and what seeing a newer vote leads to."""

    def accepts_leader(self, leader: Vote, mine: Vote) -> bool:
        """May a message from the leader with the committed vote `leader` be followed, given what was promised?"""
        ...

    def may_grant(self, candidate: Vote, mine: Vote) -> bool:
        """May `candidate` be voted for, given what was promised? (Whose log is newer is another question.)"""
        ...

    def raised(self, seen: Vote, mine: Vote) -> Vote | None:
        """What to promise after seeing another node's vote: None when `mine` already goes as far."""
        ...


class StandardOrder:
    """One vote, and so one leader, a term (paper §5.2)."""

    def accepts_leader(self, leader: Vote, mine: Vote) -> bool:
        if leader.leader.term != mine.leader.term:
            return leader.leader.term > mine.leader.term
        # A quorum has voted for it, so whomever we voted for did not win this term.
        return leader.leader == mine.leader or not mine.committed

    def may_grant(self, candidate: Vote, mine: Vote) -> bool:
        if candidate.leader.term != mine.leader.term:
            return candidate.leader.term > mine.leader.term
        return not mine.committed and mine.leader.node in ("", candidate.leader.node)

    def raised(self, seen: Vote, mine: Vote) -> Vote | None:
        if seen.leader.term <= mine.leader.term:
            return None
        return Vote(LeaderId(seen.leader.term, ""), False)


class NodeOrder:
    """Votes are ordered by (term, node), and what was promised only ever grows in that order."""

    def accepts_leader(self, leader: Vote, mine: Vote) -> bool:
        return leader >= mine

    def may_grant(self, candidate: Vote, mine: Vote) -> bool:
        return candidate >= mine

    def raised(self, seen: Vote, mine: Vote) -> Vote | None:
        if seen.leader <= mine.leader:
            return None
        return Vote(seen.leader, False)

"""Leadership transfer (thesis 3.10): stop taking proposals, bring the target up to date, tell it to campaign.

The target's election does not wait for the followers' leases, so this leader's lease ends first (rule 4 of
reads). When nothing has come of it after an election timeout, this node goes on leading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine.leadership import Transfer
from raftcore.engine.output import TransferEnded
from raftcore.errors import MembershipRefused, NotLeader, TransferUnderWay
from raftcore.messages import TimeoutNow

if TYPE_CHECKING:
    from raftcore.engine.engine import Engine
    from raftcore.engine.leadership import Leadership
    from raftcore.types import NodeId


def begin(engine: Engine, target: NodeId | None, now: float) -> None:
    """Hand leadership to `target`, or to the voter whose log is furthest. `TransferEnded` says how it went.

    Raises `NotLeader`, `TransferUnderWay`, or `MembershipRefused` when the target is no other voter.
    """
    lead = engine.leadership
    if lead is None:
        raise NotLeader(f"node {engine.node} does not lead, so it has nothing to hand over", engine.leader)
    if lead.transfer is not None:
        raise TransferUnderWay(f"leadership is already being handed to {lead.transfer.target}")
    chosen = target if target is not None else _furthest(engine, lead)
    if chosen is None:
        raise MembershipRefused("there is no other voter to hand leadership to")
    if chosen == engine.node or not engine.membership.is_voter(chosen):
        raise MembershipRefused(f"{chosen!r} is not another voter; voters are {list(engine.membership.all_voters)}")
    lead.transfer = Transfer(chosen, now + engine.election_low)
    engine.deadline_moved = True
    proceed(engine, lead)


def proceed(engine: Engine, lead: Leadership) -> None:
    """Tell the target to campaign if it holds the whole log, and all of it is committed: whoever waits has an
    answer then."""
    transfer, last = lead.transfer, engine.log.last.index
    if transfer is not None and lead.match.get(transfer.target, 0) == last == engine.commit:
        _order(engine, lead, transfer.target)


def hand_over_at_once(engine: Engine, lead: Leadership) -> None:
    """This leader is leaving: let the furthest voter campaign, so that nobody has to wait for a timeout."""
    chosen = _furthest(engine, lead)
    if chosen is not None:
        _order(engine, lead, chosen)


def give_up(engine: Engine, lead: Leadership) -> None:
    """The target has not won in time: go on leading."""
    lead.transfer = None
    engine.events.append(TransferEnded(False))


def _order(engine: Engine, lead: Leadership, target: NodeId) -> None:
    lead.lease_over = True
    engine.send.append((target, TimeoutNow(engine.vote, lead.round)))


def _furthest(engine: Engine, lead: Leadership) -> NodeId | None:
    """The voter whose log is furthest; of those that stand alike, the one that has answered last (the others
    may be gone)."""
    others = [voter for voter in engine.membership.all_voters if voter != engine.node]
    return max(others, key=lambda voter: (lead.match.get(voter, 0), lead.rounds.get(voter, 0)), default=None)

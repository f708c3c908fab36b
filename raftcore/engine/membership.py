"""Membership changes (paper §6, thesis 4.3): joint consensus, learners, and what is in force when.

Rules
1. A configuration is in force from the moment when its entry is *appended*, on every node, committed or not.
2. What is in force is derived from the log and the snapshot: truncating an entry brings back what was in
   force before it, however many are truncated at once. A voter that is in force no more campaigns, if it
   must, until that is committed: the cluster may need it, since it may be the only one whose log is new
   enough (thesis 4.2.2). It does not count its own vote.
3. A change begins only when the one before is committed, and when this leader has committed an entry of its
   own term (the flaw in the single-server changes of 2015 was the lack of this).
4. Every change of voters goes through a joint configuration, which needs a majority of both sets for
   everything. When it is committed the leader appends the new set alone; so does a new leader that finds a
   joint configuration left behind.
5. A leader that is not in the new set leads until the new set is committed, without counting itself, and then
   hands over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine import election, replication, transfer
from raftcore.engine.log import NO_END
from raftcore.engine.output import MembershipChanged
from raftcore.engine.quorum import Quorum
from raftcore.errors import MembershipRefused, NotLeader, TransferUnderWay
from raftcore.types import Entries, EntryKind, LogId, Membership, NodeId, NodeInfo
from raftcore.wire import encode_membership

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftcore.engine.engine import Engine
    from raftcore.engine.leadership import Leadership


class History:
    """The newest committed membership and those appended behind it, oldest first (rule 2).

    `pending_index`: the oldest membership entry that is not known to be committed; `NO_END` when there is none.
    """

    __slots__ = ("_entries", "pending_index")

    def __init__(self, entries: list[tuple[LogId, Membership]], commit: int) -> None:
        self._entries = entries
        self.pending_index = NO_END
        self.trim(commit)

    @property
    def effective(self) -> Membership:
        return self._entries[-1][1]

    @property
    def effective_id(self) -> LogId:
        return self._entries[-1][0]

    def is_voter(self, node: NodeId) -> bool:
        """Whether `node` votes in what is in force, or has to stand by since that is not committed (rule 2)."""
        return any(membership.is_voter(node) for _, membership in self._entries)

    def append(self, log_id: LogId, membership: Membership) -> None:
        self._entries.append((log_id, membership))
        self._note_pending()

    def truncate(self, index: int) -> bool:
        """Forget what entries from `index` on had set. True when anything was forgotten."""
        before = len(self._entries)
        while len(self._entries) > 1 and self._entries[-1][0].index >= index:
            del self._entries[-1]
        self._note_pending()
        return len(self._entries) < before

    def trim(self, commit: int) -> None:
        """Keep the newest committed one, and what follows it."""
        while len(self._entries) > 1 and self._entries[1][0].index <= commit:
            del self._entries[0]
        self._note_pending()

    def _note_pending(self) -> None:
        self.pending_index = self._entries[1][0].index if len(self._entries) > 1 else NO_END

    def nodes(self) -> dict[NodeId, NodeInfo]:
        """Everyone in any of them, with the newest address."""
        return {node: info for _, membership in self._entries for node, info in membership.nodes.items()}


# -- the log changes, and with it what is in force ---------------------------------------------------------------


def appended(engine: Engine, log_id: LogId, membership: Membership) -> None:
    """An entry that sets `membership` is now in the log (rule 1)."""
    engine.history.append(log_id, membership)
    in_force(engine)


def truncated(engine: Engine, index: int) -> None:
    """The log is about to lose its entries from `index` on (rule 2)."""
    if engine.history.truncate(index):
        in_force(engine)


def in_force(engine: Engine, *, jumped: bool = False) -> None:
    """Act on the membership that is in force now; `jumped`: a snapshot brought it."""
    membership = engine.membership = engine.history.effective
    lead = engine.leadership
    if lead is not None:
        lead.quorum = Quorum(membership)
        lead.acks_changed = lead.rounds_changed = True
        # Who is out stays in `progress` until this is committed: it gets the entry, and that news, so that it knows.
        for peer in membership.members:
            if peer != engine.node and peer not in lead.progress:
                election.add_peer(engine, lead, peer, engine.log.last.index)
    elif engine.candidacy is None:
        election.set_role(engine, election.resting_role(engine))
    engine.events.append(MembershipChanged(membership, jumped))


def committed(engine: Engine) -> None:
    """A membership entry has become committed, or the leader's first own entry has."""
    engine.history.trim(engine.commit)
    engine.events.append(MembershipChanged(engine.membership))
    lead = engine.leadership
    if lead is None and engine.candidacy is None:
        election.set_role(engine, election.resting_role(engine))
    if lead is None or engine.commit < lead.first_index or engine.history.pending_index != NO_END:
        return
    membership = engine.membership
    if membership.is_joint:
        _append(engine, lead, _uniform(membership))  # rule 4
        return
    leaving = [peer for peer in lead.progress if peer not in membership.members]
    if leaving:
        replication.heartbeat(engine, lead)
        for peer in leaving:
            _drop(lead, peer)
    if not membership.is_voter(engine.node):
        transfer.hand_over_at_once(engine, lead)  # rule 5
        election.become_follower(engine, None)


def _drop(lead: Leadership, peer: NodeId) -> None:
    for table in (lead.progress, lead.match, lead.rounds):
        table.pop(peer, None)


def _uniform(joint: Membership) -> Membership:
    voters = joint.voters[-1]
    members = {*voters, *joint.learners}
    nodes = {node: info for node, info in joint.nodes.items() if node in members}
    return Membership((voters,), joint.learners, nodes)


def _append(engine: Engine, lead: Leadership, membership: Membership) -> int:
    run = Entries(engine.vote.leader, engine.log.last.index + 1, EntryKind.MEMBERSHIP, [encode_membership(membership)])
    engine.log.append(run)
    appended(engine, run.last_id, membership)
    return run.first_index


# -- changing it --------------------------------------------------------------------------------------------------


def change(
    engine: Engine, voters: tuple[NodeId, ...], learners: tuple[NodeId, ...], new_nodes: Mapping[NodeId, NodeInfo]
) -> int:
    """Make `voters` and `learners` the members; the index of the entry that begins it. `new_nodes`: where new ones are.

    Raises `NotLeader`, `TransferUnderWay` or `MembershipRefused`.
    """
    lead = _free_to_change(engine)
    current = engine.membership
    voters, learners = tuple(sorted(set(voters))), tuple(sorted(set(learners) - set(voters)))
    if not voters:
        raise MembershipRefused("a cluster needs at least one voter; name one")
    known = {**new_nodes, **current.nodes}
    unknown = [node for node in (*voters, *learners) if node not in known]
    if unknown:
        raise MembershipRefused(
            f"node {unknown[0]!r} is not a member and has no address; add it as a learner first, with its address"
        )
    old = current.voters[0]
    sets = (voters,) if voters == old else (old, voters)
    members = {node for group in sets for node in group} | set(learners)
    target = Membership(sets, learners, {node: known[node] for node in sorted(members)})
    if target == current:
        raise MembershipRefused(f"the members are already voters {list(voters)} and learners {list(learners)}")
    return _append(engine, lead, target)


def learn_incarnations(engine: Engine, incarnations: Mapping[NodeId, str]) -> None:
    """Write down which disk each member showed first, so that another disk under its name is refused. Does nothing now
    when a change is not possible now."""
    lead = engine.leadership
    if lead is None or engine.commit < lead.first_index or engine.history.pending_index != NO_END:
        return
    membership = engine.membership
    if membership.is_joint or lead.transfer is not None:
        return
    nodes = {
        node: NodeInfo(info.address, info.incarnation or incarnations.get(node, ""))
        for node, info in membership.nodes.items()
    }
    if nodes != membership.nodes:
        _append(engine, lead, Membership(membership.voters, membership.learners, nodes))


def _free_to_change(engine: Engine) -> Leadership:
    lead = engine.leadership
    if lead is None:
        raise NotLeader(f"node {engine.node} does not lead; ask {engine.leader or 'again when there is a leader'}")
    if lead.transfer is not None:
        raise TransferUnderWay(f"leadership is being handed to {lead.transfer.target}; ask it")
    if engine.commit < lead.first_index:
        raise MembershipRefused("this leader has not committed an entry of its own term yet; try again in a moment")
    if engine.history.pending_index != NO_END or engine.membership.is_joint:
        raise MembershipRefused("another change of membership is under way; try again when it is finished")
    return lead

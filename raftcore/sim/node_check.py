"""The rules about one node, checked after each of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine.engine import HELD_MESSAGES
from raftcore.engine.progress import State
from raftcore.types import NO_LOG, LeaderId, LogId, NodeId

if TYPE_CHECKING:
    from raftcore.engine import Engine
    from raftcore.engine.leadership import Leadership
    from raftcore.node.member import Member
    from raftcore.sim.host import Host
    from raftcore.sim.invariants import Invariants

INBOX = 10_000
"""Messages that may wait for one turn of a node; so many mean that it does not come round."""


class NodeCheck:
    """What was seen of one node in its last step; a step looks only at what has changed."""

    def __init__(self, rules: Invariants, host: Host, member: Member) -> None:
        self.rules = rules
        self.host = host
        self.member = member
        engine = self.engine = member.engine
        self.vote = engine.vote
        self.commit = 0
        self.last = NO_LOG
        self.durable = 0
        self.applied = 0
        self.lead: Leadership | None = None
        self.membership = engine.membership
        self.membership_id = NO_LOG
        self.matches: dict[NodeId, int] = {}
        self.deadline: float | None = None

    def after_step(self) -> None:
        """Called by the loop when the node has done something."""
        engine, log = self.engine, self.engine.log
        if engine.vote is not self.vote:
            self._check_vote(engine)
        if log.last is not self.last or log.durable != self.durable:
            self._check_log(engine)
        if engine.commit != self.commit:
            self._check_commit(engine)
        if engine.history.effective_id is not self.membership_id or engine.membership is not self.membership:
            self._check_membership(engine)
        if engine.leadership is not None or self.lead is not None:
            self._check_leadership(engine)
        applied = self.member.applier.applied.index
        if applied != self.applied:
            # While a snapshot is being installed the state machine is there before the log is.
            ahead = applied > min(engine.commit, log.durable) and engine.installing is None
            if applied < self.applied or ahead:
                self._fail(
                    "applied only grows, and never past commit or what is durable (paper §5.3)",
                    f"applied {self.applied} → {applied}, commit {engine.commit}, durable {log.durable}",
                )
            self.applied = applied
        if log.base.index > engine.snapshot_last.index:
            self._fail(
                "the log is purged only below a durable snapshot (paper §7)",
                f"purged up to {log.base.index}, the newest snapshot ends at {engine.snapshot_last.index}",
            )
        if self.rules.world.violation is not None:
            raise self.rules.world.violation

    def _fail(self, invariant: str, text: str) -> None:
        self.rules.fail(invariant, self.host, text)

    def _check_vote(self, engine: Engine) -> None:
        before, vote = self.vote, engine.vote
        self.vote = vote
        standard = engine.settings.vote_order == "standard"
        if vote.leader.term < before.leader.term or (not standard and vote < before):
            self._fail("the term and the vote only grow (paper §5.1)", f"{before} → {vote}")

    def _check_log(self, engine: Engine) -> None:
        """Log matching (paper §5.3): one entry id is preceded by one id only, in every log; and what counts as
        durable is on the disk."""
        log = engine.log
        self.last, self.durable = log.last, log.durable
        before = log.base
        for first, leader in zip(log._firsts, log._leaders, strict=True):
            if first <= log.base.index + 1 and leader == log.base.leader:
                pass  # its first entry is purged
            elif first > log.base.index:
                previous = LogId(before.leader, first - 1) if first - 1 != log.base.index else log.base
                known = self.rules.first_entries.setdefault(leader, previous)
                if known != previous:
                    self._fail(
                        "log matching (paper §5.3)",
                        f"the first entry of {leader} follows {previous} here and {known} elsewhere",
                    )
            before = LogId(leader, first)
        if log.durable > log.base.index:
            durable = log.id_at(log.durable)
            if durable is None or not self.host.holds(durable):
                self._fail(
                    "what counts as durable is on the disk (paper §5)",
                    f"{durable} at {log.durable}; the disk holds {self.host.ledger.id_at(log.durable)}",
                )

    def _check_commit(self, engine: Engine) -> None:
        """A committed entry is durable on a quorum and never changes (paper §5.4, leader completeness)."""
        rules, log, before = self.rules, engine.log, self.commit
        self.commit = engine.commit
        if engine.commit < before or engine.commit > log.last.index:
            self._fail(
                "commit only grows, within the log (paper §5.3)",
                f"{before} → {engine.commit}, the log ends at {log.last.index}",
            )
            return
        rules.world.note("commit", node=self.host.name, index=engine.commit)
        known = len(rules.committed)
        for index in range(max(log.base.index, before + 1), min(engine.commit + 1, known)):
            if log.id_at(index) != rules.committed[index]:
                self._fail(
                    "a committed entry never changes (paper §5.4)",
                    f"{index} is {log.id_at(index)} here; committed was {rules.committed[index]}",
                )
        if engine.commit < known:
            return
        newest = log.id_at(engine.commit)
        assert newest is not None
        if engine.leadership is None and self.lead is None:
            self._fail("the leader commits first (paper §5.3)", f"commits {newest}, which no leader has committed")
        if newest.leader != engine.vote.leader:
            self._fail(
                "only entries of the leader's own term are committed by counting (paper §5.4.2)",
                f"{newest} by {engine.vote}",
            )
        if not any(rules.on_a_quorum(membership, newest) for membership in (engine.membership, self.membership)):
            self._fail(
                "a committed entry is durable on a quorum of voters (paper §5.3)",
                f"{newest} in {engine.membership.voters}",
            )
        for index in range(known, engine.commit + 1):
            log_id = log.id_at(index)
            assert log_id is not None
            rules.committed.append(log_id)
            rules.committed_by.append(engine.vote.leader)

    def _check_membership(self, engine: Engine) -> None:
        """What is in force is the newest membership entry of the log (paper §6), and at most one is not committed."""
        rules, history = self.rules, engine.history
        self.membership, self.membership_id = engine.membership, history.effective_id
        for log_id, membership in history._entries:
            if log_id.index and rules.memberships.setdefault(log_id, membership) != membership:
                self._fail(
                    "log matching (paper §5.3)",
                    f"{log_id} sets {membership} here and {rules.memberships[log_id]} elsewhere",
                )
        log = engine.log
        stored = [at for at in rules.memberships if log.base.index < at.index and log.id_at(at.index) == at]
        if stored and max(stored) != history.effective_id:
            self._fail(
                "the membership in force is the newest in the log (paper §6)",
                f"in force is {history.effective_id}, in the log is {max(stored)}",
            )
        open_changes = [at for at in stored if at.index >= len(rules.committed)]
        if len(open_changes) > 1:
            self._fail("one change of membership at a time (paper §6)", f"{open_changes} are not committed")

    def _check_leadership(self, engine: Engine) -> None:
        lead = engine.leadership
        if lead is not self.lead:
            self.lead, self.matches = lead, {}
            if lead is not None:
                self._check_election(engine, engine.vote.leader)
        if lead is None:
            return
        matches = self.matches
        settings = engine.settings
        for peer, progress in lead.progress.items():
            match = progress.match
            if progress.next <= match:
                self._fail("next is above match (paper Figure 2)", f"{peer}: next {progress.next}, match {match}")
            if match < matches.get(peer, 0):
                self._fail("match only grows (paper Figure 2)", f"{peer}: {matches[peer]} → {match}")
            if progress.state is State.PIPELINE and progress.in_flight > settings.max_inflight_messages:
                self._fail("the window is bounded", f"{peer}: {progress.in_flight} messages are in flight")
            matches[peer] = match
        if matches.keys() - lead.progress.keys():
            self.matches = {peer: match for peer, match in matches.items() if peer in lead.progress}
        if engine.log.durable != lead.match.get(self.host.name, engine.log.durable):
            self._fail(
                "a leader counts itself as far as its own disk (thesis 10.2.1)",
                f"durable {engine.log.durable}, counted {lead.match}",
            )
        if len(engine._held) >= HELD_MESSAGES or len(self.member._inbox) > INBOX:
            self._fail(
                "queues are bounded", f"{len(engine._held)} messages held, {len(self.member._inbox)} in the inbox"
            )

    def _check_election(self, engine: Engine, leader: LeaderId) -> None:
        """Election safety and leader completeness (paper Figure 3)."""
        rules, log = self.rules, engine.log
        mine = (self.host.name, self.host.starts)
        if leader.node != self.host.name or rules.leaderships.setdefault(leader, mine) != mine:
            self._fail(
                "one leadership has one leader (paper §5.2)",
                f"{mine} leads as {leader}, which {rules.leaderships.get(leader)} did",
            )
        if (
            engine.settings.vote_order == "standard"
            and rules.leader_of.setdefault(leader.term, self.host.name) != self.host.name
        ):
            self._fail(
                "election safety: one leader a term (paper §5.2)",
                f"{rules.leader_of[leader.term]} leads in term {leader.term} too",
            )
        for index in range(log.base.index + 1, len(rules.committed)):
            if log.id_at(index) != rules.committed[index] and rules.committed_by[index] < leader:
                self._fail(
                    "leader completeness (paper §5.4)",
                    f"{leader} lacks the committed entry {rules.committed[index]}; it has {log.id_at(index)}",
                )
                break

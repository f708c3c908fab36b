"""What always holds, whatever a scenario says (paper Figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.types import LogId, Membership

if TYPE_CHECKING:
    from scenario_cluster import Machine


class Rules:
    """What always holds (paper Figure 3), looked at after everything that a machine does."""

    def __init__(self, machines: dict[str, Machine]) -> None:
        self.machines = machines
        self.leaders: dict[object, str] = {}
        self.committed: dict[int, tuple[LogId, object]] = {}

    def check(self, machine: Machine) -> None:
        engine = machine.engine
        if engine.leadership is not None and machine.seen_lead is not engine.leadership:
            self._election_safety(machine)
            self._leader_completeness(machine)
        self._state_machine_safety(machine)
        machine.seen_commit, machine.seen_lead = engine.commit, engine.leadership
        machine.seen_membership = engine.membership

    def _election_safety(self, machine: Machine) -> None:
        leader = machine.engine.vote.leader
        term = leader.term if machine.settings.vote_order == "standard" else leader
        other = self.leaders.setdefault(term, machine.node)
        assert other == machine.node, f"Election Safety: {other} and {machine.node} both lead in term {leader.term}"

    def _leader_completeness(self, machine: Machine) -> None:
        log, leader = machine.engine.log, machine.engine.vote.leader
        for index, (log_id, by) in self.committed.items():
            if by < leader and index > log.base.index:
                assert log.id_at(index) == log_id, (
                    f"Leader Completeness: {machine.node} leads term {leader.term} without the committed entry {index}"
                )

    def _state_machine_safety(self, machine: Machine) -> None:
        engine = machine.engine
        assert engine.commit >= machine.seen_commit, f"the commit index of {machine.node} went back"
        for index in range(max(engine.log.base.index, machine.seen_commit) + 1, engine.commit + 1):
            log_id = engine.log.id_at(index)
            if index not in self.committed:
                holders = {node for node, other in self.machines.items() if _holds(other, log_id)}
                # The membership may have changed with this very commit.
                quorum = any(_is_quorum(holders, known) for known in (machine.seen_membership, engine.membership))
                assert quorum, f"{machine.node} commits entry {index}, which is durable on {sorted(holders)} only"
                self.committed[index] = (log_id, engine.vote.leader)
            assert self.committed[index][0] == log_id, (
                f"State Machine Safety: {machine.node} commits an entry {index} of term {log_id.leader.term}, "
                f"but that of term {self.committed[index][0].leader.term} was committed there"
            )


def _holds(machine: Machine, log_id: LogId) -> bool:
    snapshot = machine.snapshot
    upto = max(machine.disk.base.index, 0 if snapshot is None else snapshot.last.index)
    return upto >= log_id.index or machine.disk.id_at(log_id.index) == log_id


def _is_quorum(holders: set[str], membership: Membership) -> bool:
    return all(2 * len(holders & set(group)) > len(group) for group in membership.voters)

"""Linearizable reads without a log entry (thesis 6.4): read index, and leases.

Rules
1. A leader serves nothing before it has committed an entry of its own term: until then its commit index may
   be behind.
2. A read is confirmed by answers from a quorum to a round that began *after* the read arrived. Rounds are the
   leader's own growing numbers; nothing that a caller chose takes part.
3. A lease counts from when the answered round was *sent*, on a clock that never steps back, and is shorter
   than the time for which those who answered refuse to vote for anybody else.
4. A lease ends before a transfer begins, since the target's election does not wait for anyone. Once a node was told
   to campaign there is no lease any more in this leadership: the order may arrive at any time, however late.

Reads are gathered: all that wait share the next round, and one round is under way at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine import replication
from raftcore.engine.output import ReadReady, ReadsRefused
from raftcore.errors import NotLeader

if TYPE_CHECKING:
    from raftcore.engine.engine import Engine
    from raftcore.engine.leadership import Leadership
    from raftcore.types import NodeId


def read(engine: Engine, id: int, lease: bool, now: float) -> None:
    """Confirm a read: `ReadReady` comes out when it may be served, `ReadsRefused` when it can't be. Raises
    `NotLeader`."""
    lead = engine.leadership
    if lead is None:
        raise NotLeader(f"node {engine.node} does not lead", engine.leader)
    if lease and engine.commit >= lead.first_index and lease_holds(engine, lead, now):
        engine.events.append(ReadReady([id], engine.commit))
        return
    lead.waiting_reads.append(id)


def lease_holds(engine: Engine, lead: Leadership, now: float) -> bool:
    """Whether nobody else can lead at `now` (rules 3 and 4)."""
    if not engine.settings.check_quorum or lead.transfer is not None or lead.lease_over:
        return False
    return now < confirmed_at(engine, lead, now) + engine.lease


def confirmed_at(engine: Engine, lead: Leadership, now: float) -> float:
    """When the newest round was sent that a quorum has answered: it was in touch with this leader at that
    time or later."""
    if lead.quorum.voters == (engine.node,):
        lead.confirmed_at = now  # kept, so that voters who join have the usual time to answer
        return now
    answered_round, times = lead.quorum.committed_index(lead.rounds), lead.round_times
    while times and times[0][0] <= answered_round:
        lead.confirmed_at = times.popleft()[1]
    return lead.confirmed_at


def answered(lead: Leadership, sender: NodeId, round: int) -> None:
    """A peer has answered a message of this round."""
    if round > lead.rounds.get(sender, 0):
        lead.rounds[sender] = round
        lead.rounds_changed = True


def proceed(engine: Engine, lead: Leadership, now: float) -> None:
    """Begin a round for the reads that wait, and let those go whose round a quorum has answered."""
    if lead.waiting_reads and not lead.pending_reads and engine.commit >= lead.first_index:  # rule 1
        lead.begin_round(engine.node, now)
        lead.rounds_changed = True
        lead.pending_reads.append((lead.round, lead.waiting_reads, engine.commit))
        lead.waiting_reads = []
        replication.heartbeat(engine, lead)
    if lead.rounds_changed:
        lead.rounds_changed = False
        if lead.pending_reads:
            reached = lead.quorum.committed_index(lead.rounds)
            while lead.pending_reads and lead.pending_reads[0][0] <= reached:
                _, ids, index = lead.pending_reads.popleft()
                engine.events.append(ReadReady(ids, index))


def refuse_all(engine: Engine) -> None:
    """This node stops leading: nothing that waits can be confirmed here."""
    lead = engine.leadership
    if lead is None:
        return
    ids = [read for _, waiting, _ in lead.pending_reads for read in waiting] + lead.waiting_reads
    if ids:
        engine.events.append(ReadsRefused(ids))

"""Log replication (paper §5.3, §5.4.2) and commit.

Rules
1. A follower acknowledges entries only when they are durable; the acknowledgement names the write that it
   waits for.
2. A leader commits by counting only entries of its own term; what lies before them is committed with them
   (§5.4.2).
3. A follower commits at most up to the last entry that the message in hand covers: only so far are the logs
   known to agree.
4. `commit` and `match` never go back; an old or repeated message moves nothing.
5. A follower deletes entries only where they conflict, never because a message ends earlier (a late message
   is no order).

Theory of operation. The leader sends the entries of a turn to everyone in that turn, beside its own write,
which counts like any follower's when it is durable (thesis 10.2.1). To a follower whose log agrees it sends
ahead, up to a window; after a rejection it probes, and the hint in the rejection skips a whole leadership, so
a diverging log costs one rejection a term. Heartbeats name the entry before `next`: a follower that missed
something rejects it, so a lost window repairs itself within a heartbeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine import election, membership, reads, snapshots, transfer
from raftcore.engine.output import EntriesWanted
from raftcore.engine.progress import Progress, State
from raftcore.errors import InvariantViolation, WireError
from raftcore.messages import AppendEntries, AppendReply, SnapshotReply
from raftcore.types import NO_LOG, Entries, EntryKind, LogId, NodeId
from raftcore.wire import decode_membership

if TYPE_CHECKING:
    from raftcore.engine.engine import Engine
    from raftcore.engine.leadership import Leadership

# -- the leader sends ---------------------------------------------------------------------------------------------


def replicate(engine: Engine, lead: Leadership, now: float) -> None:
    """Send every follower the entries that it lacks and has room for; one message object serves all that
    stand alike."""
    last = engine.log.last.index
    shared: AppendEntries | None = None
    shared_size = 0
    behind = False
    for peer, progress in lead.progress.items():
        while progress.next <= last and progress.may_send:
            if shared is None or shared.prev.index != progress.next - 1:
                runs = _runs_for(engine, peer, progress)
                if runs is None:
                    break
                shared, shared_size = _message(engine, lead, runs), _weight(runs)
            _send(engine, peer, progress, shared, shared_size)
        behind = behind or progress.commit_sent < engine.commit
    if behind and lead.notify_at is None:
        # Followers learn of a commit with the next entries. When none come, tell them soon, not with the next
        # heartbeat.
        lead.notify_at = now + engine.notify_delay
        engine.deadline_moved = True


def _message(engine: Engine, lead: Leadership, runs: list[Entries]) -> AppendEntries:
    prev = engine.log.id_at(runs[0].first_index - 1)
    if prev is None:
        raise InvariantViolation(f"entries from {runs[0].first_index} are to be sent, but what precedes them is purged")
    return AppendEntries(engine.vote, lead.round, prev, engine.commit, tuple(runs))


def _weight(runs: list[Entries]) -> int:
    return runs[0].weight if len(runs) == 1 else sum([run.weight for run in runs])


def _send(engine: Engine, peer: NodeId, progress: Progress, message: AppendEntries, size: int) -> None:
    engine.send.append((peer, message))
    progress.sent(message.runs[-1].last_index, size)
    progress.commit_sent = message.commit


def _runs_for(engine: Engine, peer: NodeId, progress: Progress) -> list[Entries] | None:
    """What to send next from memory. None after having asked for the entries, or for a snapshot."""
    log, first = engine.log, progress.next
    if first <= log.base.index:
        snapshots.offer(engine, peer, progress)
        return None
    runs = log.read(first, engine.settings.max_message_bytes)
    if runs is None:
        progress.reading = True
        engine.events.append(EntriesWanted(peer, first, log.last.index + 1))
    return runs


def entries_read(engine: Engine, peer: NodeId, first: int, runs: list[Entries]) -> None:
    """The node has read what `EntriesWanted` asked for. Ignored when the follower or this node has moved on."""
    lead = engine.leadership
    progress = lead.progress.get(peer) if lead is not None else None
    if lead is None or progress is None or not progress.reading:
        return
    progress.reading = False
    if not runs or progress.next != first or not progress.may_send or first <= engine.log.base.index:
        return
    if runs[-1].leader != engine.log.leader_at(runs[-1].last_index):
        return  # truncated and rewritten while it was being read
    _send(engine, peer, progress, _message(engine, lead, runs), _weight(runs))


def notify(engine: Engine, lead: Leadership) -> None:
    """Tell those who have not heard how far is committed, if there still are any."""
    lead.notify_at = None
    if any(progress.commit_sent < engine.commit for progress in lead.progress.values()):
        heartbeat(engine, lead)


def heartbeat(engine: Engine, lead: Leadership) -> None:
    """Tell every member that the leader lives, how far is committed, and which entry it should have (rule 5's
    repair)."""
    log, message = engine.log, None
    for peer, progress in lead.progress.items():
        prev = NO_LOG if progress.state is State.SNAPSHOT else log.id_at(progress.next - 1)
        if prev is None:
            progress.probe(progress.next)  # purged under a full window: if that was lost, only a snapshot helps
            prev = NO_LOG
        if message is None or message.prev != prev:
            message = AppendEntries(engine.vote, lead.round, prev, engine.commit)
        engine.send.append((peer, message))
        progress.commit_sent = engine.commit


# -- the follower receives ----------------------------------------------------------------------------------------


def on_append(engine: Engine, sender: NodeId, message: AppendEntries, now: float) -> None:
    """Accept entries, or a heartbeat, from a leader (paper Figure 2, "AppendEntries RPC")."""
    covered = _check_message(message)
    if not election.follow(engine, sender, message.vote, message.round, now):
        engine.send.append((sender, AppendReply(engine.vote, message.round, 0)))
        return
    log, prev = engine.log, message.prev
    if prev != log.last and not _agrees(engine, prev):
        hint = log.last_not_after(prev.index, prev.leader)
        reply = AppendReply(engine.vote, message.round, 0, prev.index, hint)
        engine.reply_when_vote_durable(sender, reply)
        return
    for run in message.runs:
        _accept(engine, run)
    if message.commit > engine.commit:
        engine.commit_to(message.commit if message.commit < covered else covered)  # rule 3
    if message.runs and covered > log.durable:
        engine.acknowledge_when_written(sender, AppendReply(engine.vote, message.round, covered))  # rule 1
    else:
        reply = AppendReply(engine.vote, message.round, min(covered, log.durable))
        engine.reply_when_vote_durable(sender, reply)


def _agrees(engine: Engine, prev: LogId) -> bool:
    """Whether the log holds `prev`. What is committed here is in every leader's log, purged or not (§5.4.3)."""
    if prev.index <= engine.commit:
        return True
    return engine.log.leader_at(prev.index) == prev.leader


def _check_message(message: AppendEntries) -> int:
    """The last index that the message covers; a peer's malformed message is refused before it touches anything."""
    expected, leader = message.prev.index + 1, message.prev.leader
    for run in message.runs:
        if run.first_index != expected or not leader <= run.leader <= message.vote.leader:
            raise WireError(f"entries {run!r} can't follow index {expected - 1} of term {leader.term}")
        if run.kind is EntryKind.MEMBERSHIP:
            decode_membership(run.payloads[0])
        expected, leader = run.last_index + 1, run.leader
    return expected - 1


def _accept(engine: Engine, run: Entries) -> None:
    """Add a run to the log, except for what is there already; drop what conflicts with it first (rule 5)."""
    log = engine.log
    if run.first_index != log.last.index + 1:
        conflict = log.first_conflict(run)
        if conflict is not None:
            if conflict <= engine.commit:
                raise InvariantViolation(
                    f"the leader's entry {conflict} is {run.leader}, but {log.leader_at(conflict)} is committed there "
                    f"(commit index {engine.commit}); the two logs belong to different clusters, or one was altered"
                )
            membership.truncated(engine, conflict)
            log.truncate(conflict)
        if run.last_index <= log.last.index:
            return
        run = run.part(log.last.index + 1, run.last_index)
    log.append(run)
    if run.kind is EntryKind.MEMBERSHIP:
        membership.appended(engine, run.last_id, decode_membership(run.payloads[0]))


# -- the leader counts --------------------------------------------------------------------------------------------


def answered(engine: Engine, sender: NodeId, reply: AppendReply | SnapshotReply) -> tuple[Leadership, Progress] | None:
    """Note the contact with a follower that answers. Only answers to this very leadership count (the votes are equal);
    None for every other, and for one that is no member."""
    lead = engine.leadership
    if lead is None or reply.vote != engine.vote:
        election.raise_vote(engine, reply.vote)
        return None
    progress = lead.progress.get(sender)
    if progress is None:
        return None
    if reply.match > engine.log.last.index:
        raise WireError(f"{sender} acknowledges index {reply.match}, the log ends at {engine.log.last.index}")
    if reply.round != lead.rounds.get(sender):
        reads.answered(lead, sender, reply.round)
    return lead, progress


def on_append_reply(engine: Engine, sender: NodeId, reply: AppendReply, now: float) -> None:
    """A follower says what of the log it holds, or that it could not follow."""
    known = answered(engine, sender, reply)
    if known is None:
        return
    lead, progress = known
    if reply.rejected is not None:
        _rejected(engine, progress, reply.rejected, reply.hint or NO_LOG)
        return
    if progress.acknowledged(reply.match):
        lead.acknowledged(sender, reply.match)
    if progress.state is State.PROBE:
        progress.asked = False
        if progress.match >= progress.next - 1:
            progress.pipeline()
    if lead.transfer is not None:
        transfer.proceed(engine, lead)


def _rejected(engine: Engine, progress: Progress, rejected: int, hint: LogId) -> None:
    """Find the next entry to try. A rejection of something older than what is settled is stale."""
    stale = rejected <= progress.match if progress.state is State.PIPELINE else rejected != progress.next - 1
    if stale or progress.state is State.SNAPSHOT:
        return
    tried = min(hint.index, rejected - 1)
    agreed = engine.log.last_not_after(tried, hint.leader)
    # Below the base nothing is known any more: go by the hint, which leads to a snapshot.
    progress.probe(min(agreed.index, tried) + 1)


def advance_commit(engine: Engine, lead: Leadership) -> None:
    """Commit what a quorum holds durably, if it reaches into this leadership (rule 2)."""
    lead.acks_changed = False
    reached = lead.quorum.committed_index(lead.match)
    if reached <= engine.commit or reached < lead.first_index:
        return
    uncommitted = lead.uncommitted
    while uncommitted and uncommitted[0][0] <= reached:
        lead.uncommitted_bytes -= uncommitted.popleft()[1]
    engine.commit_to(reached)

"""Leader election (paper §5.2, §5.4.1; thesis 4.2.3, 6.2, 9.6): pre-vote, votes, leases on them, taking and
leaving office.

Rules
1. A vote is granted only when it is durable, and a candidate's own vote counts only then too.
2. A node votes for a candidate only if the candidate's log is at least as new as its own (§5.4.1).
3. A node that hears a leader, or leads with a quorum in touch, refuses votes and pre-votes unless the leader
   itself asked for the election. So a member that was cut off, or removed, disturbs nobody.
4. A pre-vote changes nothing on either side. A refusal's higher term is taken over, or the asker would never
   catch up.
5. Votes are kept by voter, for one candidacy: a repeated, late or foreign grant counts nothing.
6. The election timer restarts when a leader is heard or a vote granted, and on nothing else; the timeout is
   drawn anew at each campaign.
7. After a restart a node behaves as if it had just heard a leader: it may have promised one, by its
   acknowledgements, to hold still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftcore.engine import reads
from raftcore.engine.leadership import Leadership
from raftcore.engine.output import Role, RoleChanged, TransferEnded
from raftcore.engine.progress import Progress
from raftcore.engine.quorum import Quorum, VoteResult
from raftcore.messages import AppendReply, RequestVote, SnapshotReply, TimeoutNow, VoteReply
from raftcore.types import Entries, EntryKind, LeaderId, NodeId, Vote

if TYPE_CHECKING:
    from raftcore.engine.engine import Engine


class Candidacy:
    """One campaign, or the pre-vote before it: what is asked for, and who has answered what."""

    __slots__ = ("pre", "transfer", "vote", "votes")

    def __init__(self, vote: Vote, pre: bool, transfer: bool) -> None:
        self.vote = vote
        self.pre = pre
        self.transfer = transfer
        self.votes: dict[NodeId, bool] = {}


# -- roles --------------------------------------------------------------------------------------------------------


def become_follower(engine: Engine, leader: NodeId | None) -> None:
    """Stop leading or campaigning; `leader` is whom the vote says to follow, if anybody."""
    reads.refuse_all(engine)
    if engine.leadership is not None and engine.leadership.transfer is not None:
        engine.events.append(TransferEnded(True))
    engine.leadership = None
    engine.candidacy = None
    engine.leader = leader
    set_role(engine, resting_role(engine))


def resting_role(engine: Engine) -> Role:
    """What this node is while it neither leads nor campaigns."""
    return Role.FOLLOWER if engine.history.is_voter(engine.node) else Role.LEARNER


def set_role(engine: Engine, role: Role) -> None:
    """Note the role, and tell the node when anything that it shows has changed."""
    engine.deadline_moved = True
    shown = (role, engine.vote.leader.term, engine.leader)
    if shown != engine.shown:
        engine.shown = shown
        engine.events.append(RoleChanged(*shown))
    engine.role = role
    engine.use_handlers(role)


def promise(engine: Engine, vote: Vote) -> None:
    """Take over a vote; it leaves this node in a message only after it is durable."""
    engine.vote = vote
    engine.vote_is_written = False
    engine.leader_round = 0


def raise_vote(engine: Engine, seen: Vote) -> None:
    """Another node is ahead of this one's vote: a leader or candidate gives up, whoever it is (paper §5.1)."""
    raised = engine.order.raised(seen, engine.vote)
    if raised is not None:
        promise(engine, raised)
        become_follower(engine, None)


def follow(engine: Engine, sender: NodeId, vote: Vote, round: int, now: float) -> bool:
    """A leader has spoken: follow it and restart the timer. False when a newer vote was promised, or it is no
    leader."""
    if vote is not engine.vote and vote != engine.vote:
        if not vote.committed or not engine.order.accepts_leader(vote, engine.vote):
            return False
        promise(engine, vote)
        become_follower(engine, sender)
    elif engine.leader != sender or engine.candidacy is not None:
        if sender != vote.leader.node or engine.leadership is not None:
            return False
        become_follower(engine, sender)
    engine.heard_at = engine.timer_at = now
    if round > engine.leader_round:
        engine.leader_round = round
    return True


# -- campaigning --------------------------------------------------------------------------------------------------


def may_campaign(engine: Engine) -> bool:
    """Voters do, unless a snapshot is being put in place of their log."""
    return engine.installing is None and engine.history.is_voter(engine.node)


def campaign(engine: Engine, now: float, *, pre: bool, transfer: bool = False) -> None:
    """Ask for the votes of the next term, or first whether they would be given (thesis 9.6)."""
    engine.timer_at = now
    engine.draw_timeout()
    vote = Vote(LeaderId(engine.vote.leader.term + 1, engine.node), False)
    if not pre:
        promise(engine, vote)
    become_follower(engine, None)
    candidacy = engine.candidacy = Candidacy(vote, pre, transfer)
    set_role(engine, Role.PRE_CANDIDATE if pre else Role.CANDIDATE)
    request = RequestVote(vote, engine.log.last, pre, transfer)
    for voter in engine.membership.all_voters:
        if voter == engine.node:
            continue
        if pre:
            engine.send.append((voter, request))
        else:
            # Rule 1. Were the request to leave first, a crash could forget this candidacy and its log's
            # unsaved end, and a second candidacy of the same vote, with the shorter log, could collect the
            # grants of the first.
            engine.send_when_vote_durable(voter, request)
    if pre:
        own_vote(engine, candidacy, now)


def own_vote(engine: Engine, candidacy: Candidacy, now: float) -> None:
    """Count the own vote: at once in a pre-vote, else when it has become durable."""
    if engine.node not in candidacy.votes:
        candidacy.votes[engine.node] = True
        _tally(engine, candidacy, now)


def _tally(engine: Engine, candidacy: Candidacy, now: float) -> None:
    result = Quorum(engine.membership).vote_result(candidacy.votes)
    if result is VoteResult.WON and candidacy.pre:
        campaign(engine, now, pre=False)
    elif result is VoteResult.WON:
        become_leader(engine, now)
    elif result is VoteResult.LOST:
        become_follower(engine, None)


def become_leader(engine: Engine, now: float) -> None:
    """Take office. A blank entry of the new term makes everything before it committable (rule 2 of replication)."""
    promise(engine, Vote(engine.vote.leader, True))
    log = engine.log
    first_index = log.last.index + 1
    engine.candidacy = None
    lead = engine.leadership = Leadership(engine.node, Quorum(engine.membership), first_index, log.durable, now)
    engine.leader = engine.node
    for peer in engine.membership.members:
        if peer != engine.node:
            add_peer(engine, lead, peer, first_index)
    log.append(Entries(engine.vote.leader, first_index, EntryKind.BLANK, [b""]))
    set_role(engine, Role.LEADER)


def add_peer(engine: Engine, lead: Leadership, peer: NodeId, next_index: int) -> None:
    """Begin to replicate to a member from `next_index` on; where its log agrees is found by asking."""
    settings = engine.settings
    lead.progress[peer] = Progress(next_index, settings.max_inflight_messages, settings.max_inflight_bytes)


# -- voting -------------------------------------------------------------------------------------------------------


def on_request_vote(engine: Engine, sender: NodeId, message: RequestVote, now: float) -> None:
    """Decide on a vote or a pre-vote, and answer either way."""
    if message.pre:
        granted = engine.leadership is None and not is_led(engine, now) and _deserves(engine, message)
        engine.reply_when_vote_durable(sender, VoteReply(engine.vote, message.vote, granted, True))
        return
    if not message.transfer and is_led(engine, now):
        engine.reply_when_vote_durable(sender, VoteReply(engine.vote, message.vote, False))
        return
    deserved = _deserves(engine, message)
    raise_vote(engine, message.vote)
    if deserved and engine.vote != message.vote:
        promise(engine, message.vote)
        become_follower(engine, None)
    if deserved:
        engine.timer_at = now  # rule 6
    engine.reply_when_vote_durable(sender, VoteReply(engine.vote, message.vote, deserved))


def _deserves(engine: Engine, message: RequestVote) -> bool:
    return message.last >= engine.log.last and engine.order.may_grant(message.vote, engine.vote)


def is_led(engine: Engine, now: float) -> bool:
    """Rule 3. A leader counts as led by itself: check-quorum takes it out of office when it is not in touch."""
    if not engine.settings.check_quorum:
        return False
    if engine.leadership is not None:
        return True
    return now < engine.heard_at + engine.election_low


def on_vote_reply(engine: Engine, sender: NodeId, reply: VoteReply, now: float) -> None:
    """Count an answer, if it is one to the candidacy in hand (rule 5)."""
    raise_vote(engine, reply.vote)
    candidacy = engine.candidacy
    if candidacy is None or reply.request != candidacy.vote or reply.pre != candidacy.pre:
        return
    candidacy.votes.setdefault(sender, reply.granted)
    _tally(engine, candidacy, now)


def on_stray_reply(engine: Engine, sender: NodeId, reply: VoteReply | AppendReply | SnapshotReply, now: float) -> None:
    """An answer to something that this node no longer asks: only a higher vote in it matters (paper §5.1)."""
    raise_vote(engine, reply.vote)


def on_timeout_now(engine: Engine, sender: NodeId, message: TimeoutNow, now: float) -> None:
    """The leader hands over: campaign at once, if this is a voter and the request is not one from the past.

    A delayed request would depose a leader that went on leading after the transfer had failed.
    """
    if message.vote != engine.vote or engine.leader != sender or message.round < engine.leader_round:
        return
    if may_campaign(engine):
        campaign(engine, now, pre=False, transfer=True)

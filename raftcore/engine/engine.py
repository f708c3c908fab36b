"""The engine: Raft as a pure state machine. Inputs are data, outputs are data; no I/O, no clock, no thread.

Rules
1. One turn: feed everything that has arrived (`receive`, `propose`, `read`, `written`, `tick` …), then `take`
   until it gives None, carrying out each `Output`; then `take_write` when no write is under way, and
   `written` when it is durable.
2. A message that promises something (a vote, an acknowledgement) is held back here until what it promises is
   durable, and dropped if the vote has moved on by then. So nobody outside can send one too early.
3. Every handler is chosen by role and type of message in `HANDLERS`; what a role has no use for is refused
   and counted, and changes nothing.
4. `now` is a number of seconds that never steps back; it is only ever compared with earlier ones.

Modules: `election`, `replication`, `membership`, `reads`, `snapshots`, `transfer` hold one concept of the
paper each, as functions on the engine; `log`, `progress`, `quorum`, `vote_order`, `leadership` the data they
work on.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from raftcore.contracts.log_store import WriteBatch
from raftcore.engine import election, membership, reads, replication, snapshots, transfer
from raftcore.engine.log import Log
from raftcore.engine.output import Event, Output, Role
from raftcore.engine.vote_order import NodeOrder, StandardOrder, VoteOrder
from raftcore.errors import InvariantViolation, MembershipRefused, NotLeader, Overloaded, TransferUnderWay
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    Message,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)
from raftcore.types import (
    ENTRY_OVERHEAD,
    NO_LOG,
    NO_MEMBERSHIP,
    NO_VOTE,
    Entries,
    EntryKind,
    LeaderId,
    LogId,
    Membership,
    NodeId,
    NodeInfo,
    SnapshotMeta,
    Vote,
)
from raftcore.wire import encode_membership

if TYPE_CHECKING:
    import random

    from raftcore.engine.leadership import Leadership
    from raftcore.engine.settings import RaftSettings

FOREVER = float("inf")
HELD_MESSAGES = 4096
"""Messages that wait for the disk; of more, the oldest are dropped, as if lost on their way."""


class Engine:
    """One member of one group. The attributes are for the modules of this package, for `Node` and for tests to read."""

    def __init__(
        self,
        node: NodeId,
        settings: RaftSettings,
        rng: random.Random,
        *,
        vote: Vote,
        log: Log,
        memberships: list[tuple[LogId, Membership]],
        commit: int,
        snapshot_last: LogId,
        now: float,
    ) -> None:
        """A member as its disk describes it. `memberships`: that of the snapshot (or none) and every one in
        the log, in order; `commit` must not be greater than what is committed, 0 is always right."""
        self.node = node
        self.settings = settings
        low, high = settings.election_timeout_ms
        self.election_low, self.election_high = low / 1000, high / 1000
        self.heartbeat_interval = settings.heartbeat_ms / 1000
        self.notify_delay = self.heartbeat_interval / 20
        self.lease = settings.lease_seconds
        self.order: VoteOrder = StandardOrder() if settings.vote_order == "standard" else NodeOrder()
        self.elections_enabled = True
        self.heartbeats_enabled = True

        self.vote = vote
        self.vote_is_written = True
        self.log = log
        self.commit = max(commit, log.base.index)
        self.snapshot_last = snapshot_last
        self.history = membership.History([(NO_LOG, NO_MEMBERSHIP), *memberships], self.commit)
        self.membership = self.history.effective
        self.installing: str | None = None

        self.leader: NodeId | None = None
        self.leader_round = 0
        self.leadership: Leadership | None = None
        self.candidacy: election.Candidacy | None = None
        pristine = vote == NO_VOTE
        self.heard_at = -FOREVER if pristine else now  # rule 7 of election
        self.timer_at = now
        self._rng = rng
        self.draw_timeout()

        self.send: list[tuple[NodeId, Message]] = []
        self.events: list[Event] = []
        self.refused = 0
        self.deadline_moved = True
        self._ticket = 0
        self._durable_ticket = 0
        self._vote_ticket = 0
        self._held: deque[tuple[int, NodeId, Message]] = deque(maxlen=HELD_MESSAGES)
        self.role = election.resting_role(self)
        self.handlers = HANDLERS[self.role]
        self.shown: tuple[Role, int, NodeId | None] = (self.role, vote.leader.term, None)

    # -- time ---------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick` has something to do if nothing arrives before; infinity when nothing ever will.

        It may come nearer only when `deadline_moved` is set, which the caller clears; messages alone put it off.
        """
        if self.leadership is not None:
            return self.leadership.deadline()
        if not self.elections_enabled or not election.may_campaign(self):
            return FOREVER
        return self.timer_at + self.timeout

    def draw_timeout(self) -> None:
        """A new random election timeout."""
        self.timeout = self._rng.uniform(self.election_low, self.election_high)

    def tick(self, now: float) -> None:
        """Do what is due at `now`."""
        lead = self.leadership
        if lead is not None:
            self._tick_leader(lead, now)
        elif now >= self.deadline():
            election.campaign(self, now, pre=self.settings.pre_vote)

    def _tick_leader(self, lead: Leadership, now: float) -> None:
        if lead.transfer is not None and now >= lead.transfer.deadline:
            transfer.give_up(self, lead)
        if now >= lead.heartbeat_at:
            lead.heartbeat_at = now + self.heartbeat_interval
            self.timer_at = now  # it hears itself: when it steps back it does not campaign in that moment
            if self.settings.check_quorum and now - reads.confirmed_at(self, lead, now) > self.election_low:
                election.become_follower(self, None)
                return
            if self.heartbeats_enabled:
                self.heartbeat(now)
        elif lead.notify_at is not None and now >= lead.notify_at:
            replication.notify(self, lead)

    def heartbeat(self, now: float) -> None:
        """Show now that the leader lives; nothing on other nodes. A new round, so that the answers prove
        contact after `now`."""
        lead = self.leadership
        if lead is None:
            return
        lead.begin_round(self.node, now)
        lead.rounds_changed = True
        replication.heartbeat(self, lead)
        transfer.proceed(self, lead)

    def use_handlers(self, role: Role) -> None:
        """Another role handles messages in another way."""
        self.handlers = HANDLERS[role]

    # -- inputs -------------------------------------------------------------------------------------------------------

    def receive(self, sender: NodeId, message: Message, now: float) -> None:
        """A message has arrived. Raises `WireError` when it is malformed: the peer's fault, and nothing was done."""
        handler = self.handlers.get(type(message))
        if handler is None:
            self.refused += 1
            return
        handler(self, sender, message, now)

    def propose(self, payloads: list[bytes]) -> list[Entries]:
        """Append the application's payloads as entries of this leader; the runs that they became.

        Raises `NotLeader`, `TransferUnderWay` or `Overloaded`; then nothing was appended.
        """
        lead = self.leadership
        if lead is None:
            raise NotLeader(f"node {self.node} does not lead", self.leader)
        if lead.transfer is not None:
            raise TransferUnderWay(f"leadership is being handed to {lead.transfer.target}")
        if lead.uncommitted_bytes >= self.settings.max_uncommitted_bytes:
            raise Overloaded(
                f"{lead.uncommitted_bytes} bytes are not committed yet (raft.max_uncommitted_bytes is "
                f"{self.settings.max_uncommitted_bytes}); try again when the cluster has caught up"
            )
        runs = self._runs_of(payloads) if payloads else []
        for run in runs:
            self.log.append(run)
            lead.uncommitted.append((run.last_index, run.weight))
            lead.uncommitted_bytes += run.weight
        return runs

    def _runs_of(self, payloads: list[bytes]) -> list[Entries]:
        """The payloads as runs, each of which fits into one message, so that none is ever cut on its way."""
        limit, first, leader = self.settings.max_message_bytes, self.log.last.index + 1, self.vote.leader
        whole = Entries(leader, first, EntryKind.NORMAL, payloads)
        if whole.weight <= limit:
            return [whole]
        runs: list[Entries] = []
        start = 0
        while start < len(payloads):
            end, size = start, 0
            while end < len(payloads) and (end == start or size + len(payloads[end]) + ENTRY_OVERHEAD <= limit):
                size += len(payloads[end]) + ENTRY_OVERHEAD
                end += 1
            runs.append(Entries(leader, first + start, EntryKind.NORMAL, payloads[start:end]))
            start = end
        return runs

    def read(self, id: int, *, lease: bool, now: float) -> None:
        """Confirm a linearizable read; `ReadReady` or `ReadsRefused` comes out with `id`. Raises `NotLeader`."""
        reads.read(self, id, lease, now)

    def bootstrap(self, first: Membership) -> None:
        """Begin a cluster with these members. Every one of them may do so, with the same members; raises
        `MembershipRefused` on a node that has seen any log or vote.

        The entry's id is made of what it says, so nodes that were told of different members hold different
        logs and notice.
        """
        if self.vote != NO_VOTE or self.log.last.index or self.history.effective.nodes:
            raise MembershipRefused(f"node {self.node} already belongs to a cluster; it can't begin another")
        payload = encode_membership(first)
        run = Entries(LeaderId(0, f"bootstrap-{_fingerprint(payload)}"), 1, EntryKind.MEMBERSHIP, [payload])
        self.log.append(run)
        membership.appended(self, run.last_id, first)

    def change_membership(
        self, voters: tuple[NodeId, ...], learners: tuple[NodeId, ...], new_nodes: Mapping[NodeId, NodeInfo]
    ) -> int:
        """See `membership.change`."""
        return membership.change(self, voters, learners, new_nodes)

    def learn_incarnations(self, incarnations: Mapping[NodeId, str]) -> None:
        """See `membership.learn_incarnations`."""
        membership.learn_incarnations(self, incarnations)

    def transfer_leadership(self, target: NodeId | None, now: float) -> None:
        """See `transfer.begin`."""
        transfer.begin(self, target, now)

    def campaign(self, now: float) -> None:
        """Ask for an election now. Does nothing on a leader, or on a node that may not campaign, or that has
        heard a leader within the lower election timeout: its answers back that leader's lease."""
        if not election.is_led(self, now) and self.leadership is None and election.may_campaign(self):
            election.campaign(self, now, pre=self.settings.pre_vote)

    def entries_read(self, peer: NodeId, first: int, runs: list[Entries]) -> None:
        """The answer to `EntriesWanted`."""
        replication.entries_read(self, peer, first, runs)

    # -- snapshots and purging ------------------------------------------------------------------------------------

    def snapshot_saved(self, last: LogId) -> None:
        """See `snapshots.saved`."""
        snapshots.saved(self, last)

    def snapshot_begins(self, peer: NodeId, last: LogId) -> None:
        """`peer` is being sent the snapshot that ends at `last`: entries behind it stay in the log meanwhile."""
        progress = self.leadership.progress.get(peer) if self.leadership is not None else None
        if progress is not None and progress.snapshot_index < last.index:
            progress.snapshot_index = last.index

    def snapshot_installed(self, meta: SnapshotMeta) -> None:
        """See `snapshots.installed`."""
        snapshots.installed(self, meta)

    def purgeable(self, trailing: int) -> LogId | None:
        """See `snapshots.purgeable`."""
        return snapshots.purgeable(self, trailing)

    def purge(self, upto: LogId) -> None:
        """The node is about to purge the store up to here; memory forgets as well."""
        if upto.index > self.snapshot_last.index:
            raise InvariantViolation(f"purge up to {upto.index}, but the snapshot ends at {self.snapshot_last.index}")
        self.log.purge(upto)

    # -- commit ---------------------------------------------------------------------------------------------------

    @property
    def needs_write(self) -> bool:
        """`take_write` has something."""
        return self.log.dirty or not self.vote_is_written

    @property
    def applicable(self) -> int:
        """Up to here entries may be applied: committed, and durable on this node."""
        return self.commit if self.commit < self.log.durable else self.log.durable

    def commit_to(self, index: int) -> None:
        """Entries up to `index` are committed; never goes back."""
        if index <= self.commit:
            return
        lead = self.leadership
        first_own = lead is not None and self.commit < lead.first_index
        self.commit = index
        if first_own or index >= self.history.pending_index:
            membership.committed(self)
        if lead is not None and lead.transfer is not None and self.leadership is lead:
            transfer.proceed(self, lead)

    # -- durability: what must wait for the disk ------------------------------------------------------------------

    def take_write(self) -> tuple[int, WriteBatch] | None:
        """Everything that is not on its way to the disk yet, as one write and its ticket; None when there is
        nothing."""
        if self.vote_is_written and not self.log.dirty:
            return None
        self._ticket += 1
        reset, truncate_from, runs = self.log.take_unwritten(self._ticket)
        vote = None
        if not self.vote_is_written:
            vote = self.vote
            self.vote_is_written = True
            self._vote_ticket = self._ticket
        return self._ticket, WriteBatch(vote, reset, truncate_from, runs, self.commit)

    def written(self, ticket: int, now: float) -> None:
        """The write with this ticket, and every one before it, is durable."""
        self._durable_ticket = ticket
        self.log.written(ticket)
        lead = self.leadership
        if lead is not None:
            lead.match[self.node] = self.log.durable
            if lead.furthest > self.commit or len(lead.quorum.voters) == 1:  # else no quorum can have reached further
                lead.acks_changed = True
        elif self.candidacy is not None and not self.candidacy.pre and self._vote_is_durable():
            election.own_vote(self, self.candidacy, now)
        held = self._held
        while held and held[0][0] <= ticket:
            _, to, message = held.popleft()
            if message.vote == self.vote:  # else it says what this node no longer stands for
                self.send.append((to, message))

    def _vote_is_durable(self) -> bool:
        return self.vote_is_written and self._vote_ticket <= self._durable_ticket

    def acknowledge_when_written(self, to: NodeId, reply: AppendReply) -> None:
        """Send once everything accepted so far is durable. Of two acknowledgements that wait for one write,
        the greater says all."""
        ticket = self._ticket + (self.log.dirty or not self.vote_is_written)
        held = self._held
        if held and held[-1][:2] == (ticket, to):
            earlier = held[-1][2]
            if type(earlier) is AppendReply and earlier.match <= reply.match:
                held.pop()
        held.append((ticket, to, reply))

    def reply_when_vote_durable(self, to: NodeId, reply: Message) -> None:
        """Send at once if the vote that it carries is durable, so that a slow disk does not silence
        heartbeats; else then."""
        if self._vote_is_durable():
            self.send.append((to, reply))
        else:
            self.send_when_vote_durable(to, reply)

    def send_when_vote_durable(self, to: NodeId, message: Message) -> None:
        """Send when the vote that was just taken is durable."""
        self._held.append((self._ticket + (not self.vote_is_written), to, message))

    # -- outputs --------------------------------------------------------------------------------------------------

    def take(self, now: float) -> Output | None:
        """What is to be done now; call again until it gives None."""
        lead = self.leadership
        if lead is not None:
            if lead.acks_changed:
                replication.advance_commit(self, lead)
            if self.leadership is lead:
                if lead.waiting_reads or lead.rounds_changed:
                    reads.proceed(self, lead, now)
                replication.replicate(self, lead, now)
        if not self.send and not self.events:
            return None
        output = Output(self.send, self.events)
        self.send, self.events = [], []
        return output


def _fingerprint(payload: bytes) -> str:
    return f"{zlib.crc32(payload):08x}"


Handler = Callable[..., None]
"""(engine, sender, message, now); each takes its own type of message."""


def _handlers() -> dict[Role, dict[type, Handler]]:
    def table(**special: Handler) -> dict[type, Handler]:
        handlers: dict[type, Handler] = {
            RequestVote: election.on_request_vote,
            AppendEntries: replication.on_append,
            SnapshotChunk: snapshots.on_chunk,
            VoteReply: election.on_stray_reply,
            AppendReply: election.on_stray_reply,
            SnapshotReply: election.on_stray_reply,
        }
        by_name = {kind.__name__: kind for kind in (*handlers, TimeoutNow)}
        return {**handlers, **{by_name[name]: handler for name, handler in special.items()}}

    return {
        Role.LEARNER: table(),
        Role.FOLLOWER: table(TimeoutNow=election.on_timeout_now),
        Role.PRE_CANDIDATE: table(VoteReply=election.on_vote_reply),
        Role.CANDIDATE: table(VoteReply=election.on_vote_reply),
        Role.LEADER: table(AppendReply=replication.on_append_reply, SnapshotReply=snapshots.on_reply),
    }


HANDLERS = _handlers()
"""role → type of message → what handles it. A pair that is missing is refused and counted: orders to campaign
for anyone but a follower, and `Forward` and `ForwardReply`, which are the node's."""

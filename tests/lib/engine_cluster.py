"""A harness for the engine: one member with crafted messages, or a cluster whose network and disks obey the test."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import groupby

from raftcore.contracts.log_store import WriteBatch
from raftcore.engine import Engine, Log, RaftSettings, Role
from raftcore.engine.output import ChunkArrived, EntriesWanted, Event, SnapshotWanted
from raftcore.engine.progress import State
from raftcore.engine.snapshots import installed_reply
from raftcore.messages import Message, SnapshotChunk, VoteReply
from raftcore.types import (
    NO_LOG,
    NO_VOTE,
    Entries,
    Entry,
    EntryKind,
    LeaderId,
    LogId,
    Membership,
    NodeInfo,
    SnapshotMeta,
    Vote,
)
from raftcore.wire import decode_membership

Letter = tuple[str, str, Message]
"""From, to, what."""


def make_membership(voters: Iterable[str], learners: Iterable[str] = (), joint_with: Iterable[str] = ()) -> Membership:
    """Members at addresses that are their names; joint when `joint_with` names a second set."""
    groups = (tuple(sorted(voters)),) + ((tuple(sorted(joint_with)),) if joint_with else ())
    names = sorted({node for group in groups for node in group} | set(learners))
    return Membership(groups, tuple(sorted(learners)), {name: NodeInfo(f"at-{name}") for name in names})


class Disk:
    """What a log store holds, entry by entry: slow and obvious, and strict about its contract."""

    def __init__(self) -> None:
        self.vote = NO_VOTE
        self.base = NO_LOG
        self.entries: list[Entry] = []
        self.committed = 0

    @property
    def last(self) -> LogId:
        return self.entries[-1].log_id if self.entries else self.base

    def id_at(self, index: int) -> LogId | None:
        if index == self.base.index:
            return self.base
        if not self.base.index < index <= self.last.index:
            return None
        return self.entries[index - self.base.index - 1].log_id

    def write(self, batch: WriteBatch) -> None:
        if batch.vote is not None:
            self.vote = batch.vote
        if batch.reset is not None:
            self.base, self.entries = batch.reset, []
        if batch.truncate_from is not None:
            assert batch.truncate_from > self.base.index, "a purged entry can't be cut off"
            del self.entries[batch.truncate_from - self.base.index - 1 :]
        for run in batch.runs:
            assert self.last.index + 1 == run.first_index, "a log has no holes"
            self.entries += list(run)
        self.committed = max(self.committed, batch.committed)

    def read(self, first: int, stop: int, max_bytes: int) -> list[Entries]:
        assert first > self.base.index, "a purged entry can't be read"
        wanted, room = [], max_bytes
        for entry in self.entries[first - self.base.index - 1 : stop - self.base.index - 1]:
            room -= len(entry.payload) + 48
            if wanted and room < 0:
                break
            wanted.append(entry)
        return [
            Entries(leader, part[0].log_id.index, kind, [entry.payload for entry in part])
            for (leader, kind), group in groupby(wanted, key=lambda entry: (entry.log_id.leader, entry.kind))
            for part in [list(group)]
        ]

    def purge(self, upto: LogId) -> None:
        assert self.id_at(upto.index) == upto, "only an entry that the log holds can be purged"
        del self.entries[: upto.index - self.base.index]
        self.base = upto

    def open_log(self, cache_bytes: int) -> Log:
        leaders: list[tuple[int, LeaderId]] = []
        for entry in self.entries:
            if not leaders or leaders[-1][1] != entry.log_id.leader:
                leaders.append((entry.log_id.index, entry.log_id.leader))
        return Log(self.base, self.last, leaders, cache_bytes)


class Clock:
    """Seconds since the start, for all members; each may run at its own rate and from its own zero."""

    def __init__(self) -> None:
        self.now = 0.0


class Member:
    """One engine with its disk. `auto`: writes and reads of the store finish at once; else on command."""

    def __init__(
        self,
        node: str,
        settings: RaftSettings,
        clock: Clock,
        *,
        initial: Membership | None = None,
        seed: int = 0,
        auto: bool = True,
        rate: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        self.node, self.settings, self.clock, self.initial, self.auto = node, settings, clock, initial, auto
        self.rng = random.Random(f"{seed} {node}")
        self.rate, self.offset = rate, offset
        self.disk = Disk()
        self.snapshot: SnapshotMeta | None = None
        self.applied = 0
        self.alive = False

    @property
    def now(self) -> float:
        return self.offset + self.clock.now * self.rate

    def start(self) -> Engine:
        """Begin, or begin again after a crash, from what the disk and the newest snapshot say."""
        disk, taken = self.disk, self.snapshot
        commit = disk.committed
        if taken is not None:
            commit = max(commit, taken.last.index)
            if taken.last.index > disk.base.index and disk.id_at(taken.last.index) != taken.last:
                disk.write(WriteBatch(reset=taken.last))
        self.engine = Engine(
            self.node,
            self.settings,
            self.rng,
            vote=disk.vote,
            log=disk.open_log(self.settings.cache_bytes),
            memberships=self.stored_memberships(),
            commit=commit,
            snapshot_last=NO_LOG if taken is None else taken.last,
            now=self.now,
        )
        self.sent: list[tuple[str, Message]] = []
        self.events: list[Event] = []
        self.writing: list[tuple[int, WriteBatch]] = []
        self.reading: list[EntriesWanted] = []
        self.applied = 0 if taken is None else taken.last.index
        self.alive = True
        return self.engine

    def stored_memberships(self) -> list[tuple[LogId, Membership]]:
        """That of the newest snapshot, or the first one, and every one in the log behind it."""
        known = [] if self.initial is None else [(NO_LOG, self.initial)]
        if self.snapshot is not None:
            known = [(self.snapshot.membership_at, self.snapshot.membership)]
        return known + [
            (entry.log_id, decode_membership(entry.payload))
            for entry in self.disk.entries
            if entry.kind is EntryKind.MEMBERSHIP and entry.log_id.index > (known[0][0].index if known else 0)
        ]

    def fill(self, terms: Iterable[int], *, term: int | None = None, commit: int = 0, by: str = "b") -> None:
        """Put a log of these terms, one entry each, and a vote on the disk; before `start`."""
        for index, entry_term in enumerate(terms, 1):
            log_id = LogId(LeaderId(entry_term, by), index)
            self.disk.entries.append(Entry(log_id, EntryKind.NORMAL, b"%d.%d" % (entry_term, index)))
        known = self.disk.last.leader.term if term is None else term
        self.disk.vote = Vote(LeaderId(known, ""), False) if known else NO_VOTE
        self.disk.committed = commit

    # -- what goes in ---------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        self.engine.receive(sender, message, self.now)
        self.drain()

    def drain(self) -> None:
        """Take everything that the engine wants done, until it wants nothing more."""
        while True:
            output = self.engine.take(self.now)
            if output is not None:
                self.sent += output.send
                self.events += output.events
                self.reading += [event for event in output.events if isinstance(event, EntriesWanted)]
            if self.auto:
                busy = self.begin_write()
                self.finish_writes()
                busy = self.answer_reads() or busy
                if busy:
                    continue
            if output is None:
                return

    def begin_write(self) -> bool:
        taken = self.engine.take_write()
        if taken is not None:
            self.writing.append(taken)
        return taken is not None

    def finish_write(self) -> None:
        """The oldest write that is under way becomes durable."""
        ticket, batch = self.writing.pop(0)
        self.disk.write(batch)
        self.engine.written(ticket, self.now)

    def finish_writes(self) -> None:
        while self.writing:
            self.finish_write()

    def flush(self) -> None:
        """Everything that waits for the disk becomes durable, and what follows from it is done."""
        while self.begin_write() or self.writing:
            self.finish_writes()
            self.drain()

    def answer_reads(self) -> bool:
        wanted, self.reading = self.reading, []
        for want in wanted:
            first = max(want.first, self.disk.base.index + 1)
            runs = self.disk.read(first, want.stop, self.settings.max_message_bytes)
            self.engine.entries_read(want.peer, want.first, runs)
        return bool(wanted)

    def elapse(self, seconds: float) -> None:
        """Time passes; the engine is woken whenever it asked for it."""
        until = self.clock.now + seconds
        while (due := (self.engine.deadline() - self.offset) / self.rate) <= until:
            self.clock.now = max(self.clock.now, due + 1e-9)
            self.engine.tick(self.now)
            self.drain()
        self.clock.now = until

    # -- what comes out -------------------------------------------------------------------------------------------

    def take_sent(self, kind: type | None = None) -> list[tuple[str, Message]]:
        """What was sent since the last time, of this type only (the rest is thrown away)."""
        sent, self.sent = self.sent, []
        return [(to, message) for to, message in sent if kind is None or isinstance(message, kind)]

    def take_events(self, kind: type) -> list[Event]:
        events, self.events = self.events, []
        return [event for event in events if isinstance(event, kind)]

    def terms(self) -> list[int]:
        """The term of every entry behind the base, as the engine sees its log."""
        log = self.engine.log
        return [log.id_at(index).leader.term for index in range(log.base.index + 1, log.last.index + 1)]

    def state(self) -> tuple[object, ...]:
        """What must not change when a message is refused."""
        engine = self.engine
        lead = engine.leadership
        return (
            *(engine.role, engine.vote, engine.leader, engine.commit, engine.log.last, engine.log.durable),
            *(engine.membership, engine.heard_at, engine.timer_at, engine.timeout, engine.leader_round),
            *(engine.vote_is_written, engine.needs_write, engine.snapshot_last, len(engine.send)),
            None if lead is None else (dict(lead.match), dict(lead.rounds), lead.round, lead.transfer),
            None if lead is None else [(peer, p.state, p.match, p.next, p.asked) for peer, p in lead.progress.items()],
            None if engine.candidacy is None else dict(engine.candidacy.votes),
        )

    def become_leader(self) -> None:
        """Win the election of the next term with everybody's vote."""
        engine = self.engine
        self.elapse(engine.timer_at + engine.timeout - self.now + 0.001)
        for pre in (True, False) if self.settings.pre_vote else (False,):
            if engine.candidacy is not None:
                asked = engine.candidacy.vote
                for voter in engine.membership.all_voters:
                    if voter != self.node and engine.leadership is None:
                        vote = engine.vote if pre else asked
                        self.receive(voter, VoteReply(vote, asked, True, pre))
        assert engine.role is Role.LEADER, engine.role
        self.take_sent()
        self.events.clear()

    # -- snapshots ------------------------------------------------------------------------------------------------

    def take_snapshot(self, *, trailing: int = 0, purge: bool = True) -> None:
        """A snapshot of what is applied is durable; the log gives way to it."""
        engine = self.engine
        self.applied = engine.applicable
        last = engine.log.id_at(self.applied)
        at, membership = [known for known in self.stored_memberships() if known[0].index <= self.applied][-1]
        self.snapshot = SnapshotMeta(f"{self.node}-{self.applied}", last, membership, at, size=1)
        engine.snapshot_saved(last)
        if purge:
            self.purge(trailing)

    def purge(self, trailing: int) -> None:
        upto = self.engine.purgeable(trailing)
        if upto is not None:
            self.engine.purge(upto)
            self.disk.purge(upto)

    def chunk(self) -> SnapshotChunk:
        """The whole of the newest snapshot in one message."""
        lead = self.engine.leadership
        return SnapshotChunk(self.engine.vote, lead.round, self.snapshot, 0, b"x", True)

    def install(self, sender: str, chunk: SnapshotChunk) -> None:
        """The snapshot is whole, durable and restored."""
        meta = chunk.meta
        if meta.last.index > (0 if self.snapshot is None else self.snapshot.last.index):
            self.snapshot = meta
        self.applied = max(self.applied, meta.last.index)
        self.engine.snapshot_installed(meta)
        self.engine.reply_when_vote_durable(sender, installed_reply(self.engine, meta, chunk.round))


class Cluster:
    """Members and a network of letters that are delivered, in order, when the test says so."""

    def __init__(self, members: dict[str, Member], clock: Clock) -> None:
        self.members, self.clock = members, clock
        self.queue: list[Letter] = []
        self.cuts: set[frozenset[str]] = set()
        self.drops: Callable[[str, str, Message], bool] = lambda sender, to, message: False
        self.delivered: list[Letter] = []
        self.auto_snapshots = True

    def __getitem__(self, node: str) -> Engine:
        return self.members[node].engine

    def cut(self, one: str, other: str) -> None:
        self.cuts.add(frozenset((one, other)))

    def isolate(self, node: str) -> None:
        for other in self.members:
            if other != node:
                self.cut(node, other)

    def heal(self) -> None:
        self.cuts.clear()
        self.drops = lambda sender, to, message: False

    def collect(self) -> None:
        """What the members want done: letters are put into the queue, snapshots sent and installed."""
        for node in sorted(self.members):
            member = self.members[node]
            if not member.alive:
                continue
            member.drain()
            if self.auto_snapshots:
                self._serve_snapshots(member)
                member.drain()
            for to, message in member.take_sent():
                passes = frozenset((node, to)) not in self.cuts and not self.drops(node, to, message)
                if passes and to in self.members:
                    self.queue.append((node, to, message))

    def _serve_snapshots(self, member: Member) -> None:
        for event in list(member.events):
            if isinstance(event, SnapshotWanted) and member.engine.leadership is not None and member.snapshot:
                member.sent.append((event.peer, member.chunk()))
            elif isinstance(event, ChunkArrived):
                member.install(event.sender, event.chunk)
            else:
                continue
            member.events.remove(event)

    def deliver(self, limit: int = 20_000) -> None:
        """Deliver until nothing is under way any more."""
        self.collect()
        while self.queue:
            limit -= 1
            assert limit, "the network does not come to rest"
            sender, to, message = self.queue.pop(0)
            if self.members[to].alive:
                self.delivered.append((sender, to, message))
                self.members[to].receive(sender, message)
            self.collect()

    def elapse(self, seconds: float) -> None:
        """Time passes, members wake when they asked for it, and the network is quick."""
        until = self.clock.now + seconds
        self.deliver()
        while True:
            dues = {n: (m.engine.deadline() - m.offset) / m.rate for n, m in self.members.items() if m.alive}
            node = min(dues, key=dues.__getitem__)
            if dues[node] > until:
                break
            self.clock.now = max(self.clock.now, dues[node] + 1e-9)
            self.members[node].engine.tick(self.members[node].now)
            self._retry_snapshots(self.members[node])
            self.deliver()
        self.clock.now = until

    def _retry_snapshots(self, member: Member) -> None:
        lead = member.engine.leadership
        if self.auto_snapshots and lead is not None and member.snapshot is not None:
            for peer, progress in lead.progress.items():
                if progress.state is State.SNAPSHOT:
                    member.sent.append((peer, member.chunk()))

    def elect(self, node: str) -> Engine:
        """Everybody but `node` sleeps for so long that it wins an election, perhaps after hearing of a later term."""
        member = self.members[node]
        self.deliver()
        for _ in range(3):
            if member.engine.leadership is None:
                self.clock.now += 2 * member.engine.election_high / member.rate
                member.engine.tick(member.now)
                self.deliver()
        assert member.engine.role is Role.LEADER, member.engine.role
        return member.engine

    def leaders(self) -> list[str]:
        return [node for node, member in sorted(self.members.items()) if member.alive and member.engine.leadership]

    def crash(self, node: str) -> None:
        """The member stops; what was not durable is gone."""
        self.members[node].alive = False
        self.queue = [letter for letter in self.queue if letter[1] != node]

    def restart(self, node: str) -> Engine:
        self.crash(node)
        return self.members[node].start()

    def add(self, node: str, **options: object) -> Member:
        """A machine that is no member of the cluster yet."""
        like = next(iter(self.members.values()))
        member = self.members[node] = Member(node, like.settings, self.clock, **options)
        member.start()
        return member

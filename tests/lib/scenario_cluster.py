"""The cluster that a scenario plays in: machines with disks and state machines, a network in which every message waits
until it is delivered, one clock, and the rules of the paper that hold after whatever happens.

Nothing happens by itself. Time passes in `elapse` and `timeout`; messages move in `deliver` and `elapse`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from engine_cluster import Clock, Letter, Member
from scenario_rules import Rules

from raftcore.engine import Engine
from raftcore.engine.output import ChunkArrived, ReadReady, ReadsRefused, SnapshotWanted, TransferEnded
from raftcore.engine.progress import State
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
)
from raftcore.types import EntryKind, LogId

RESTLESS = 20_000
"""Messages in one `deliver` after which the network is taken to be in a loop."""

KINDS = {
    "appends": "AppendEntries with entries",
    "heartbeats": "AppendEntries without entries",
    "acks": "the answer to either: the follower's log agrees",
    "rejections": "the answer to either: it does not, or the sender's term is over",
    "vote-requests": "RequestVote",
    "grants": "its answer: yes",
    "refusals": "its answer: no",
    "pre-vote-requests": "RequestVote that only asks whether it would be granted",
    "pre-vote-grants": "its answer: yes",
    "pre-vote-refusals": "its answer: no",
    "snapshots": "InstallSnapshot",
    "snapshot-replies": "its answer",
    "timeout-nows": "TimeoutNow: the leader asks the receiver to campaign",
    "replies": "acks and rejections",
    "votes": "everything of an election, the pre-vote too",
}


def kind_of(letter: Letter) -> str:
    """Which of `KINDS` a message is."""
    _, to, message = letter
    if isinstance(message, AppendEntries):
        return "appends" if message.runs else "heartbeats"
    if isinstance(message, AppendReply):
        obeyed = message.rejected is None and message.vote.leader.node == to and message.vote.committed
        return "acks" if obeyed else "rejections"
    if isinstance(message, RequestVote | VoteReply):
        pre = "pre-vote-" if message.pre else ""
        if isinstance(message, RequestVote):
            return f"{pre or 'vote-'}requests"
        return f"{pre}{'grants' if message.granted else 'refusals'}"
    return {SnapshotChunk: "snapshots", SnapshotReply: "snapshot-replies", TimeoutNow: "timeout-nows"}[type(message)]


class Selection(msgspec.Struct, frozen=True):
    """Some of the messages: between whom (None: anyone), and of which kind (None: any)."""

    senders: frozenset[str] | None = None
    receivers: frozenset[str] | None = None
    both_ways: bool = False
    kind: str | None = None

    def has(self, letter: Letter) -> bool:
        sender, to, _ = letter
        if not (self._linked(sender, to) or (self.both_ways and self._linked(to, sender))):
            return False
        kind = kind_of(letter)
        if self.kind == "votes":
            return kind.startswith(("vote", "pre-vote")) or kind in ("grants", "refusals")
        return kind in ("acks", "rejections") if self.kind == "replies" else self.kind in (None, kind)

    def _linked(self, sender: str, to: str) -> bool:
        return (self.senders is None or sender in self.senders) and (self.receivers is None or to in self.receivers)


EVERYTHING = Selection()


class Machine(Member):
    """A member with a state machine, which is the list of the values that were applied. `disk_held`: its writes
    wait, one for every turn, until `finish_write`."""

    disk_held = False
    snapshot_values: list[str]
    values: list[str]

    def start(self) -> Engine:
        self.snapshot_values = self.snapshot_values if self.snapshot is not None else []
        self.values = list(self.snapshot_values)
        self.transfer = "none"
        engine = super().start()
        self.seen_commit, self.seen_lead, self.seen_membership = engine.commit, None, engine.membership
        return engine

    def settle(self, on_reads: Callable[[Iterable[int], str], None]) -> None:
        """Do everything that the engine wants done, until it waits for others."""
        busy = True
        while busy:
            self.drain()
            busy = self.begin_write()
            if self.writing and not self.disk_held:
                self.finish_writes()
            busy = self.answer_reads() or busy
            self.apply()
            busy = self.obey_events(on_reads) or busy

    def apply(self) -> None:
        """The state machine follows what is committed and durable."""
        start, stop = (index - self.disk.base.index for index in (self.applied, self.engine.applicable))
        for entry in self.disk.entries[start:stop] if stop > start else ():
            if entry.kind is EntryKind.NORMAL:
                self.values.append(entry.payload.decode())
        self.applied = max(self.applied, self.engine.applicable)

    def obey_events(self, on_reads: Callable[[Iterable[int], str], None]) -> bool:
        events, self.events = self.events, []
        for event in events:
            if isinstance(event, SnapshotWanted):
                self.send_snapshot(event.peer)
            elif isinstance(event, ChunkArrived):
                self.install(event.sender, event.chunk)
            elif isinstance(event, ReadReady):
                on_reads(event.ids, f"ready at {event.index}")
            elif isinstance(event, ReadsRefused):
                on_reads(event.ids, "refused")
            elif isinstance(event, TransferEnded):
                self.transfer = "done" if event.done else "given up"
        return bool(events)

    def take_snapshot(self, *, trailing: int = 0, purge: bool = True) -> None:
        super().take_snapshot(trailing=trailing, purge=purge)
        self.snapshot_values = list(self.values)

    def send_snapshot(self, peer: str) -> None:
        """The newest snapshot goes to a follower in one message, if it still needs one."""
        lead = self.engine.leadership
        progress = None if lead is None else lead.progress.get(peer)
        if progress is not None and progress.state is State.SNAPSHOT and self.snapshot is not None:
            self.engine.snapshot_begins(peer, self.snapshot.last)
            data = msgspec.json.encode(self.snapshot_values)
            self.sent.append((peer, SnapshotChunk(self.engine.vote, lead.round, self.snapshot, 0, data, True)))

    def install(self, sender: str, chunk: SnapshotChunk) -> None:
        values, before = msgspec.json.decode(chunk.data, type=list[str]), self.snapshot
        if chunk.meta.last.index > self.applied:
            self.values = list(values)
        super().install(sender, chunk)
        if self.snapshot is not before:
            self.snapshot_values = values

    def log_text(self) -> str:
        """The terms of the log, behind the number of entries that gave way to a snapshot: ``(3) 2 2``."""
        return _terms(self.engine.log.base, self.terms())

    def disk_text(self) -> str:
        """The same of what is on the disk."""
        return _terms(self.disk.base, [entry.log_id.leader.term for entry in self.disk.entries])


def _terms(base: LogId, terms: list[int]) -> str:
    return " ".join(([f"({base.index})"] if base.index else []) + [str(term) for term in terms]) or "empty"


class Stage:
    """The machines, the network between them, and the time."""

    def __init__(self, machines: dict[str, Machine], clock: Clock) -> None:
        self.machines, self.clock = machines, clock
        self.under_way: list[Letter] = []
        self.held: list[tuple[Selection, Letter]] = []
        self.holds: list[Selection] = []
        self.blocks: list[Selection] = []
        self.groups: list[frozenset[str]] = []
        self.sent: list[Letter] = []
        self.reads: dict[int, str] = {}
        self.rules = Rules(machines)

    def up(self) -> list[Machine]:
        return [machine for _, machine in sorted(self.machines.items()) if machine.alive]

    # -- messages -------------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Everybody does what is to be done, and what they send is under way."""
        for machine in self.up():
            machine.settle(self._note_reads)
            self.rules.check(machine)
            for to, message in machine.take_sent():
                letter = (machine.node, to, message)
                self.sent.append(letter)
                if not self._lost(letter):
                    self._put(letter)

    def _note_reads(self, ids: Iterable[int], outcome: str) -> None:
        self.reads.update(dict.fromkeys(ids, outcome))

    def _lost(self, letter: Letter) -> bool:
        sender, to, _ = letter
        if to not in self.machines or any(block.has(letter) for block in self.blocks):
            return True
        return any((sender in group) != (to in group) for group in self.groups)

    def _put(self, letter: Letter) -> None:
        for hold in self.holds:
            if hold.has(letter):
                self.held.append((hold, letter))
                return
        self.under_way.append(letter)

    def deliver(self, wanted: Selection = EVERYTHING, which: str = "all") -> int:
        """Deliver what is under way, and what follows from it, until none is left that is wanted; how many it were.
        `which`: "first" or "last" delivers one message only, the oldest or the newest."""
        self.collect()
        count = 0
        while found := [place for place, letter in enumerate(self.under_way) if wanted.has(letter)]:
            sender, to, message = self.under_way.pop(found[-1 if which == "last" else 0])
            if self.machines[to].alive:
                self.machines[to].receive(sender, message)
            self.collect()
            count += 1
            if which != "all":
                break
            assert count < RESTLESS, "the network does not come to rest"
        return count

    def drop(self, wanted: Selection) -> int:
        """Lose what is under way and wanted; how many it were."""
        kept = [letter for letter in self.under_way if not wanted.has(letter)]
        count = len(self.under_way) - len(kept)
        self.under_way = kept
        return count

    def duplicate(self, wanted: Selection) -> int:
        """Send what is under way and wanted a second time; how many it were."""
        copies = [letter for letter in self.under_way if wanted.has(letter)]
        self.under_way += copies
        return len(copies)

    def block(self, wanted: Selection) -> None:
        """From now on such messages are lost, those under way too."""
        self.blocks.append(wanted)
        self.drop(wanted)

    def partition(self, groups: list[frozenset[str]]) -> None:
        """Only machines of one group reach each other; those that no group names are one more."""
        self.groups = groups
        self.under_way = [letter for letter in self.under_way if not self._lost(letter)]

    def heal(self) -> None:
        self.groups, self.blocks = [], []

    def hold(self, wanted: Selection) -> None:
        """From now on such messages wait, those under way too."""
        self.holds.append(wanted)
        waiting, self.under_way = self.under_way, []
        for letter in waiting:
            self._put(letter)

    def release(self, hold: Selection | None) -> None:
        """End one hold, or all: what was held is under way again, behind everything else."""
        self.holds = [other for other in self.holds if hold not in (None, other)]
        self.under_way += [letter for why, letter in self.held if hold in (None, why)]
        self.held = [(why, letter) for why, letter in self.held if hold not in (None, why)]

    # -- time -----------------------------------------------------------------------------------------------------

    def elapse(self, seconds: float, only: frozenset[str] | None) -> None:
        """Time passes, timers run out (of everybody, or of `only` these), and the network is quick."""
        until = self.clock.now + seconds
        self.deliver()
        while True:
            dues = {m.node: m.engine.deadline() for m in self.up() if only is None or m.node in only}
            node = min(dues, key=dues.__getitem__, default=None)
            if node is None or dues[node] > until:
                break
            self.clock.now = max(self.clock.now, dues[node] + 1e-9)
            self.machines[node].engine.tick(self.clock.now)
            self.retry_snapshots(self.machines[node])
            self.deliver()
        self.clock.now = until

    def timeout(self, node: str) -> None:
        """The time comes at which this machine's election timer runs out; it alone notices."""
        machine = self.machines[node]
        self.clock.now = max(self.clock.now, machine.engine.deadline() + 1e-9)
        machine.engine.tick(self.clock.now)
        self.collect()

    def retry_snapshots(self, machine: Machine) -> None:
        """A leader sends a snapshot again with its heartbeats, until it is installed."""
        letters = [*self.under_way, *(letter for _, letter in self.held)]
        on_its_way = {to for sender, to, message in letters if isinstance(message, SnapshotChunk)}
        for peer in machine.engine.leadership.progress if machine.engine.leadership is not None else ():
            if peer not in on_its_way:
                machine.send_snapshot(peer)

    # -- faults ---------------------------------------------------------------------------------------------------

    def crash(self, node: str) -> None:
        """The machine stops; what was not durable is gone. What it had sent stays under way."""
        self.machines[node].alive = False
        self.machines[node].writing.clear()

    def restart(self, node: str) -> None:
        self.machines[node].start()
        self.collect()

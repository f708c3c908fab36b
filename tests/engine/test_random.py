from __future__ import annotations

import random
from collections import Counter

import pytest

from raftcore.engine.output import ChunkArrived, ReadReady
from raftcore.engine.progress import State
from raftcore.errors import MembershipRefused, NotLeader, Overloaded, TransferUnderWay
from raftcore.messages import AppendReply, RequestVote, VoteReply
from raftcore.types import NodeInfo

NOT_NOW = (MembershipRefused, NotLeader, Overloaded, TransferUnderWay)
STEPS = 700
SEEDS = 8
"""Seeds of each kind of cluster; raise it to search for longer."""


class World:
    """A cluster in which everything happens in any order, and what must hold after every single step."""

    def __init__(self, net, seed):
        self.net, self.random = net, random.Random(seed)
        self.names = sorted(net.members)
        self.letters = []
        self.loss, self.order = self.random.choice([0, 0.02, 0.1]), self.random.choice([0.5, 0.9, 1])
        self.unrest = self.random.choice([0.1, 0.4, 1])
        self.trace = Counter()
        self.chunks = {node: [] for node in self.names}
        self.installing = {}
        self.next_read = 0
        self.asked = {}  # read → what was committed when it was asked for
        self.committed = {}  # index → (id, the leadership that committed it)
        self.ids_before = {}  # id → the id before it
        self.leaderships = {}  # leader id → the one leadership
        self.leader_of = {}  # term → node
        self.granted = {}  # (voter, term) → candidate
        for node in self.names:
            member = net.members[node]
            member.rate, member.offset = self.random.uniform(0.98, 1.02), self.random.uniform(0, 1000)
            self.start(node)

    # -- what happens ---------------------------------------------------------------------------------------------

    def start(self, node):
        member = self.net.members[node]
        member.start()
        member.seen = (member.engine.vote, member.engine.commit, member.engine.membership, None, {}, None)
        self.chunks[node].clear()
        self.installing.pop(node, None)
        self.settle(node)

    def step(self):
        alive = [node for node in self.names if self.net.members[node].alive]
        weights = {
            "deliver": 40,
            "begin_write": 14,
            "finish_write": 18,
            "wait": 10,
            "propose": 8,
            "read": 5,
            "answer_read": 4,
            "snapshot": 1,
            "send_snapshot": 3,
            "install": 3,
            "change": 1 * self.unrest,
            "transfer": 0.6 * self.unrest,
            "campaign": 0.3,
            "incarnations": 0.3,
            "crash": 0.6 * self.unrest,
            "restart": 3,
            "cut": 0.4 * self.unrest,
            "heal": 0.8,
        }
        kind = self.random.choices(list(weights), list(weights.values()))[0]
        self.trace[kind] += 1
        if kind in ("deliver", "wait", "restart", "heal"):
            getattr(self, kind)()
        elif alive:
            leaders = self.net.leaders()
            only_leaders = kind in ("propose", "change", "transfer", "incarnations", "send_snapshot", "read")
            node = self.random.choice(leaders if leaders and only_leaders else alive)
            try:
                getattr(self, kind)(node, self.net.members[node])
            except NOT_NOW:
                self.trace["refused"] += 1
            self.settle(node)

    def deliver(self):
        """A few letters, the oldest or any; now and then one stays and comes again."""
        for _ in range(self.random.randint(1, 8)):
            if not self.letters:
                return
            place = 0 if self.random.random() < self.order else self.random.randrange(len(self.letters))
            sender, to, message = self.letters[place] if self.random.random() < 0.05 else self.letters.pop(place)
            member = self.net.members[to]
            if member.alive and frozenset((sender, to)) not in self.net.cuts:
                member.engine.receive(sender, message, member.now)
                self.settle(to)

    def wait(self):
        self.net.clock.now += self.random.choice([0.001, 0.003, 0.01, 0.02, 0.02, 0.05, 0.05, 0.3])
        for node in self.names:
            member = self.net.members[node]
            if member.alive and member.now >= member.engine.deadline() and self.random.random() < 0.9:
                member.engine.tick(member.now)
                self.settle(node)

    def begin_write(self, node, member):
        if len(member.writing) < 3:
            member.begin_write()

    def finish_write(self, node, member):
        for _ in range(min(len(member.writing), self.random.randint(1, 3))):
            member.finish_write()

    def propose(self, node, member):
        member.engine.propose([b"%d" % self.random.randrange(1000)] * self.random.choice([1, 1, 2, 5]))

    def read(self, node, member):
        self.next_read += 1
        member.engine.read(self.next_read, lease=self.random.random() < 0.7, now=member.now)
        self.asked[self.next_read] = max(self.committed, default=0)

    def answer_read(self, node, member):
        member.answer_reads()

    def snapshot(self, node, member):
        engine = member.engine
        if engine.applicable > engine.snapshot_last.index and node not in self.installing:
            member.take_snapshot(trailing=self.random.choice([0, 0, 3]))

    def send_snapshot(self, node, member):
        lead = member.engine.leadership
        for peer, progress in lead.progress.items() if lead is not None else ():
            if progress.state is State.SNAPSHOT:
                member.engine.send.append((peer, member.chunk()))

    def install(self, node, member):
        """In two steps, with anything in between: until the second, the state machine is the snapshot's business."""
        if node in self.installing:
            member.install(*self.installing.pop(node))
        elif self.chunks[node]:
            sender, chunk = self.chunks[node].pop(0)
            if chunk.meta.last.index > member.engine.commit and member.engine.leader is not None:
                self.installing[node] = (sender, chunk)
                member.engine.installing = chunk.meta.id

    def change(self, node, member):
        names = self.random.sample(self.names, self.random.randint(1, len(self.names)))
        voters = names[: max(1, self.random.randint(len(names) // 2, len(names)))]
        learners = names[len(voters) :]
        nodes = {name: NodeInfo(name) for name in names}
        member.engine.change_membership(tuple(voters), tuple(learners), nodes)

    def transfer(self, node, member):
        member.engine.transfer_leadership(self.random.choice([None, *self.names]), member.now)

    def campaign(self, node, member):
        member.engine.campaign(member.now)

    def incarnations(self, node, member):
        member.engine.learn_incarnations({name: f"disk of {name}" for name in self.names})

    def crash(self, node, member):
        """What was not durable is gone; what is under way to it may still arrive after its restart."""
        member.alive = False

    def restart(self):
        for node in self.names:
            if not self.net.members[node].alive and self.random.random() < 0.5:
                self.start(node)

    def cut(self, node, member):
        if self.random.random() < 0.5:
            self.net.isolate(node)
        else:
            self.net.cut(*self.random.sample(self.names, 2))

    def heal(self):
        self.net.cuts.clear()

    # -- what must hold -------------------------------------------------------------------------------------------

    def settle(self, node):
        """Take what the member wants done, and look at everything that it has done."""
        member = self.net.members[node]
        if not member.alive:
            return
        member.drain()
        for event in member.events:
            if isinstance(event, ChunkArrived):
                self.chunks[node] = [*self.chunks[node], (event.sender, event.chunk)][-3:]
            elif isinstance(event, ReadReady):
                stale = [name for name in event.ids if self.asked[name] > event.index]
                assert not stale, f"{node}: reads {stale} at {event.index} are stale"
                self.trace["read ready"] += len(event.ids)
        member.events.clear()
        self.check_leadership(node, member)
        self.check_log(node, member)
        self.check_commit(node, member)
        self.check_monotone(node, member)
        for to, message in member.take_sent():
            self.check_promise(node, member, message)
            if to in self.net.members and self.random.random() >= self.loss:
                self.letters.append((node, to, message))
        while len(self.letters) > 80:
            self.letters.pop(self.random.randrange(40))

    def check_leadership(self, node, member):
        """Election safety, and leader completeness (paper Figure 3)."""
        lead = member.engine.leadership
        if lead is None:
            return
        leader = member.engine.vote.leader
        if self.leaderships.setdefault(leader, lead) is lead and member.seen[3] is lead:
            return
        assert self.leaderships[leader] is lead, f"{leader} leads twice"
        self.trace["elected"] += 1
        if member.settings.vote_order == "standard":
            assert node == self.leader_of.setdefault(leader.term, node), f"two leaders in term {leader.term}"
        for index, (log_id, by) in self.committed.items():
            if by < leader and index > member.engine.log.base.index:
                assert log_id == member.engine.log.id_at(index), f"{leader} lacks the committed entry {index}"

    def check_log(self, node, member):
        """Log matching, and what counts as durable is on the disk."""
        log = member.engine.log
        before = log.base
        for index in range(log.base.index + 1, log.last.index + 1):
            log_id = log.id_at(index)
            assert before == self.ids_before.setdefault(log_id, before), f"{node}: {log_id} follows two entries"
            if index <= log.durable:
                assert log_id == member.disk.id_at(index), f"{node}: {index} is not durable"
            before = log_id

    def check_commit(self, node, member):
        """What is committed stays so, and is durable on a quorum."""
        engine = member.engine
        assert engine.commit <= engine.log.last.index
        for index in range(max(engine.log.base.index, member.seen[1]) + 1, engine.commit + 1):
            log_id = engine.log.id_at(index)
            if index not in self.committed:
                # with this commit it may have removed itself
                led = engine.leadership is not None or member.seen[3] is not None
                assert led, f"{node} commits {index} before its leader"
                assert any(self.on_a_quorum(members, log_id) for members in (member.seen[2], engine.membership))
                self.committed[index] = (log_id, engine.vote.leader)
            assert self.committed[index][0] == log_id, f"{node}: committed entry {index} has changed"

    def on_a_quorum(self, membership, log_id):
        holders = {name for name in self.names if self.holds(self.net.members[name], log_id)}
        return all(2 * len(holders & set(group)) > len(group) for group in membership.voters)

    @staticmethod
    def holds(member, log_id):
        if member.snapshot is not None and member.snapshot.last.index >= log_id.index:
            return True
        return member.disk.base.index >= log_id.index or member.disk.id_at(log_id.index) == log_id

    def check_monotone(self, node, member):
        """Term, vote, commit, matches never go back; next is above match; no deadline comes nearer without notice."""
        engine, lead = member.engine, member.engine.leadership
        vote, commit, _, old_lead, matches, deadline = member.seen
        assert commit <= engine.commit
        assert vote.leader.term <= engine.vote.leader.term
        assert member.settings.vote_order == "standard" or vote <= engine.vote
        assert member.disk.vote.leader.term <= engine.vote.leader.term
        if deadline is not None and not engine.deadline_moved:
            assert deadline <= engine.deadline(), "the deadline has come nearer without notice"
        engine.deadline_moved = False
        now = {} if lead is None else {peer: p.match for peer, p in lead.progress.items()}
        if lead is not None:
            assert all(p.next > p.match for p in lead.progress.values())
            assert engine.log.durable == lead.match[node]
            if lead is old_lead:
                assert all(now[peer] >= matches[peer] for peer in now.keys() & matches.keys())
        member.seen = (engine.vote, engine.commit, engine.membership, lead, now, engine.deadline())

    def check_promise(self, node, member, message):
        """What a message promises is on the disk when it leaves."""
        if isinstance(message, RequestVote) and not message.pre:
            assert message.vote == member.disk.vote
            assert self.holds(member, message.last), f"{node} campaigns with an end that it may forget"
        elif isinstance(message, VoteReply) and message.granted and not message.pre:
            assert message.vote == message.request == member.disk.vote
            if member.settings.vote_order == "standard":
                candidate = message.request.leader.node
                assert candidate == self.granted.setdefault((node, message.vote.leader.term), candidate)
        elif isinstance(message, AppendReply) and message.match:
            assert message.vote == member.disk.vote
            leader = self.net.members[message.vote.leader.node].engine
            if leader.vote == message.vote and leader.log.id_at(message.match) is not None:
                assert self.holds(member, leader.log.id_at(message.match)), f"{node}: {message.match} is not durable"

    # -- the end --------------------------------------------------------------------------------------------------

    def recover(self):
        """Nothing fails any more: within a while there is one leader, and all its members hold one log."""
        net = self.net
        net.heal()
        for node in self.names:
            member = net.members[node]
            if not member.alive:
                self.start(node)
            if node in self.installing:
                member.install(*self.installing.pop(node))
            member.auto = True
            member.flush()
            member.drain()
        net.elapse(15)
        furthest = max(net.members.values(), key=lambda member: member.engine.commit).engine
        for node in set(self.names) - set(furthest.history.nodes()) if not furthest.settings.check_quorum else ():
            net.crash(node)  # it was removed without knowing it: only check-quorum keeps it from disturbing
        net.elapse(15)
        (leader,) = net.leaders()
        for _ in range(3):
            net[leader].propose([b"end"])
            net.elapse(1)
        lead = net[leader]

        assert [leader] == net.leaders()
        assert not lead.membership.is_joint
        assert dict.fromkeys(lead.membership.members, (lead.log.last, lead.commit)) == {
            node: (net[node].log.last, net[node].commit) for node in lead.membership.members
        }
        assert lead.log.last.index == lead.commit
        for index, (log_id, _) in self.committed.items():
            assert lead.log.id_at(index) == log_id or index <= lead.log.base.index


@pytest.fixture(scope="session")
def world(cluster):
    """Make a world of a seed; the kind of cluster comes with it."""

    def make(seed, voters, learners, **settings):
        net = cluster(voters, learners, seed=seed, auto=False, cache_bytes=600, max_message_bytes=300, **settings)
        net.auto_snapshots = True
        return World(net, seed)

    return make


KINDS = {
    "three": ("abc", "", {}),
    "five": ("abcde", "", {}),
    "three and two": ("abc", "de", {}),
    "node order": ("abcde", "", {"vote_order": "node"}),
    "node order without pre-vote": ("abc", "d", {"vote_order": "node", "pre_vote": False}),
    "without pre-vote": ("abc", "d", {"pre_vote": False}),
    "without check-quorum": ("abcd", "", {"check_quorum": False, "pre_vote": False}),
    "small window": ("abc", "", {"max_inflight_messages": 1, "max_uncommitted_bytes": 2000}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_nothing_acknowledged_is_lost(world, kind, seed):
    """Loss, repetition, any order, slow and crashing disks, changes of members and leaders; in the end all is well."""
    voters, learners, settings = KINDS[kind]
    everything = world(f"{kind} {seed}", voters, learners, **settings)
    try:
        for _ in range(STEPS):
            everything.step()
        everything.recover()
    except BaseException:
        print(f"{kind!r}, seed {seed}; so far {dict(everything.trace)}")  # noqa: T201  the way back to it
        raise

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import random
import subprocess
import sys

import pytest

from raftcore import wire
from raftcore.errors import ConfigError, PeerRefused
from raftcore.messages import Hello, TimeoutNow
from raftcore.sim.network import Network, NetworkSettings, SimTransport
from raftcore.types import NO_VOTE, NodeInfo

WAY = 0.01
EVEN = NetworkSettings(min_latency=WAY, median_latency=WAY, stall=0.0)
"""Every way takes 10 ms, so that times can be told in advance."""


def message(number):
    """A message that can be told from others."""
    return TimeoutNow(NO_VOTE, number)


def end_of(awaitable):
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration):
        awaitable.send(None)


class Node:
    """The endpoint of one process, which writes down what it is told, and when. `refusals`: why whom."""

    def __init__(self, world, name, incarnation=""):
        self.world = world
        self.name = name
        self.hello = Hello("test", name, incarnation or f"disk of {name}", "", wire.VERSIONS)
        self.refusals = {}
        self.admitted = []
        self.events = []
        self.got = []
        self.at = []

    def admit(self, hello):
        self._note(self.admitted, hello.node)
        if hello.node in self.refusals:
            raise PeerRefused(self.refusals[hello.node])

    def deliver(self, sender, message):
        self._note(self.got, (sender, message.round))
        self.at.append(self.world.now)

    def peer_up(self, peer):
        self._note(self.events, ("up", peer))

    def peer_down(self, peer, reason):
        self._note(self.events, ("down", peer, reason))

    def numbers(self, sender):
        """What came from `sender`, in order."""
        return [number for node, number in self.got if node == sender]

    def is_up(self, peer):
        said = [event[0] for event in self.events if event[1] == peer]
        return said[-1:] == ["up"]

    def reasons(self, peer):
        return [event[2] for event in self.events if event[:2] == ("down", peer)]

    def _note(self, where, what):
        assert self.world.running == self.name, f"called in the process of {self.world.running}"
        assert self.world.nodes[self.name] is self, "a process of the past was called"
        where.append(what)


class World:
    """A heap with virtual time, and the processes in it. A call finds whatever process has the name by then."""

    def __init__(self, seed=1, settings=EVEN, traced=False):
        self.now = 0.0
        self.running = ""
        self.nodes = {}
        self.transports = {}
        self.dead = set()
        self.paused = {}
        self.events = []
        self.calls = []
        self.heap = []
        self.count = 0
        trace = (lambda kind, **fields: self.events.append((kind, fields))) if traced else None
        self.network = Network(random.Random(seed), self.schedule, lambda: self.now, settings, trace)

    def schedule(self, delay, node, call, *args):
        assert delay >= 0
        self.count += 1
        heapq.heappush(self.heap, (self.now + delay, self.count, node, call, args))

    def run(self, seconds):
        """Let so much time pass."""
        until = self.now + seconds
        while self.heap and self.heap[0][0] <= until:
            self.now, _, node, call, args = heapq.heappop(self.heap)
            if node in self.paused:
                self.paused[node].append((call, args))
            elif node not in self.dead:
                self.calls.append((self.now, node, call.__name__))
                self.at(node, call, *args)
        self.now = until

    def at(self, node, call, *args):
        """Do something in a node's process now."""
        before, self.running = self.running, node
        result = call(*args)
        if asyncio.iscoroutine(result):
            end_of(result)
        self.running = before

    def start(self, name, *peers, incarnation=""):
        """Begin a process, which names these peers."""
        self.dead.discard(name)
        node = self.nodes[name] = Node(self, name, incarnation)
        transport = self.transports[name] = SimTransport(self.network, name)
        self.at(name, transport.start, node)
        self.name_peers(name, *peers)
        return node

    def name_peers(self, name, *peers):
        self.at(name, self.transports[name].set_peers, {peer: NodeInfo("") for peer in peers})

    def crash(self, name, silently=False):
        self.dead.add(name)
        self.paused.pop(name, None)
        self.network.crashed(name, silently)

    def stop(self, name):
        self.at(name, self.transports[name].stop)

    def resume(self, name):
        for call, args in self.paused.pop(name):
            self.at(name, call, *args)

    def send(self, sender, receiver, *numbers):
        for number in numbers:
            self.at(sender, self.transports[sender].send, receiver, message(number))

    def counts(self, *names):
        counters = self.network.counters()
        return [counters[name] for name in names]


def connected(*names, **options):
    """A world in which these nodes are connected, each with each; the first dials all, the second the rest ..."""
    world = World(**options)
    for place, name in enumerate(names):
        world.start(name)
        world.name_peers(name, *names[:place])
    for name in names:
        world.name_peers(name, *(other for other in names if other != name))
    world.run(1)
    assert all(world.nodes[one].is_up(other) for one in names for other in names if one != other)
    return world


# -- connecting -------------------------------------------------------------------------------------------------------


def test_a_handshake_takes_three_ways_and_each_end_admits_in_its_own_process():
    """The acceptor admits after one way, the dialler after two and is up then; the acceptor after three."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    seen = []
    for _ in range(3):
        world.run(WAY + 1e-9)
        seen.append((acceptor.admitted[:], dialler.admitted[:], dialler.events[:], acceptor.events[:]))

    assert (["b"], [], [], []) == seen[0]
    assert (["b"], ["a"], [("up", "a")], []) == seen[1]
    assert (["b"], ["a"], [("up", "a")], [("up", "b")]) == seen[2]


def test_what_the_dialler_sends_at_once_comes_behind_the_news_that_it_is_up():
    """The acceptor hears of the connection before it gets a message over it, whatever the latencies."""
    for seed in range(50):
        world = World(seed, NetworkSettings(median_latency=0.01))
        acceptor, dialler = world.start("a"), world.start("b")
        dialler.peer_up = lambda peer, world=world: world.send("b", peer, 1)
        acceptor.deliver = lambda sender, _, acceptor=acceptor: acceptor.events.append(("got", sender))
        world.name_peers("b", "a")
        world.run(1)

        assert [("up", "b"), ("got", "b")] == acceptor.events, f"seed {seed}"


def test_one_end_that_names_the_other_is_enough():
    """A node that knows no members can answer the one that knows it."""
    world = World()
    leader, _ = world.start("leader", "joiner"), world.start("joiner")
    world.run(3)
    world.send("joiner", "leader", 7)
    world.run(WAY)

    assert [("joiner", 7)] == leader.got


def test_two_that_dial_each_other_at_once_share_one_connection():
    """Both are told once that the other is up."""
    world = World()
    one, other = world.start("a"), world.start("b")
    world.name_peers("a", "b")
    world.name_peers("b", "a")
    world.run(WAY + 1e-9)
    admitted = one.admitted[:], other.admitted[:]
    world.run(5)

    assert ([], ["a"]) == admitted
    assert ([("up", "b")], [("up", "a")]) == (one.events, other.events)
    assert [1] == world.counts("connected")


def test_a_node_that_does_not_run_refuses_connections_and_is_dialled_less_and_less_often():
    """It is told once why; the pauses double up to the longest one, each shortened by up to a half."""
    world = World(settings=NetworkSettings(stall=0, reconnect_min=0.1, reconnect_max=1.0))
    node = world.start("a", "b")
    for _ in range(2000):
        world.run(0.01)
        world.name_peers("a", "b")  # again and again, which changes nothing
    times = [at for at, _, name in world.calls if name == "_dial"]
    pauses = [round(later - at, 2) for at, later in zip([0.0, *times], times, strict=False)]

    assert [("down", "b", "connection refused: no node is running there")] == node.events
    assert all(
        0.5 * longest <= pause <= longest + 0.02 for pause, longest in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=False)
    )
    assert all(0.5 <= pause <= 1.02 for pause in pauses[4:])
    assert 20 < len(pauses) < 40
    assert len({*pauses[4:]}) > 5


def test_a_peer_that_is_not_named_any_more_when_the_pause_is_over_is_not_dialled():
    """The membership has changed since the attempt that failed."""
    world = World()
    node = world.start("a", "b")
    world.run(2.5 * WAY)
    world.start("b")
    world.name_peers("a")
    world.run(5)

    assert ["connection refused: no node is running there"] == node.reasons("b")
    assert [] == world.nodes["b"].admitted


def test_the_order_in_which_peers_are_named_is_of_no_importance():
    """They are dialled in the order of their names."""
    runs = []
    for names in (["b", "c", "d"], ["d", "b", "c"]):
        world = World(settings=NetworkSettings())
        for name in ("b", "c", "d", "a"):
            world.start(name)
        world.name_peers("a", *names)
        world.run(1)
        runs.append(world.calls)

    assert runs[0] == runs[1]


def test_a_peer_that_is_up_again_is_dialled_quickly_when_it_goes_the_next_time():
    """Success makes the pauses short again."""
    world = World(settings=NetworkSettings(stall=0, reconnect_min=0.1, reconnect_max=10.0))
    world.start("a", "b")
    world.run(15)
    world.start("b")
    world.run(11)
    world.calls.clear()
    before = world.now
    world.network.reset("a", "b")
    world.run(5)
    dials = [at - before for at, node, name in world.calls if (node, name) == ("a", "_dial")]

    assert world.nodes["a"].is_up("b")
    assert 0.05 < dials[0] < 0.11


@pytest.mark.parametrize("refusing", ["dialler", "acceptor"])
def test_a_refused_peer_is_not_talked_to_and_both_hear_why(refusing):
    """A refusal by either end is counted at both, told to both, tried again, and over when it is taken back."""
    world = World()
    nodes = {"acceptor": world.start("acceptor"), "dialler": world.start("dialler")}
    (refused,) = nodes.keys() - {refusing}
    nodes[refusing].refusals[refused] = "wrong cluster"
    world.name_peers("dialler", "acceptor")
    world.run(5)
    events = {name: node.events[:] for name, node in nodes.items()}
    tries = len(nodes[refusing].admitted)
    counts = {name: world.transports[name].counters()["refused"] for name in nodes}
    total = world.counts("refused", "connected")
    nodes[refusing].refusals.clear()
    world.run(2)

    assert [("down", refused, "wrong cluster")] == events[refusing]
    assert [("down", refusing, f"node '{refusing}' refuses: wrong cluster")] == events[refused]
    assert 6 <= tries <= 15
    assert {"acceptor": tries, "dialler": tries} == counts
    assert [tries, 0] == total
    assert all(nodes[one].is_up(other) for one, other in (("acceptor", "dialler"), ("dialler", "acceptor")))


def test_a_refusal_of_a_peer_whose_connection_is_up_does_not_make_it_look_down():
    """The node with the stale connection keeps it, whatever the newcomer of that name is told."""
    world = connected("a", "b")
    world.crash("b", silently=True)
    world.nodes["a"].refusals["b"] = "another disk"
    world.nodes["a"].events.clear()
    world.start("b", "a")
    world.run(1)

    assert [] == world.nodes["a"].events
    assert ["node 'a' refuses: another disk"] == world.nodes["b"].reasons("a")


# -- messages ---------------------------------------------------------------------------------------------------------


def test_messages_arrive_as_they_are_and_in_order_whatever_the_latencies():
    """Long tails and stalls hold up what is behind; nothing is lost."""
    world = connected("a", "b", settings=NetworkSettings(median_latency=0.01, stall=0.05, stall_seconds=0.2))
    objects = []
    world.network.on_deliver = lambda sender, receiver, message: objects.append(message)
    sent = [message(number) for number in range(500)]
    for one in sent:
        world.at("a", world.transports["a"].send, "b", one)
        world.run(0.0005)
    world.run(5)

    assert list(range(500)) == world.nodes["b"].numbers("a")
    assert all(one is other for one, other in zip(sent, objects, strict=True))
    assert world.counts("stalled")[0] > 5
    assert [500, 500, 0] == world.counts("sent", "delivered", "reordered")


def test_messages_that_are_sent_at_the_same_moment_arrive_at_different_ones():
    """Their order does not hang on how the scheduler takes equal times."""
    world = connected("a", "b")
    world.run(12345.6789)
    world.send("a", "b", *range(100))
    world.run(1)
    at = world.nodes["b"].at

    assert list(range(100)) == world.nodes["b"].numbers("a")
    assert all(one < other for one, other in itertools.pairwise(at))


def test_latencies_have_the_minimum_and_the_median_that_were_asked_for():
    """None is shorter than the minimum, half are longer than the median, and there is a tail."""
    world = connected("a", "b", settings=NetworkSettings(min_latency=0.002, median_latency=0.005, stall=0))
    latencies = []
    for number in range(1000):
        before = world.now
        world.send("a", "b", number)
        world.run(1)
        latencies.append(world.nodes["b"].at[-1] - before)
    latencies.sort()

    assert 0.002 <= latencies[0] < 0.0022
    assert 0.0045 < latencies[500] < 0.0055
    assert latencies[-1] > 0.015


def test_what_is_sent_to_a_node_that_is_not_connected_is_dropped():
    """It is counted at the node and in the network, and given to the hook."""
    world = World()
    world.start("a")
    hooked = []
    world.network.on_send = lambda *what: hooked.append(what)
    world.send("a", "b", 1)

    assert {"sent": 0, "received": 0, "dropped": 1, "refused": 0} == world.transports["a"].counters()
    assert [1, 0, 1] == world.counts("sent", "delivered", "unconnected")
    assert [("a", "b", message(1))] == hooked


def test_the_hooks_see_each_message_before_it_goes_and_before_it_arrives():
    """They get sender, receiver and message."""
    world = connected("a", "b")
    seen = []
    world.network.on_send = lambda *what: seen.append(("send", *what))
    world.network.on_deliver = lambda *what: seen.append(("deliver", *what))
    world.nodes["b"].deliver = lambda sender, message: seen.append(("got", sender, message))
    world.send("a", "b", 1)
    world.run(1)

    assert [("send", "a", "b", message(1)), ("deliver", "a", "b", message(1)), ("got", "a", message(1))] == seen
    assert {"sent": 1, "received": 0, "dropped": 0, "refused": 0} == world.transports["a"].counters()
    assert {"sent": 0, "received": 1, "dropped": 0, "refused": 0} == world.transports["b"].counters()


def test_more_than_the_limit_under_way_one_way_is_dropped():
    """What a paused node does not take is held up to the limit; it gets that in order when it resumes."""
    world = connected("a", "b", settings=NetworkSettings(max_in_flight=5))
    world.paused["b"] = []
    world.send("a", "b", *range(8))
    world.send("b", "a", 1)
    world.run(1)
    world.resume("b")
    world.send("a", "b", 8)
    world.run(1)

    assert [0, 1, 2, 3, 4, 8] == world.nodes["b"].numbers("a")
    assert [1] == world.nodes["a"].numbers("b")
    assert [3] == world.counts("overflowed")
    assert {"sent": 6, "received": 1, "dropped": 3, "refused": 0} == world.transports["a"].counters()


# -- a network that goes beyond what TCP allows -----------------------------------------------------------------------


def test_lost_messages_are_lost_without_a_word():
    """About as many as asked for; those that come keep their order."""
    world = connected("a", "b", settings=NetworkSettings(loss=0.3))
    world.nodes["b"].events.clear()
    world.send("a", "b", *range(1000))
    world.run(1)
    got = world.nodes["b"].numbers("a")
    sent, delivered, lost = world.counts("sent", "delivered", "lost")

    assert sorted(set(got)) == got
    assert (1000, 1000) == (sent, delivered + lost)
    assert len(got) == delivered
    assert 230 < lost < 370
    assert [] == world.nodes["b"].events
    assert 1000 == world.transports["a"].counters()["sent"]


def test_a_duplicated_message_comes_twice():
    """The second time out of order; each time counts."""
    world = connected("a", "b", settings=NetworkSettings(duplication=1.0, stall=0))
    world.send("a", "b", *range(20))
    world.run(1)
    got = world.nodes["b"].numbers("a")

    assert sorted([*range(20), *range(20)]) == sorted(got)
    assert list(range(20)) == list(dict.fromkeys(got))
    assert [20, 40, 20] == world.counts("sent", "delivered", "duplicated")


def test_the_second_copy_of_a_message_is_lost_with_its_connection():
    """It is no message of its own."""
    world = connected("a", "b", settings=NetworkSettings(duplication=1.0))
    world.network.slow("a", "b", 50)
    world.send("a", "b", 1)
    while not world.nodes["b"].got:
        world.run(1e-6)
    world.network.reset("a", "b")
    world.run(1)

    assert [1] == world.nodes["b"].numbers("a")
    assert [1, 0, 0] == world.counts("delivered", "duplicated", "broken")


def test_a_reordered_message_is_overtaken_and_counted_only_if_it_is():
    """Nothing is lost; what is counted is what came behind a later one."""
    world = connected("a", "b", settings=NetworkSettings(reordering=0.2))
    world.send("a", "b", *range(300))
    world.run(1)
    got = world.nodes["b"].numbers("a")
    overtaken = sum(max(got[:place], default=0) > number for place, number in enumerate(got))
    counted = world.counts("reordered")[0]
    for number in range(1000, 1100):
        world.send("a", "b", number)
        world.run(1)

    assert sorted(got) == list(range(300)) != got
    assert 30 < counted <= overtaken
    assert counted == world.counts("reordered")[0]


def test_a_stalled_message_holds_up_what_is_behind_it():
    """As when TCP sends a packet again."""
    world = connected("a", "b", settings=NetworkSettings(stall=1.0, stall_seconds=0.5))
    world.send("a", "b", 1)
    world.network.settings = EVEN
    world.send("a", "b", 2)
    world.run(20)
    first, second = world.nodes["b"].at

    assert first - 1 > 0.05
    assert second - first < 1e-5
    assert [1] == world.counts("stalled")


def held_back(seconds=100.0):
    """Two nodes, and a message from a to b that is on its way for about so long."""
    world = connected("a", "b", settings=NetworkSettings(late=1.0, late_seconds=seconds))
    world.send("a", "b", 1)
    world.network.settings = EVEN
    return world


def test_a_late_message_outlives_its_connection():
    """It comes over the next one."""
    world = held_back()
    world.network.reset("a", "b")
    world.run(1000)

    assert [("up", "a"), ("down", "a", "connection reset"), ("up", "a")] == world.nodes["b"].events
    assert [1] == world.nodes["b"].numbers("a")
    assert [1, 0, 0] == world.counts("late", "reordered", "broken")


def test_a_late_message_of_a_former_process_of_the_same_disk_arrives():
    """The sender has started again meanwhile."""
    world = held_back()
    world.crash("a")
    world.run(0.1)
    world.start("a")
    world.run(1000)

    assert [1] == world.nodes["b"].numbers("a")
    assert [1] == world.counts("late")


def test_a_late_message_of_a_node_that_has_another_disk_now_is_lost():
    """What that one promised does not count for its successor."""
    world = held_back()
    world.crash("a")
    world.run(0.1)
    world.start("a", incarnation="another")
    world.run(1000)

    assert world.nodes["b"].is_up("a")
    assert [] == world.nodes["b"].got
    assert [0, 1] == world.counts("late", "broken")


def test_a_late_message_to_a_former_process_is_lost():
    """The process that has taken its place never gets it."""
    world = held_back()
    world.crash("b")
    world.run(0.1)
    world.start("b")
    world.run(1000)

    assert world.nodes["b"].is_up("a")
    assert [] == world.nodes["b"].got


def test_a_late_message_is_lost_while_the_two_are_not_connected():
    """A node that was told that a peer is down hears nothing of it; neither does one that will be told soon."""
    world = held_back()
    world.send("a", "b", 2)
    world.run(0.1)
    world.crash("a")
    world.run(1000)
    other = held_back(0.2)
    other.network.slow("a", "b", 1e6)
    other.network.reset("a", "b")
    other.run(1.9)

    assert [2] == world.nodes["b"].numbers("a")
    assert [0, 1, 0] == world.counts("late", "broken", "reordered")
    assert other.nodes["b"].is_up("a")
    assert [] == other.nodes["b"].got
    assert [1] == other.counts("broken")


def test_a_late_message_whose_connection_lives_is_only_overtaken():
    """It counts as reordered."""
    world = held_back()
    world.send("a", "b", 2)
    world.run(1000)

    assert [2, 1] == world.nodes["b"].numbers("a")
    assert [0, 1] == world.counts("late", "reordered")


def test_all_chances_can_be_high_at_once():
    """Each is taken of what the ones before it left, so each happens, and every message has one fate."""
    settings = NetworkSettings(loss=0.4, duplication=0.5, reordering=0.5, late=0.5, late_seconds=0.1, stall=0.5)
    world = connected("a", "b", settings=settings)
    world.send("a", "b", *range(1000))
    world.run(60)
    sent, delivered, lost, duplicated, stalled = world.counts("sent", "delivered", "lost", "duplicated", "stalled")

    assert (1000, 1000) == (sent, delivered - duplicated + lost)
    assert 330 < lost < 470
    assert 240 < duplicated < 360
    assert 20 < stalled < 60  # 0.6 × 0.5 × 0.5 × 0.5 × 0.5 of a thousand


# -- cuts -------------------------------------------------------------------------------------------------------------


def test_a_cut_loses_what_is_sent_one_way_and_nobody_is_told():
    """The other way works, and what was under way before arrives."""
    world = connected("a", "b")
    events = [node.events[:] for node in world.nodes.values()]
    world.send("a", "b", 1)
    world.network.cut("a", "b")
    world.send("a", "b", 2)
    world.send("b", "a", 3)
    world.run(1)
    world.network.heal()
    world.send("a", "b", 4)
    world.run(1)

    assert [1, 4] == world.nodes["b"].numbers("a")
    assert [3] == world.nodes["a"].numbers("b")
    assert [1] == world.counts("cut")
    assert events == [node.events for node in world.nodes.values()]
    assert {"sent": 3, "received": 1, "dropped": 0, "refused": 0} == world.transports["a"].counters()


def reach(world):
    """Who gets a message from whom."""
    for node in world.nodes.values():
        node.got.clear()
    for sender in world.nodes:
        for receiver in world.nodes:
            if receiver != sender:
                world.send(sender, receiver, 1)
    world.run(0.1)
    return {name: "".join(sorted(sender for sender, _ in node.got)) for name, node in world.nodes.items()}


def test_a_partition_cuts_both_ways_between_groups_only():
    """A node in no group keeps its ways; `heal` undoes all of it."""
    world = connected("a", "b", "c", "d")
    world.network.partition([["a"], {"c", "b"}])
    parted = reach(world)
    world.network.heal()
    healed = reach(world)

    assert {"a": "d", "b": "cd", "c": "bd", "d": "abc"} == parted
    assert {"a": "bcd", "b": "acd", "c": "abd", "d": "abc"} == healed


def test_an_isolated_node_reaches_nobody_and_nobody_reaches_it():
    """The others reach each other; whoever joins later does not reach it either."""
    world = connected("a", "b", "c")
    world.network.isolate("a")
    isolated = reach(world)
    newcomer = world.start("d", "a", "b")
    world.run(1.1)
    world.network.heal()
    healed = reach(world)

    assert {"a": "", "b": "c", "c": "b"} == isolated
    assert (["no handshake within 1 s"], True) == (newcomer.reasons("a"), newcomer.is_up("b"))
    assert {"a": "bc", "b": "acd", "c": "ab", "d": "b"} == healed


def test_a_cut_that_lasts_is_noticed_by_both_ends_each_in_its_own_time():
    """No acknowledgement gets through, so both give up, between the shortest and the longest silence, and try again."""
    times = set()
    for seed in range(20):
        world = connected("a", "b", seed=seed)
        world.network.cut("a", "b")
        at = {}
        for _ in range(700):
            world.run(0.01)
            for name, other in (("a", "b"), ("b", "a")):
                if not world.nodes[name].is_up(other):
                    at.setdefault(name, round(world.now - 1, 2))
        reasons = {world.nodes["a"].reasons("b")[0], world.nodes["b"].reasons("a")[0]}
        times.update(at.values())
        world.network.heal()
        world.run(2.1)

        assert all(2 <= seconds <= 6.02 for seconds in at.values()), f"seed {seed}"
        # The way from b to a is open: when b gives up first, a is told.
        assert "nothing has come from the peer for some seconds" in reasons, f"seed {seed}"
        assert world.nodes["a"].is_up("b"), f"seed {seed}"
        assert world.nodes["b"].is_up("a"), f"seed {seed}"

    assert len(times) > 10


def test_the_end_that_gives_up_tells_the_other_if_the_way_is_open():
    """With only the way there cut, the sender hears of the receiver's end."""
    world = connected("a", "b", seed=3)
    world.network.settings = NetworkSettings(silence_min=3, silence_max=3)
    world.network.cut("a", "b")
    world.network.settings = EVEN
    world.at("b", world.network.close, world.transports["b"].ends["a"], "enough")
    world.run(0.1)

    assert ["enough"] == world.nodes["b"].reasons("a")
    assert ["the peer closed the connection"] == world.nodes["a"].reasons("b")
    assert [0] == world.counts("timeouts")


def test_a_cut_that_heals_in_time_is_never_noticed_however_often_it_comes():
    """Each cut's silence starts anew."""
    world = connected("a", "b")
    events = [node.events[:] for node in world.nodes.values()]
    for _ in range(20):
        world.network.cut("a", "b")
        world.run(1.9)
        world.network.heal()
        world.run(0.01)

    assert events == [node.events for node in world.nodes.values()]
    assert [0] == world.counts("timeouts")


def test_a_second_cut_does_not_prolong_the_silence_of_the_first():
    """The silence lasts from the moment from which nothing can come back."""
    world = connected("a", "b")
    world.network.cut("a", "b")
    for _ in range(6):
        world.run(1.01)
        world.network.cut("b", "a")

    assert not world.nodes["a"].is_up("b")
    assert not world.nodes["b"].is_up("a")


@pytest.mark.parametrize(
    ("way", "after", "admitted"),
    [(("b", "a"), 0.0, ([], [])), (("a", "b"), 0.5, (["b"], [])), (("b", "a"), 1.5, (["b"], ["a"]))],
)
def test_a_cut_during_the_handshake_swallows_it(way, after, admitted):
    """None of its three steps gets over a cut; the attempt ends with a time-out and later ones with success."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b")
    if not after:
        world.network.cut(*way)
    world.name_peers("b", "a")
    world.run(after * WAY)
    world.network.cut(*way)
    world.run(0.9)
    before = acceptor.events[:]
    done = acceptor.admitted[:], dialler.admitted[:]
    world.run(0.2)
    reasons = dialler.reasons("a")[:]
    world.run(3)
    none = world.counts("connected")
    world.network.heal()
    world.run(2.1)

    assert [] == before
    assert admitted == done
    assert ["no handshake within 1 s"] == reasons
    assert [0] == none
    assert dialler.is_up("a")
    assert acceptor.is_up("b")
    assert [1] == world.counts("connected")


def test_an_end_that_is_up_alone_closes_when_the_handshake_times_out():
    """The dialler was up; its last word did not get through, and what it sent is lost."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    world.run(1.5 * WAY)
    world.network.cut("b", "a")
    world.run(WAY)
    world.network.heal()
    up = dialler.events[:]
    world.send("b", "a", 1)
    world.run(0.9)
    still = dialler.is_up("a")
    world.run(0.2)

    assert [("up", "a")] == up
    assert still
    assert ["no handshake within 1 s"] == dialler.reasons("a")
    assert [] == acceptor.got
    assert [1] == world.counts("broken")
    assert acceptor.is_up("b")


def test_a_slow_way_takes_so_many_times_as_long_until_it_is_healed():
    """The other way is as fast as before."""
    world = connected("a", "b")
    world.network.slow("a", "b", 50)
    world.send("a", "b", 1)
    world.send("b", "a", 2)
    world.run(49 * WAY)
    before = world.nodes["b"].got[:], world.nodes["a"].got[:]
    world.run(1.1 * WAY)
    after = world.nodes["b"].got[:]
    world.network.heal()
    world.send("a", "b", 3)
    world.run(1.1 * WAY)

    assert ([], [("b", 2)]) == before
    assert [("a", 1)] == after
    assert [1, 3] == world.nodes["b"].numbers("a")


def test_a_handshake_over_a_slow_way_is_slow_too():
    """It counts for what comes later as well as for connections that are there."""
    world = World()
    world.network.slow("a", "b", 20)
    acceptor, _ = world.start("a"), world.start("b", "a")
    world.run(21 * WAY)
    before = world.nodes["b"].events[:]
    world.run(2 * WAY)
    world.send("a", "b", 1)
    world.run(15 * WAY)

    assert [] == before
    assert acceptor.is_up("b")
    assert [] == world.nodes["b"].got


def test_a_negative_factor_is_refused():
    """Nothing arrives before it was sent."""
    with pytest.raises(ValueError, match="factor: -1 is negative; give 1 for the ordinary latency"):
        World().network.slow("a", "b", -1)


# -- ends of connections ----------------------------------------------------------------------------------------------


def test_a_reset_loses_all_that_is_under_way_and_both_ends_connect_again():
    """Both are told; nothing of the former connection arrives, neither before they are nor over the next one."""
    world = connected("a", "b", settings=NetworkSettings(stall=1.0, stall_seconds=10.0))
    world.send("a", "b", 1)
    world.send("b", "a", 2)
    world.network.settings = EVEN
    world.run(1)
    world.network.reset("a", "b")
    world.send("a", "b", 3)
    world.run(2 * WAY)
    down = [node.events[-1] for node in world.nodes.values()]
    world.run(1)
    world.send("a", "b", 4)
    world.run(200)

    assert [("down", "b", "connection reset"), ("down", "a", "connection reset")] == down
    assert [4] == world.nodes["b"].numbers("a")
    assert [] == world.nodes["a"].got
    assert [3, 1, 2] == world.counts("broken", "resets", "connected")

    world.send("a", "b", 5)
    world.run(0.5 * WAY)
    world.network.reset("a", "b")
    world.run(1)

    assert [4] == world.nodes["b"].numbers("a")


def test_a_reset_of_what_is_not_connected_does_nothing():
    """It is not counted either."""
    world = World()
    world.start("a")
    world.network.reset("a", "b")
    world.run(1)

    assert [] == world.nodes["a"].events
    assert [0] == world.counts("resets")


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_a_reset_ends_a_handshake_too(after):
    """The dialler hears of it, and tries again."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    world.run(after * WAY)
    world.network.reset("b", "a")
    world.run(1)

    assert ["connection reset"] == dialler.reasons("a")
    assert dialler.is_up("a")
    assert [("up", "b")] == acceptor.events
    assert [1] == world.counts("connected")


def test_a_crash_is_told_to_the_peers_after_what_was_sent_has_arrived():
    """What was under way to the dead node is lost; who tries again finds nobody."""
    world = connected("a", "b")
    world.send("a", "b", 1)
    world.send("b", "a", 2)
    world.crash("b")
    world.send("a", "b", 3)
    world.run(1)

    assert [2] == world.nodes["a"].numbers("b")
    assert ["connection reset", "connection refused: no node is running there"] == world.nodes["a"].reasons("b")
    assert [] == world.nodes["b"].got
    assert [1] == world.counts("broken")


def test_a_process_that_starts_again_gets_nothing_that_was_sent_to_the_former_one():
    """Its connections are new; the peers hear that it went and that it is back."""
    world = connected("a", "b", settings=NetworkSettings(stall=1.0, stall_seconds=1.0))
    world.send("a", "b", *range(10))
    world.network.settings = EVEN
    world.crash("b")
    world.run(2.5 * WAY)
    again = world.start("b", "a")
    world.run(10)
    world.send("a", "b", 77)
    world.run(1)

    assert [77] == again.numbers("a")
    assert [("up", "a")] == again.events
    assert ["up", "down", "up"] == [event[0] for event in world.nodes["a"].events]


def test_a_silent_end_is_noticed_after_some_seconds_of_silence():
    """Until then what is sent is lost and the peer seems to be up; dialling it leads nowhere."""
    world = connected("a", "b")
    world.crash("b", silently=True)
    world.send("a", "b", 1)
    world.run(1.99)
    early = world.nodes["a"].is_up("b")
    world.run(4.1)
    reasons = world.nodes["a"].reasons("b")[:1]
    world.run(2)

    assert early
    assert ["nothing has come from the peer for some seconds"] == reasons
    assert ["no handshake within 1 s"] == world.nodes["a"].reasons("b")[1:]
    assert [1, 1] == world.counts("broken", "timeouts")


def test_a_machine_that_is_back_says_that_it_does_not_know_the_connection():
    """Who sends to it over the former one is told and connects again."""
    world = connected("a", "b")
    world.crash("b", silently=True)
    world.run(0.5)
    world.start("b")
    world.run(0.5)
    before = world.nodes["a"].events[-1]
    world.network.cut("b", "a")
    world.send("a", "b", 0)
    world.run(0.5)
    cut = world.nodes["a"].events[-1]
    world.network.heal()
    world.calls.clear()
    world.send("a", "b", 1, 2)
    world.run(0.5)

    assert ("up", "b") == before == cut
    assert ["connection reset: the peer does not know it"] == world.nodes["a"].reasons("b")
    assert ["drop"] == [name for _, _, name in world.calls if name == "drop"]
    assert world.nodes["a"].is_up("b")
    assert [] == world.nodes["b"].got


def test_a_connection_that_replaces_a_dead_one_comes_without_a_word():
    """The node that was back connected before its peer had noticed anything: for that one nothing has happened."""
    world = connected("a", "b")
    events = world.nodes["a"].events[:]
    world.crash("b", silently=True)
    world.run(0.5)
    again = world.start("b", "a")
    world.run(0.5)
    world.send("a", "b", 1)
    world.run(10)

    assert events == world.nodes["a"].events
    assert [1] == again.numbers("a")
    assert [0, 2] == world.counts("timeouts", "connected")


def test_an_end_that_was_replaced_takes_nothing_any_more():
    """What the dead process had sent comes over its own connection or not at all."""
    world = connected("a", "b", settings=NetworkSettings(stall=1.0, stall_seconds=100.0))
    world.send("b", "a", 1)
    world.network.settings = EVEN
    world.crash("b", silently=True)
    world.start("b", "a")
    world.run(1000)

    assert [] == world.nodes["a"].got
    assert [1] == world.counts("broken")


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_crash_in_the_middle_of_a_handshake_leaves_nothing_behind(who, after, silently):
    """Whoever dies, at whichever step: the pair connects when the process is back, and each is up once."""
    world = World()
    world.start("a", "b")
    world.start("b", "a")
    world.run(after * WAY)
    world.crash(who, silently)
    world.run(0.3)
    (other,) = {"a", "b"} - {who}
    world.start(who, other)
    world.run(9)
    world.send("a", "b", 1)
    world.send("b", "a", 2)
    world.run(1)

    assert [1] == world.nodes["b"].numbers("a")
    assert [2] == world.nodes["a"].numbers("b")
    assert [("up", other)] == world.nodes[who].events


def test_the_acceptors_crash_is_told_to_who_is_connecting():
    """It need not wait for the time-out."""
    world = World()
    world.start("a")
    dialler = world.start("b", "a")
    world.run(0.5 * WAY)
    world.crash("a")
    world.run(WAY + 1e-9)

    assert [("down", "a", "connection reset")] == dialler.events


@pytest.mark.parametrize("cause", ["power", "cut"])
def test_the_acceptors_crash_that_nobody_tells_is_noticed_by_the_time_out(cause):
    """Without power it can't say so, and with the way back cut nobody hears it."""
    world = World()
    world.start("a")
    dialler = world.start("b", "a")
    world.run(0.5 * WAY)
    if cause == "cut":
        world.network.cut("a", "b")
    world.crash("a", silently=cause == "power")
    world.run(1.5)

    assert [("down", "a", "no handshake within 1 s")] == dialler.events


def test_nobody_says_through_a_cut_that_no_node_is_running():
    """A connection is refused by the machine, whose answer has to get back."""
    world = World()
    world.network.cut("b", "a")
    node = world.start("a", "b")
    world.run(1.5)

    assert [("down", "b", "no handshake within 1 s")] == node.events


def test_a_crash_of_a_node_that_has_left_changes_nothing():
    """A process that ends after its transport was stopped."""
    world = connected("a", "b")
    world.stop("b")
    world.crash("b")
    world.run(1)

    assert ["the peer closed the connection", "connection refused: no node is running there"] == (
        world.nodes["a"].reasons("b")
    )


def test_a_machine_without_power_answers_nothing_until_a_process_there_has_died_or_started():
    """A connection to it is not refused but times out."""
    world = World()
    world.network.crashed("b", silently=True)
    node = world.start("a", "b")
    world.run(1.5)
    dark = node.reasons("b")[:]
    world.network.crashed("b")
    world.run(3)

    assert ["no handshake within 1 s"] == dark
    assert [*dark, "connection refused: no node is running there"] == node.reasons("b")

    world.network.crashed("b", silently=True)
    world.start("b")
    world.stop("b")
    other = world.start("c", "b")
    world.run(0.5)

    assert ["connection refused: no node is running there"] == other.reasons("b")


def test_a_paused_node_is_not_connected_to_until_it_resumes():
    """The handshake times out; what it finds of that when it resumes is of no use any more."""
    world = World()
    paused, dialler = world.start("a"), world.start("b")
    world.paused["a"] = []
    world.name_peers("b", "a")
    world.run(3)
    reasons = dialler.reasons("a")[:]
    world.resume("a")
    at_once = paused.admitted[:]
    world.run(2.1)

    assert ["no handshake within 1 s"] == reasons
    assert len(at_once) <= 1
    assert dialler.is_up("a")
    assert paused.is_up("b")


def test_a_dialler_that_was_paused_for_too_long_does_not_go_up():
    """The answer is old when it reads it."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    world.run(0.5 * WAY)
    world.paused["b"] = []
    world.run(2)
    world.resume("b")
    events = dialler.events[:]
    world.run(2)

    assert [("down", "a", "no handshake within 1 s")] == events
    assert [("up", "b")] == acceptor.events


def test_who_was_dialled_by_a_node_that_is_paused_may_dial_it_later():
    """The attempt that they shared is given up; what the paused node finds of it is of no use any more."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    world.run(0.5 * WAY)
    world.paused["b"] = []
    world.name_peers("a", "b")
    world.run(4)
    reasons = acceptor.reasons("b")[:]
    world.resume("b")
    admitted = dialler.admitted[:]
    world.run(2.1)

    assert ["no handshake within 1 s"] == reasons
    assert len(admitted) <= 1
    assert dialler.is_up("a")
    assert acceptor.is_up("b")


def test_a_node_that_stops_is_gone_once_what_it_sent_has_arrived():
    """Its own endpoint is not called again; the peers are told and find nobody there."""
    world = connected("a", "b")
    world.network.slow("b", "a", 20)
    world.send("b", "a", 1)
    world.network.heal()
    world.send("a", "b", 2)
    events = world.nodes["b"].events[:]
    world.stop("b")
    world.stop("b")
    world.run(1)
    world.send("b", "a", 3)

    assert [1] == world.nodes["a"].numbers("b")
    assert ([], events) == (world.nodes["b"].got, world.nodes["b"].events)
    assert ["the peer closed the connection", "connection refused: no node is running there"] == (
        world.nodes["a"].reasons("b")
    )
    assert [1, 1] == world.counts("broken", "unconnected")


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5])
def test_a_node_that_stops_in_the_middle_of_a_handshake_is_not_called_any_more(after):
    """The dialler is told, whether it is up or not."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b", "a")
    world.run(after * WAY)
    before = acceptor.admitted[:], acceptor.events[:]
    world.stop("a")
    world.run(WAY + 1e-9)

    assert ["the peer closed the connection"] == dialler.reasons("a")
    world.run(1)
    assert before == (acceptor.admitted, acceptor.events)


def test_a_node_that_stops_does_not_hear_that_it_is_refused():
    """Neither does its counter."""
    world = World()
    acceptor, dialler = world.start("a"), world.start("b")
    dialler.refusals["a"] = "wrong cluster"
    world.name_peers("b", "a")
    world.run(2.5 * WAY)
    world.stop("a")
    world.run(1)

    assert [] == acceptor.events
    assert [0] == [world.transports["a"].counters()["refused"]]


def test_a_stop_before_the_start_does_nothing():
    """The node was never on the network."""
    world = World()
    world.transports["a"] = SimTransport(world.network, "a")
    world.stop("a")

    assert {"sent": 0, "received": 0, "dropped": 0, "refused": 0} == world.transports["a"].counters()


def test_a_node_that_stops_behind_a_cut_is_missed_only_after_some_seconds():
    """The word of its end does not get through; also when the cut has healed since."""
    world = connected("a", "b")
    world.network.cut("b", "a")
    world.stop("b")
    world.run(1)
    world.network.heal()
    world.run(0.9)
    early = world.nodes["a"].is_up("b")
    world.run(4.2)

    assert early
    assert "nothing has come from the peer for some seconds" == world.nodes["a"].reasons("b")[0]


def test_a_peer_that_lets_go_behind_a_cut_is_missed_only_after_some_seconds():
    """As one that stops."""
    world = World()
    world.start("b")
    world.start("a", "b")
    world.run(1)
    world.network.cut("a", "b")
    world.name_peers("a")
    world.network.heal()
    world.run(1.9)
    early = world.nodes["b"].is_up("a")
    world.run(4.2)

    assert early
    assert ["nothing has come from the peer for some seconds"] == world.nodes["b"].reasons("a")


def test_two_nodes_of_one_name_are_refused():
    """A process has to be gone before the next of its name starts."""
    world = connected("a", "b")
    transport = SimTransport(world.network, "a")

    with pytest.raises(ConfigError, match="node 'a' is on this network already; stop it, or say that it crashed"):
        asyncio.run(transport.start(Node(world, "a")))


def test_a_peer_that_is_not_named_any_more_is_let_go_behind_what_was_sent_to_it():
    """Both ends are told, and neither dials again."""
    world = World()
    world.start("b")
    world.start("a", "b")
    world.run(1)
    world.send("a", "b", 1)
    world.name_peers("a")
    events = world.nodes["a"].events[-1]
    world.run(30)

    assert ("down", "b", "it is not a member any more") == events
    assert [1] == world.nodes["b"].numbers("a")
    assert ["the peer closed the connection"] == world.nodes["b"].reasons("a")
    assert [1] == world.counts("connected")


def test_who_still_names_a_peer_that_has_let_it_go_connects_again():
    """A node that was removed and has not been told of it can still ask."""
    world = connected("a", "b")
    world.name_peers("a")
    world.run(1)
    world.send("b", "a", 1)
    world.run(1)

    assert world.nodes["a"].is_up("b")
    assert [1] == world.nodes["a"].numbers("b")


def test_peers_that_are_named_before_the_start_are_dialled_then():
    """The order of the two calls is the node's business."""
    world = World()
    world.start("b")
    node = world.nodes["a"] = Node(world, "a")
    transport = world.transports["a"] = SimTransport(world.network, "a")
    world.name_peers("a", "b")
    world.run(1)
    before = node.events[:]
    world.at("a", transport.start, node)
    world.run(1)

    assert [] == before
    assert node.is_up("b")


# -- settings, trace, determinism -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": -0.1}, r"loss: -0\.1 is not a chance; give a number from 0 to 1"),
        ({"late": 1.5}, r"late: 1\.5 is not a chance"),
        (
            {"min_latency": 0.2, "median_latency": 0.1},
            r"min_latency, median_latency: 0\.2 to 0\.1 is no range; give two that are not negative, the lesser first",
        ),
        ({"reconnect_min": 2, "reconnect_max": 1}, "reconnect_min, reconnect_max: 2 to 1 is no range"),
        ({"silence_min": -1}, r"silence_min, silence_max: -1 to 6\.0 is no range"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    """The text names the setting and its value."""
    with pytest.raises(ValueError, match=message):
        NetworkSettings(**options)


def test_settings_can_be_changed_at_any_time():
    """What is sent from then on goes by the new ones."""
    world = connected("a", "b", settings=NetworkSettings(loss=1.0))
    world.send("a", "b", 1)
    world.network.settings = NetworkSettings()
    world.send("a", "b", 2)
    world.run(1)

    assert [2] == world.nodes["b"].numbers("a")
    assert NetworkSettings() == world.network.settings


def test_the_trace_follows_each_message_by_its_number():
    """Every send is followed by its deliveries, or by what became of it."""
    world = connected("a", "b", settings=NetworkSettings(duplication=1.0), traced=True)
    world.send("a", "b", 1)
    world.run(1)
    world.network.cut("a", "b")
    world.send("a", "b", 2)
    world.send("a", "c", 3)
    sends = [
        {"node": "a", "to": to, "id": number, "message": "TimeoutNow"} for number, to in ((1, "b"), (2, "b"), (3, "c"))
    ]
    delivery = {"node": "b", "sender": "a", "id": 1, "message": "TimeoutNow"}

    assert [
        ("send", sends[0] | {"text": "term 0 round 1"}),
        ("deliver", delivery),
        ("deliver", delivery),
        ("send", sends[1] | {"text": "term 0 round 2"}),
        ("lost", {"node": "a", "to": "b", "id": 2, "reason": "the way is cut"}),
        ("send", sends[2] | {"text": "term 0 round 3"}),
        ("lost", {"node": "a", "to": "c", "id": 3, "reason": "no connection"}),
    ] == world.events


NAMES = ("a", "b", "c", "d")
WILD = NetworkSettings(
    loss=0.02, duplication=0.05, reordering=0.05, late=0.05, late_seconds=0.3, stall=0.02, max_in_flight=30
)


class Misuse:
    """Everything that can be done to a network. Each method does one thing, if it can be done now to `one`."""

    def __init__(self, seed, traced):
        self.rng = random.Random(seed)
        self.world = World(seed, WILD, traced)
        self.numbers = itertools.count()
        for name in NAMES:
            self.world.start(name, *others(name))

    def takes_part(self, name):
        return name not in self.world.dead and name not in self.world.paused

    def send(self, *_):
        for sender in filter(self.takes_part, NAMES):
            self.world.send(sender, self.rng.choice(others(sender)), next(self.numbers))

    def cut(self, one, other):
        self.world.network.cut(one, other)

    def reset(self, one, other):
        self.world.network.reset(one, other)

    def partition(self, one, other):
        self.world.network.partition([{one, other}, set(NAMES) - {one, other}])

    def isolate(self, one, _):
        self.world.network.isolate(one)

    def slow(self, one, other):
        self.world.network.slow(one, other, self.rng.choice([3, 100]))

    def heal(self, *_):
        self.world.network.heal()

    def crash(self, one, _):
        if one not in self.world.dead:
            self.world.crash(one, self.rng.random() < 0.5)

    def start(self, one, _):
        if one in self.world.dead:
            self.world.start(one, *others(one))

    def pause(self, one, _):
        if self.takes_part(one):
            self.world.paused[one] = []

    def resume(self, one, _):
        if one in self.world.paused:
            self.world.resume(one)

    def change_peers(self, one, _):
        if self.takes_part(one):
            self.world.name_peers(one, *(name for name in others(one) if self.rng.random() < 0.8))

    def stop(self, one, _):
        if self.takes_part(one):
            self.world.stop(one)
            self.world.crash(one)

    def mend(self):
        self.heal()
        self.world.network.settings = NetworkSettings()
        for name in NAMES:
            self.resume(name, "")
            self.start(name, "")
            self.world.name_peers(name, *others(name))


def others(name):
    """All nodes but one."""
    return [other for other in NAMES if other != name]


def misuse(seed, traced=False, steps=400):
    """Do everything to a network that can be done to it, then heal it; the world afterwards."""
    user = Misuse(seed, traced)
    once = [user.cut, user.partition, user.isolate, user.reset, user.slow, user.crash, user.pause, user.change_peers]
    deeds = [user.send] * 30 + once + [user.stop] + [user.heal, user.start, user.resume] * 2
    for _ in range(steps):
        user.world.run(user.rng.expovariate(20))
        user.rng.choice(deeds)(*user.rng.sample(NAMES, 2))
    user.mend()
    user.world.run(20)
    return user.world


@pytest.mark.parametrize("seed", range(25))
def test_whatever_was_done_to_it_a_network_that_is_healed_connects_everybody(seed):
    """And on the way no node heard twice in a row that a peer is up, and no counter is out of balance."""
    world = misuse(seed)
    twice = [
        (name, peer)
        for name, node in world.nodes.items()
        for peer in NAMES
        for said in [[event[0] for event in node.events if event[1] == peer]]
        if any(pair == ("up", "up") for pair in itertools.pairwise(said))
    ]
    counts = world.network.counters()
    fates = sum(counts[name] for name in ("lost", "cut", "broken", "unconnected", "overflowed"))
    up = {name: sorted(peer for peer in NAMES if node.is_up(peer)) for name, node in world.nodes.items()}

    assert [] == twice
    assert {name: others(name) for name in NAMES} == up
    assert {name: "".join(others(name)) for name in NAMES} == reach(world)
    assert counts["delivered"] - counts["duplicated"] + fates <= counts["sent"]
    assert min(counts[name] for name in ("delivered", "cut", "unconnected")) > 0


def test_the_same_seed_gives_the_same_run_and_another_seed_another_one():
    """With and without a trace."""
    runs = [misuse(7), misuse(7), misuse(7, traced=True), misuse(8)]
    seen = [(world.calls, {name: (node.got, node.at) for name, node in world.nodes.items()}) for world in runs]

    assert seen[0] == seen[1] == seen[2]
    assert seen[0] != seen[3]


def test_a_run_does_not_hang_on_the_hashes_of_names():
    """Two processes with different hashes of strings see the same."""
    program = (
        "import random, runpy, sys\n"
        "world = runpy.run_path(sys.argv[1])['misuse'](5, traced=True, steps=150)\n"
        "print(len(world.events), repr(world.events[-5:]), repr(world.calls[-5:]), world.network.counters())\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, __file__],
            env=os.environ | {"PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for number in ("1", "2")
    ]

    assert outputs[0] == outputs[1] != ""

"""The transport between nodes of one event loop."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.backends.memory_transport import Hub, MemoryTransport
from raftcore.errors import ConfigError
from raftcore.types import NodeInfo


def peers(*nodes):
    """A membership's nodes as `set_peers` takes them."""
    return {node: NodeInfo("") for node in nodes}


@pytest.fixture
def cluster(recorder):
    """Start the nodes that are named on one hub, each with all others as its peers."""

    async def start(*nodes):
        hub = Hub()
        ends = {node: recorder(node) for node in nodes}
        transports = {node: MemoryTransport(hub) for node in nodes}
        for node, transport in transports.items():
            transport.set_peers(peers(*(other for other in nodes if other != node)))
            await transport.start(ends[node])
        return hub, ends, transports

    return start


def test_delivers_the_message_object_itself_in_order(cluster, message):
    """The receiver gets the very objects that were sent, in the order of sending, with the sender's id."""

    async def run():
        _, ends, transports = await cluster("n1", "n2")
        sent = [message(1), message(2)]
        for one in sent:
            transports["n1"].send("n2", one)
        return sent, ends["n2"].got

    sent, got = asyncio.run(run())

    assert [("n1", one) for one in sent] == got
    assert all(one is other for one, (_, other) in zip(sent, got, strict=True))


def test_both_ends_are_told_that_the_other_is_up(cluster):
    """Each end hears of the other once, after both have started."""

    async def run():
        _, ends, _ = await cluster("n1", "n2")
        return ends["n1"].events, ends["n2"].events

    assert ([("up", "n2")], [("up", "n1")]) == asyncio.run(run())


def test_one_end_that_names_the_other_is_enough(recorder, message):
    """A node that has not been told of any member can answer the one that knows it."""

    async def run():
        hub = Hub()
        leader, joiner = MemoryTransport(hub), MemoryTransport(hub)
        ends = recorder("leader"), recorder("joiner")
        await leader.start(ends[0])
        await joiner.start(ends[1])
        leader.set_peers(peers("joiner"))
        joiner.send("leader", message(7))
        return ends[0].got

    assert [("joiner", message(7))] == asyncio.run(run())


def test_sending_to_a_node_that_is_not_there_is_counted_as_dropped(cluster, message):
    """A message for an unknown peer is lost, and counted."""

    async def run():
        _, _, transports = await cluster("n1")
        transports["n1"].send("n2", message(1))
        return transports["n1"].counters()

    assert {"sent": 0, "received": 0, "dropped": 1, "refused": 0} == asyncio.run(run())


@pytest.mark.parametrize("refusing", ["n1", "n2"])
def test_a_refused_peer_is_not_talked_to_and_both_hear_the_reason(recorder, message, refusing):
    """A refusal by either end keeps messages from going both ways."""

    async def run():
        hub = Hub()
        first, second = MemoryTransport(hub), MemoryTransport(hub)
        ends = {"n1": recorder("n1"), "n2": recorder("n2")}
        ends[refusing].refusals = {"n1": "not today", "n2": "not today"}
        first.set_peers(peers("n2"))
        await first.start(ends["n1"])
        await second.start(ends["n2"])
        first.send("n2", message(1))
        second.send("n1", message(2))
        refused = {"n1": first.counters()["refused"], "n2": second.counters()["refused"]}
        return ends, refused

    ends, refused = asyncio.run(run())
    refused_end = "n2" if refusing == "n1" else "n1"

    assert [] == ends["n1"].got + ends["n2"].got
    assert [("down", refused_end, "not today")] == ends[refusing].events
    assert [("down", refusing, f"node '{refusing}' refuses: not today")] == ends[refused_end].events
    assert {refusing: 1, refused_end: 0} == refused


def test_a_refused_pair_tries_again_when_peers_are_set(cluster, recorder):
    """What was refused is admitted later, once the endpoint agrees."""

    async def run():
        hub = Hub()
        first, second = MemoryTransport(hub), MemoryTransport(hub)
        end, other = recorder("n1"), recorder("n2")
        end.refusals["n2"] = "not a member yet"
        await first.start(end)
        await second.start(other)
        second.set_peers(peers("n1"))
        end.refusals.clear()
        first.set_peers(peers("n2"))
        return end.events

    assert [("down", "n2", "not a member yet"), ("up", "n2")] == asyncio.run(run())


def test_a_cut_loses_messages_one_way_until_it_is_healed(cluster, message):
    """`cut` drops one direction silently, `heal` brings it back."""

    async def run():
        hub, ends, transports = await cluster("n1", "n2")
        hub.cut("n1", "n2")
        transports["n1"].send("n2", message(1))
        transports["n2"].send("n1", message(2))
        hub.heal()
        transports["n1"].send("n2", message(3))
        return ends, transports["n1"].counters()

    ends, counters = asyncio.run(run())

    assert [("n1", message(3))] == ends["n2"].got
    assert [("n2", message(2))] == ends["n1"].got
    assert [("up", "n1")] == ends["n2"].events
    assert {"sent": 1, "received": 1, "dropped": 1, "refused": 0} == counters


def test_a_cut_holds_for_a_node_that_starts_later(recorder, message):
    """A cut between two ids does not end when one of them (re)starts."""

    async def run():
        hub = Hub()
        hub.cut("n1", "n2")
        first, second = MemoryTransport(hub), MemoryTransport(hub)
        end = recorder("n2")
        await first.start(recorder("n1"))
        await second.start(end)
        first.set_peers(peers("n2"))
        first.send("n2", message(1))
        return end.got

    assert [] == asyncio.run(run())


def test_a_node_that_stops_is_gone_and_the_others_are_told(cluster, message):
    """After `stop` the endpoint is not called again, and the peers hear that it is down."""

    async def run():
        _, ends, transports = await cluster("n1", "n2")
        await transports["n2"].stop()
        await transports["n2"].stop()
        transports["n1"].send("n2", message(1))
        return ends, transports["n1"].counters()["dropped"]

    ends, dropped = asyncio.run(run())

    assert [("up", "n2"), ("down", "n2", "node 'n2' has stopped")] == ends["n1"].events
    assert ([("up", "n1")], []) == (ends["n2"].events, ends["n2"].got)
    assert 1 == dropped


def test_a_node_can_come_back_under_its_id(cluster, recorder, message):
    """A restarted node is linked again without any call at the other end."""

    async def run():
        hub, ends, transports = await cluster("n1", "n2")
        await transports["n2"].stop()
        again = recorder("n2")
        await MemoryTransport(hub).start(again)
        transports["n1"].send("n2", message(1))
        return ends["n1"].is_up("n2"), again.got

    assert (True, [("n1", message(1))]) == asyncio.run(run())


def test_peers_that_both_ends_forget_are_disconnected(cluster, message):
    """The link ends when neither end names the other; both are told."""

    async def run():
        _, ends, transports = await cluster("n1", "n2")
        transports["n1"].set_peers({})
        transports["n1"].send("n2", message(1))
        transports["n2"].set_peers({})
        transports["n1"].send("n2", message(2))
        return ends

    ends = asyncio.run(run())

    assert [("n1", message(1))] == ends["n2"].got
    assert ["neither of the two names the other as a peer any more"] == ends["n1"].reasons("n2")
    assert ["neither of the two names the other as a peer any more"] == ends["n2"].reasons("n1")


def test_two_nodes_of_one_id_on_a_hub_are_refused(cluster, recorder):
    """The second node of an id can't start, and the message says what to do."""

    async def run():
        hub, _, _ = await cluster("n1")
        await MemoryTransport(hub).start(recorder("n1"))

    with pytest.raises(ConfigError, match="node 'n1' is on this hub already; give each node of a cluster its own id"):
        asyncio.run(run())


def test_a_hub_of_its_own_is_a_cluster_of_one(recorder, message):
    """Nodes on different hubs never meet."""

    async def run():
        end = recorder("n2")
        first, second = MemoryTransport(Hub()), MemoryTransport(Hub())
        first.set_peers(peers("n2"))
        await first.start(recorder("n1"))
        await second.start(end)
        first.send("n2", message(1))
        return end.got, first.counters()["dropped"]

    assert ([], 1) == asyncio.run(run())

"""The transport over TCP among friends: delivery, reconnecting, changes of the membership, starting and stopping."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from itertools import pairwise

import msgspec
import pytest

from raftcore import wire
from raftcore.backends.tcp import TcpTransport
from raftcore.backends.tcp_options import TcpOptions
from raftcore.errors import ConfigError
from raftcore.messages import SnapshotChunk
from raftcore.types import NO_LOG, NO_MEMBERSHIP, NO_VOTE, NodeInfo, SnapshotMeta


def chunk(data):
    """A message with `data` in it."""
    return SnapshotChunk(NO_VOTE, 1, SnapshotMeta("s", NO_LOG, NO_MEMBERSHIP, NO_LOG), 0, data, True)


def test_delivers_in_order_both_ways_over_one_connection(run, network, message):
    """Messages arrive in the order of sending, with the sender's id, also at the end that was dialled."""

    async def main():
        async with network() as net:
            await net.pair()
            for number in range(1000):
                net.transports["n1"].send("n2", message(number))
                net.transports["n2"].send("n1", message(-number))
            await net.ends["n1"].wait(lambda: len(net.ends["n1"].got) == 1000)
            await net.ends["n2"].wait(lambda: len(net.ends["n2"].got) == 1000)
            return net.ends["n1"].got, net.ends["n2"].got

    at_n1, at_n2 = run(main())

    assert [("n2", message(-number)) for number in range(1000)] == at_n1
    assert [("n1", message(number)) for number in range(1000)] == at_n2


def test_counts_messages_and_bytes_each_way(run, network, message):
    """Both ends count the same messages and the same bytes."""

    async def main():
        async with network() as net:
            await net.pair()
            for number in range(3):
                net.transports["n1"].send("n2", message(number))
            await net.ends["n2"].wait(lambda: len(net.ends["n2"].got) == 3)
            return net.transports["n1"].counters(), net.transports["n2"].counters()

    sent, received = run(main())
    size = sum(4 + len(wire.encode(message(number))) for number in range(3))
    none = dict.fromkeys(("sent", "received", "sent_bytes", "received_bytes", "dropped", "refused", "bad_frames"), 0)

    assert none | {"sent": 3, "sent_bytes": size} == sent
    assert none | {"received": 3, "received_bytes": size} == received


def test_large_messages_arrive_whole_between_small_ones(run, network, message):
    """A message of many reads and writes is put together again, and what is around it keeps its place."""
    large = chunk(bytes(range(256)) * 80_000)

    async def main():
        async with network() as net:
            await net.pair()
            for one in (message(1), large, message(2), large, message(3)):
                net.transports["n1"].send("n2", one)
            await net.ends["n2"].wait(lambda: len(net.ends["n2"].got) == 5, 30)
            return [one for _, one in net.ends["n2"].got]

    assert [message(1), large, message(2), large, message(3)] == run(main())


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_frames_that_arrive_in_pieces_are_put_together(run, network, raw_peer, message, size):
    """Where the network cuts the stream makes no difference."""
    messages = [message(number) for number in range(10)]
    frames = [raw_peer.hello("n9"), b"", *map(wire.encode, messages)]
    stream = b"".join(len(data).to_bytes(4, "big") + data for data in frames)

    async def main():
        async with network() as net:
            peer = await raw_peer.dial(await net.start("n1"))
            for start in range(0, len(stream), size):
                peer.writer.write(stream[start : start + size])
                await asyncio.sleep(0)
            await net.ends["n1"].wait(lambda: len(net.ends["n1"].got) == 10)
            await peer.close()
            return net.ends["n1"].got

    assert [("n9", one) for one in messages] == run(main())


def test_a_message_for_several_peers_is_encoded_once(run, network, message, monkeypatch):
    """The same object that goes to several peers in one turn is encoded a single time."""
    encoded = []

    def encode(value, real=wire.encode):
        encoded.append(value)
        return real(value)

    async def main():
        async with network() as net:
            for node in ("n1", "n2", "n3"):
                await net.start(node)
            net.introduce("n1", "n2", "n3")
            await net.connected("n1", "n2")
            await net.connected("n1", "n3")
            monkeypatch.setattr(wire, "encode", encode)
            for one in (message(1), message(2)):
                for peer in ("n2", "n3"):
                    net.transports["n1"].send(peer, one)
            for node in ("n2", "n3"):
                await net.ends[node].wait(lambda node=node: len(net.ends[node].got) == 2)
            return net.ends["n2"].got, net.ends["n3"].got

    assert ([("n1", message(1)), ("n1", message(2))],) * 2 == run(main())
    assert [message(1), message(2)] == encoded


def test_an_unknown_peer_is_dropped_and_counted(run, network, message):
    """Sending to nobody does not raise."""

    async def main():
        async with network() as net:
            transport = await net.start("n1")
            transport.send("n2", message(1))
            return transport.counters()["dropped"]

    assert 1 == run(main())


def test_a_peer_that_restarts_is_found_again(run, network, message):
    """The connection comes back after the peer's restart on the same port, and both changes are reported."""

    async def main():
        async with network() as net:
            await net.pair()
            await net.transports["n2"].stop()
            await net.ends["n1"].wait(lambda: not net.ends["n1"].is_up("n2"))
            net.transports["n1"].send("n2", message(1))
            await net.start("n2", address=net.transports["n2"].address)
            await net.connected("n1", "n2")
            net.transports["n1"].send("n2", message(2))
            await net.ends["n2"].wait(lambda: net.ends["n2"].got)
            return net.ends["n1"], net.ends["n2"].got, net.transports["n1"].counters()["dropped"]

    end, got, dropped = run(main())

    assert [("n1", message(2))] == got
    assert 1 == dropped
    assert "the peer closed the connection" == end.reasons("n2")[0]
    assert [("up", "n2")] * 2 == [event for event in end.events if event[0] == "up"]


def test_pauses_between_attempts_grow_and_the_reason_is_told_once(run, network):
    """Attempts to reach a peer back off to the limit; the operator is told once, not at each."""

    async def main():
        attempts = []
        enough = asyncio.Event()

        def close_at_once(_, writer):
            attempts.append(asyncio.get_running_loop().time())
            writer.close()
            if len(attempts) == 6:
                enough.set()

        async with await asyncio.start_server(close_at_once, "127.0.0.1", 0) as server, network() as net:
            transport = await net.start("n1", reconnect_min_ms=20, reconnect_max_ms=80)
            port = server.sockets[0].getsockname()[1]
            transport.set_peers({"n2": NodeInfo(f"127.0.0.1:{port}")})
            await asyncio.wait_for(enough.wait(), 10)
            await transport.stop()
            return [later - earlier for earlier, later in pairwise(attempts)], net.ends["n1"]

    gaps, end = run(main())

    assert all(gap >= least / 1000 for gap, least in zip(gaps, (10, 20, 40, 40, 40), strict=True)), gaps
    assert 1 == len(end.reasons("n2")), end.events


def test_a_node_that_knows_no_address_answers_over_the_connection_it_was_given(run, network, message):
    """A joining node can send to the leader that dialled it."""

    async def main():
        async with network() as net:
            await net.pair()
            net.transports["n2"].send("n1", message(1))
            await net.ends["n1"].wait(lambda: net.ends["n1"].got)
            return net.ends["n1"].got

    assert [("n2", message(1))] == run(main())


def test_losing_one_of_two_connections_is_not_losing_the_peer(run, network, message, eventually):
    """Two nodes that dialled each other at once go on over the other connection when one breaks."""

    async def main():
        async with network() as net:
            await net.start("n1")
            await net.start("n2")
            net.introduce("n1", "n2")
            net.introduce("n2", "n1")
            await eventually(
                lambda: (
                    [2, 2]
                    == [
                        len(one._up.get(peer, ()))
                        for one, peer in zip(net.transports.values(), ("n2", "n1"), strict=True)
                    ]
                )
            )
            net.transports["n1"]._up["n2"][-1].abort("broken by the test")
            net.transports["n1"].send("n2", message(1))
            await net.ends["n2"].wait(lambda: net.ends["n2"].got)
            return list(net.ends["n1"].events), net.ends["n2"].got

    assert ([("up", "n2")], [("n1", message(1))]) == run(main())


def test_a_newer_connection_of_the_same_peer_replaces_the_older(run, network, raw_peer, message):
    """A peer that lost its connection without this end's noticing gets what is sent over the new one."""

    async def main():
        async with network() as net:
            transport = await net.start("n1")
            old = await raw_peer.join(transport, "n9")
            new = await raw_peer.join(transport, "n9")
            closed = await old.is_closed()
            transport.send("n9", message(1))
            got = await new.read()
            events = list(net.ends["n1"].events)
            await old.close()
            await new.close()
            return closed, wire.decode(got), events

    assert (True, message(1), [("up", "n9")]) == run(main())


def test_a_peer_whose_address_changes_is_dialled_there(run, network, message):
    """`set_peers` with another address leaves the old place for the new one."""

    async def main():
        async with network() as net:
            await net.pair()
            old = net.ends["n2"]
            await net.start("n2 moved", end=type(old)("n2"))
            moved = net.transports["n2 moved"].address
            net.transports["n1"].set_peers({"n2": NodeInfo(moved)})
            new = net.ends["n2 moved"]
            await new.wait(lambda: new.is_up("n1"))
            await net.ends["n1"].wait(lambda: net.ends["n1"].is_up("n2"))
            net.transports["n1"].send("n2", message(1))
            await new.wait(lambda: new.got)
            return old.got, new.got, net.ends["n1"].reasons("n2"), moved

    old, new, reasons, moved = run(main())

    assert ([], [("n1", message(1))]) == (old, new)
    assert [f"its address is now {moved}"] == reasons


def test_a_peer_that_left_gets_what_was_sent_before(run, network, message):
    """`set_peers` without a peer closes its connection after the last message."""

    async def main():
        async with network() as net:
            await net.pair()
            for number in range(100):
                net.transports["n1"].send("n2", message(number))
            net.transports["n1"].set_peers({})
            await net.ends["n2"].wait(lambda: not net.ends["n2"].is_up("n1"))
            return net.ends["n2"].got, net.ends["n1"].reasons("n2")

    got, reasons = run(main())

    assert [("n1", message(number)) for number in range(100)] == got
    assert ["it is not a member any more"] == reasons


def test_stopping_hands_over_what_was_sent(run, network, message):
    """The last messages before `stop` arrive; afterwards nothing is sent nor reported. A second `stop` is harmless."""

    async def main():
        async with network() as net:
            await net.pair()
            for number in range(100):
                net.transports["n1"].send("n2", message(number))
            await net.transports["n1"].stop()
            await net.transports["n1"].stop()
            net.transports["n1"].send("n2", message(100))
            net.transports["n1"].set_peers({})
            await net.ends["n2"].wait(lambda: not net.ends["n2"].is_up("n1"))
            return net.ends["n2"].got, net.ends["n1"].events, net.transports["n1"].counters()["dropped"]

    got, events, dropped = run(main())

    assert [("n1", message(number)) for number in range(100)] == got
    assert [("up", "n2")] == events
    assert 1 == dropped


def test_stopping_waits_no_longer_than_its_limit_for_a_peer_that_does_not_read(run, network, raw_peer):
    """A peer that takes nothing can't hold up `stop`."""

    async def main():
        async with network() as net:
            transport = await net.start("n1", close_timeout_ms=200)
            peer = await raw_peer.join(transport, "n9")
            for _ in range(20):
                transport.send("n9", chunk(bytes(1024 * 1024)))
            began = asyncio.get_running_loop().time()
            await transport.stop()
            took = asyncio.get_running_loop().time() - began
            await peer.close()
            return took

    assert 0.15 < run(main()) < 5


def test_stopping_ends_dialling_under_way(run, network, raw_peer):
    """A peer that accepts and says nothing leaves nothing behind when the node stops."""

    async def main():
        silent = asyncio.Queue()
        async with (
            await asyncio.start_server(lambda *streams: silent.put_nowait(streams), "127.0.0.1", 0) as server,
            network() as net,
        ):
            transport = await net.start("n1")
            transport.set_peers({"n2": NodeInfo(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")})
            peer = raw_peer(*await asyncio.wait_for(silent.get(), 10))
            await transport.stop()
            await peer.close()
            return list(net.ends["n1"].events)

    assert [] == run(main())


def test_a_port_in_use_is_an_error_that_names_it(run, recorder):
    """The address and the next step are in the message."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(
                ConfigError,
                match=f"can't listen on {address}: .*in use.*; stop what uses it, or give the node another address",
            ):
                await TcpTransport(TcpOptions(), address).start(recorder("n1"))

    run(main())


@pytest.mark.parametrize(
    "address", ["", "here", "127.0.0.1", "127.0.0.1:", ":7101", "127.0.0.1:x", "h:70000", "::1:7101"]
)
def test_an_address_that_is_not_host_and_port_is_an_error(recorder, address):
    """What is wrong is quoted, with two examples of what is right."""
    transport = TcpTransport(TcpOptions(), address)

    with pytest.raises(ConfigError, match=f"address '{address}' is not host:port; write it like 10.0.0.1:7101 or"):
        asyncio.run(transport.start(recorder("n1")))


def test_a_peer_with_a_bad_address_is_reported_and_harms_nobody(run, network):
    """What an operator wrote into the membership is reported as the reason why the peer can't be reached."""

    async def main():
        async with network() as net:
            await net.start("n1")
            await net.start("n2")
            n2 = NodeInfo(net.transports["n2"].address)
            bad = {"n3": NodeInfo("nowhere"), "n4": NodeInfo("a\0b:1"), "n5": NodeInfo("x" * 80 + ":1")}
            net.transports["n1"].set_peers(bad | {"n2": n2})
            await net.connected("n1", "n2")
            await net.ends["n1"].wait(lambda: all(net.ends["n1"].reasons(peer) for peer in bad))
            return [net.ends["n1"].reasons(peer)[0] for peer in bad]

    first, second, third = run(main())

    assert "address 'nowhere' is not host:port; write it like 10.0.0.1:7101 or [fd00::1]:7101" == first
    assert second.startswith("can't connect to a\0b:1: ")
    assert third.startswith("can't connect to xxxx")


def test_listens_where_bind_says(run, network, message):
    """`bind` is where the node listens, its address is what the others are told."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with network() as net:
            await net.start("n1", address=f"localhost:{port}", bind=f"127.0.0.1:{port}")
            await net.start("n2")
            net.introduce("n2", "n1")
            await net.connected("n2", "n1")
            return net.transports["n1"].address == f"localhost:{port}"

    assert run(main())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_queue_bytes": 10}, r"max_queue_bytes: 10 is less than max_frame_bytes .*; try 67108864"),
        ({"reconnect_max_ms": 10}, r"reconnect_max_ms: 10 is less than reconnect_min_ms \(50\); try 5000"),
        ({"silence_ms": 10}, r">= 1000 .*silence_ms"),
        ({"max_frame": 10}, r"unknown field `max_frame`"),
        ({"tls": {"ca": "ca.pem"}}, r"missing required field `certificate`.*tls"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, complaint):
    """Each message names the option, its value and a value that works."""
    with pytest.raises(msgspec.ValidationError, match=complaint):
        msgspec.convert(options, TcpOptions)


def test_options_are_imported_without_the_network():
    """Reading a configuration loads neither the transport nor its TLS."""
    script = "import sys, raftcore.backends.tcp_options; print(*(name for name in sys.modules if 'backends.t' in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "raftcore.backends.tcp_options" == done.stdout.strip()

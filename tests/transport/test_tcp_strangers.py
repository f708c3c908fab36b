"""The transport over TCP among strangers: garbage, refusals, peers that stall, and limits."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from raftcore import wire
from raftcore.messages import Hello, SnapshotChunk
from raftcore.types import NO_LOG, NO_MEMBERSHIP, NO_VOTE, NodeInfo, SnapshotMeta

HELLO = Hello("test", "n9", "", "", wire.VERSIONS)
STRANGER = (
    "does not speak raftcore's protocol; check that the address is a raftcore node's, and that tls is set at both"
)


def chunk(data):
    """A message with `data` in it."""
    return SnapshotChunk(NO_VOTE, 1, SnapshotMeta("s", NO_LOG, NO_MEMBERSHIP, NO_LOG), 0, data, True)


def at(**addresses):
    """The nodes of a membership at these addresses."""
    return {node: NodeInfo(address) for node, address in addresses.items()}


def warnings_of(caplog):
    """What the transport logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("raftcore")]


@pytest.mark.parametrize(
    "garbage",
    [
        random.Random(7).randbytes(5000),
        b"GET / HTTP/1.1\r\nHost: n1\r\n\r\n",
        b"\x00\x00\x10\x01",
        (8 + len(wire.encode(HELLO))).to_bytes(4, "big") + b"RAFTCORE" + wire.encode(HELLO),
        b"\x00\x00\x00\x0araftcore\xc1\xc1",
    ],
    ids=["random", "http", "one byte too long", "no magic", "no hello"],
)
def test_garbage_closes_its_connection_and_no_other(run, network, raw_peer, message, garbage, caplog):
    """A stranger's bytes are counted and logged; the peers' connections go on."""

    async def main():
        async with network() as net:
            await net.pair()
            stranger = await raw_peer.dial(net.transports["n1"])
            stranger.writer.write(garbage)
            closed = await stranger.is_closed()
            await stranger.close()
            net.transports["n1"].send("n2", message(1))
            await net.ends["n2"].wait(lambda: net.ends["n2"].got)
            return (
                closed,
                net.transports["n1"].counters()["bad_frames"],
                list(net.ends["n1"].events),
                warnings_of(caplog),
            )

    closed, count, events, warnings = run(main())

    assert (True, 1, [("up", "n2")], 1) == (closed, count, events, len(warnings))


def test_garbage_is_logged_once_a_host_and_counted_each_time(run, network, raw_peer, caplog):
    """A port scanner does not fill the log."""

    async def main():
        async with network() as net:
            transport = await net.start("n1")
            for _ in range(5):
                stranger = await raw_peer.dial(transport)
                stranger.writer.write(random.Random(7).randbytes(100))
                await stranger.is_closed()
                await stranger.close()
            return transport.counters()["bad_frames"], list(net.ends["n1"].events)

    assert (5, []) == run(main())
    [warning] = warnings_of(caplog)
    assert f"node 'n1': peer '' at 127.0.0.1: {STRANGER}" in warning


@pytest.mark.parametrize("bad", [b"\xc1", b"\x93\x07", b"\x95\x08\x92\x92\x00\xa0\xc2\x01\xa1\xff\x90"])
def test_a_peers_message_that_is_none_closes_the_connection(run, network, raw_peer, bad):
    """After the handshake, too, what can't be decoded is counted and told."""

    async def main():
        async with network() as net:
            transport = await net.start("n1")
            peer = await raw_peer.join(transport, "n9")
            peer.send(bad)
            closed = await peer.is_closed()
            await peer.close()
            return closed, transport.counters()["bad_frames"], net.ends["n1"].reasons("n9")

    closed, count, [reason] = run(main())

    assert (True, 1) == (closed, count)
    assert reason.startswith(f"sent a bad frame: message of {len(bad)} bytes: ")


def test_a_length_over_the_limit_is_refused_before_the_frame_arrives(run, network, raw_peer):
    """The length alone closes the connection; nothing is kept for it."""

    async def main():
        async with network() as net:
            transport = await net.start("n1", max_frame_bytes=1000, max_queue_bytes=1000)
            peer = await raw_peer.join(transport, "n9")
            peer.writer.write((1001).to_bytes(4, "big"))
            closed = await peer.is_closed()
            await peer.close()
            return closed, transport.counters()["bad_frames"], net.ends["n1"].reasons("n9")

    reason = "sent a bad frame: 1001 bytes, more than the 1000 that are allowed here"

    assert (True, 1, [reason]) == run(main())


def test_a_message_over_the_limit_is_not_sent(run, network, message):
    """It would only cost the connection: it is dropped, counted and logged."""

    async def main():
        async with network() as net:
            await net.pair(max_frame_bytes=1000, max_queue_bytes=100_000)
            net.transports["n1"].send("n2", chunk(bytes(1000)))
            net.transports["n1"].send("n2", message(1))
            await net.ends["n2"].wait(lambda: net.ends["n2"].got)
            return net.transports["n1"].counters()["dropped"], net.ends["n2"].got, list(net.ends["n1"].events)

    assert (1, [("n1", message(1))], [("up", "n2")]) == run(main())


def test_an_endpoint_that_fails_costs_the_connection_not_the_node(run, network, message, caplog):
    """An exception out of `deliver` is logged with its traceback and counted; the peer connects again."""

    async def main():
        async with network() as net:
            await net.pair()
            net.ends["n2"].failure = ZeroDivisionError("a defect")
            net.transports["n1"].send("n2", message(1))
            await net.ends["n1"].wait(lambda: not net.ends["n1"].is_up("n2"))
            net.ends["n2"].failure = None
            await net.connected("n1", "n2")
            net.transports["n1"].send("n2", message(2))
            await net.ends["n2"].wait(lambda: net.ends["n2"].got)
            return net.ends["n2"].got, net.transports["n2"].counters()["bad_frames"], net.ends["n2"].reasons("n1")

    got, count, reasons = run(main())

    assert ([("n1", message(2))], 1) == (got, count)
    assert ["a frame could not be handled; the log of this node says why"] == reasons
    assert ["node 'n2': a frame from 'n1' could not be handled"] == [
        record.getMessage() for record in caplog.records if record.exc_info and "a defect" in str(record.exc_info[1])
    ]


@pytest.mark.parametrize("start", [b"", b"\x00", b"\x00\x00\x00\x20raft"])
def test_a_handshake_that_stalls_is_ended(run, network, raw_peer, start):
    """Who does not say in time who it is, is disconnected."""

    async def main():
        async with network() as net:
            peer = await raw_peer.dial(await net.start("n1", handshake_timeout_ms=100))
            peer.writer.write(start)
            began = asyncio.get_running_loop().time()
            closed = await peer.is_closed()
            took = asyncio.get_running_loop().time() - began
            await peer.close()
            return closed, took

    closed, took = run(main())

    assert closed
    assert 0.05 < took < 5


def test_a_peer_that_answers_nothing_is_given_up_and_tried_again(run, network, raw_peer):
    """Dialling something that accepts and stays silent is reported with the time it was given."""

    async def main():
        accepted = asyncio.Queue()
        async with (
            await asyncio.start_server(lambda *streams: accepted.put_nowait(streams), "127.0.0.1", 0) as server,
            network() as net,
        ):
            transport = await net.start("n1", handshake_timeout_ms=100)
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            transport.set_peers(at(n2=address))
            peers = [raw_peer(*await asyncio.wait_for(accepted.get(), 10)) for _ in range(2)]
            await transport.stop()
            for peer in peers:
                await peer.close()
            return net.ends["n1"].reasons("n2"), address

    reasons, address = run(main())

    assert [f"can't connect to {address}: no handshake within 0.1 s"] == reasons


def test_another_cluster_is_refused_and_both_ends_say_why(run, network, recorder, message, eventually, caplog):
    """A refusal reaches the operator at both ends, is counted at each attempt and logged once."""

    async def main():
        async with network() as net:
            await net.start("n1", end=recorder("n1", cluster="a"))
            await net.start("n2", end=recorder("n2", cluster="b"))
            net.introduce("n1", "n2")
            await eventually(lambda: net.transports["n1"].counters()["refused"] > 5)
            net.transports["n1"].send("n2", message(1))
            await net.transports["n1"].stop()
            return net.ends["n1"], net.ends["n2"]

    first, second = run(main())
    reasons = {"cluster 'a' is not 'b'", "cluster 'b' is not 'a'"}

    assert set() < set(first.reasons("n2")) <= {"cluster 'b' is not 'a'", "node 'n2' refuses: cluster 'a' is not 'b'"}
    assert set() < set(second.reasons("n1")) <= {"cluster 'a' is not 'b'", "node 'n1' refuses: cluster 'b' is not 'a'"}
    assert [] == first.got + second.got
    assert len(first.events) == len(set(first.events))
    assert len(warnings_of(caplog)) == len(set(warnings_of(caplog)))
    assert all(any(reason in warning for reason in reasons) for warning in warnings_of(caplog))


@pytest.mark.parametrize(("refusing", "refused"), [("n1", "n2"), ("n2", "n1")])
def test_either_end_may_refuse(run, network, recorder, message, refusing, refused):
    """Who dials and who refuses are independent; nothing is delivered either way, and a later admission is noticed."""

    async def main():
        async with network() as net:
            for node in ("n1", "n2"):
                await net.start(node)
            net.ends[refusing].refusals[refused] = "not a member"
            net.introduce("n1", "n2")
            for node, peer in (("n1", "n2"), ("n2", "n1")):
                await net.ends[node].wait(lambda node=node, peer=peer: net.ends[node].reasons(peer))
            net.transports[refused].send(refusing, message(1))
            before = net.ends["n1"].got + net.ends["n2"].got
            net.ends[refusing].refusals.clear()
            await net.connected("n1", "n2")
            return before, net.ends[refusing].reasons(refused), net.ends[refused].reasons(refusing)

    assert ([], ["not a member"], [f"node '{refusing}' refuses: not a member"]) == run(main())


def test_versions_without_overlap_are_refused_with_both_named(run, network, recorder):
    """The message says which node speaks what, and what to do."""

    async def main():
        async with network() as net:
            await net.start("n1", end=recorder("n1", versions=(1, 2)))
            await net.start("n2", end=recorder("n2", versions=(3, 5)))
            net.introduce("n1", "n2")
            await net.ends["n1"].wait(lambda: net.ends["n1"].reasons("n2"))
            return net.ends["n1"].reasons("n2")[0]

    assert (
        "node 'n2' speaks versions 3 to 5 of the protocol and node 'n1' versions 1 to 2; upgrade the older one"
    ) == run(main())


def test_versions_that_overlap_are_admitted(run, network, recorder):
    """One version in common is enough."""

    async def main():
        async with network() as net:
            await net.start("n1", end=recorder("n1", versions=(1, 3)))
            await net.start("n2", end=recorder("n2", versions=(3, 5)))
            net.introduce("n1", "n2")
            await net.connected("n1", "n2")
            return list(net.ends["n1"].events)

    assert [("up", "n2")] == run(main())


def test_the_wrong_node_at_an_address_is_refused(run, network):
    """Two addresses that were mixed up in the membership are noticed, and named."""

    async def main():
        async with network() as net:
            await net.start("n1")
            await net.start("n3")
            net.transports["n1"].set_peers(at(n2=net.transports["n3"].address))
            await net.ends["n1"].wait(lambda: net.ends["n1"].reasons("n2"))
            await net.ends["n3"].wait(lambda: net.ends["n3"].reasons("n1"))
            return net.ends["n1"].reasons("n2")[0], net.ends["n3"].reasons("n1")[0]

    reason = "node 'n2' was dialled and node 'n3' answered; correct the address of 'n2' in the membership"

    assert (reason, f"node 'n1' refuses: {reason}") == run(main())


def test_a_stranger_who_claims_to_be_a_peer_does_not_make_it_look_down(run, network, raw_peer, eventually):
    """A refused handshake under the id of a peer that is up is not reported as that peer's being down."""

    async def main():
        async with network() as net:
            await net.pair()
            stranger = await raw_peer.dial(net.transports["n1"])
            stranger.send(b"raftcore" + wire.encode(Hello("another", "n2", "", "", wire.VERSIONS)))
            await eventually(lambda: net.transports["n1"].counters()["refused"] == 1)
            await stranger.close()
            return list(net.ends["n1"].events)

    assert [("up", "n2")] == run(main())


def test_a_reason_from_the_other_end_is_made_fit_to_print(run, network, raw_peer):
    """Control characters and broken UTF-8 in a refusal don't reach the log."""

    async def main():
        async with network() as net:
            transport = await net.start("n1")
            peer = await raw_peer.dial(transport)
            peer.send(peer.hello("n9"), b"no\x1b[2J\nnode 'n1': all well\xff")
            closed = await peer.is_closed()
            await peer.close()
            return closed, net.ends["n1"].reasons("n9"), transport.counters()["refused"]

    assert (True, ["node 'n9' refuses: no?[2J?node 'n1': all well\N{REPLACEMENT CHARACTER}"], 1) == run(main())


def test_a_peer_that_does_not_read_fills_its_queue_and_no_more(run, network, raw_peer, message, eventually):
    """What a peer does not take is held up to the limit and dropped beyond; once it reads, the rest goes on."""
    size, limit = 64 * 1024, 1024 * 1024

    async def main():
        async with network() as net:
            transport = await net.start("n1", max_frame_bytes=limit, max_queue_bytes=limit)
            peer = await raw_peer.join(transport, "n9")
            peer.writer.transport.pause_reading()
            one = chunk(bytes(size))
            sent = 0
            while transport.counters()["dropped"] < 10:
                transport.send("n9", one)
                sent += 1
                await asyncio.sleep(0)
            [connection] = transport._open
            in_buffer = connection._transport.get_write_buffer_size()
            held = in_buffer, in_buffer + connection._queued
            peer.writer.transport.resume_reading()
            taken = [len(await peer.read()) for _ in range(sent - transport.counters()["dropped"])]
            transport.send("n9", message(1))
            last = wire.decode(await peer.read())
            await peer.close()
            return held, taken, last, transport.counters()

    held, taken, last, counters = run(main())

    in_buffer, all_in_all = held

    assert in_buffer < limit / 2
    assert limit - 2 * size < all_in_all <= limit
    assert {len(wire.encode(chunk(bytes(size))))} == set(taken)
    assert message(1) == last
    assert len(taken) + 1 == counters["sent"]


def test_a_queue_that_was_full_takes_the_largest_message_again(run, network, raw_peer, message, eventually):
    """Nothing of what a peer once did not take counts after it has taken it."""
    limit = 8 * 1024 * 1024
    large = chunk(bytes(limit - 1000))

    async def main():
        async with network() as net:
            transport = await net.start("n1", max_frame_bytes=limit, max_queue_bytes=limit)
            peer = await raw_peer.join(transport, "n9")
            peer.writer.transport.pause_reading()
            transport.send("n9", large)
            transport.send("n9", large)
            await asyncio.sleep(0)
            peer.writer.transport.resume_reading()
            first = wire.decode(await peer.read())
            transport.send("n9", large)
            second = wire.decode(await peer.read())
            await peer.close()
            return first == second == large, transport.counters()["dropped"]

    assert (True, 1) == run(main())


def test_connections_from_outside_are_limited(run, network, raw_peer, message):
    """One more than the limit is closed at once; those that are there stay, and the node still dials out."""

    async def main():
        async with network() as net:
            transport = await net.start("n1", max_connections=2)
            await net.start("n2")
            peers = [await raw_peer.join(transport, node) for node in ("n8", "n9")]
            third = await raw_peer.dial(transport)
            closed = await third.is_closed()
            net.introduce("n1", "n2")
            await net.connected("n1", "n2")
            transport.send("n8", message(1))
            got = wire.decode(await peers[0].read())
            refused = transport.counters()["refused"]
            for peer in (*peers, third):
                await peer.close()
            return closed, got, refused

    assert (True, message(1), 1) == run(main())


def test_what_is_remembered_of_strangers_is_bounded(run, network, raw_peer, caplog):
    """Many ids with refused handshakes leave a bounded memory behind."""
    caplog.set_level(logging.CRITICAL)

    async def main():
        async with network() as net:
            transport = await net.start("n1", max_connections=1000)
            for number in range(300):
                peer = await raw_peer.dial(transport)
                peer.send(b"raftcore" + wire.encode(Hello("another", f"x{number}", "", "", wire.VERSIONS)))
                await peer.read()
                await peer.read()
                await peer.close()
            return len(transport._told)

    assert 256 == run(main())

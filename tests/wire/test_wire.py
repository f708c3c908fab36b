"""The bytes on the network and the disk: round trips, damage, and what earlier releases wrote."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftcore import messages, wire
from raftcore.errors import WireError
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Hello,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    SnapshotStatus,
    TimeoutNow,
    VoteReply,
)
from raftcore.types import Entries, EntryKind, LeaderId, LogId, Membership, NodeInfo, SnapshotMeta, Vote

LEADER = LeaderId(7, "n1")
VOTE = Vote(LEADER, True)
LOG_ID = LogId(LeaderId(6, "n2"), 41)
MEMBERSHIP = Membership(
    voters=(("n1", "n2", "n3"), ("n2", "n3", "n4")),
    learners=("n5",),
    nodes={"n1": NodeInfo("10.0.0.1:7101", "d1"), "n5": NodeInfo("10.0.0.5:7101")},
)
RUN = Entries(LEADER, 42, EntryKind.NORMAL, [b"a", b"", b"\xff\x00"])
META = SnapshotMeta("s1", LOG_ID, MEMBERSHIP, LogId(LEADER, 3), 5, "ab", 1)

# What release 0.1 wrote, message by message. These bytes never change: a new format gets lines of its own.
RUN_1 = "c772b15f960107a26e312a0093c40161c400c402ff00"
NODES_1 = "82a26e3192ad31302e302e302e313a37313031a26431a26e3592ad31302e302e302e353a37313031a0"
MEMBERSHIP_1 = "939293a26e31a26e32a26e3393a26e32a26e33a26e3491a26e35" + NODES_1
MESSAGES_1 = [
    (RequestVote(VOTE, LOG_ID, True, False), "9501929207a26e31c3929206a26e3229c3c2"),
    (VoteReply(VOTE, Vote(LeaderId(8, "n3"), False), True, False), "9502929207a26e31c3929208a26e33c2c3c2"),
    (AppendEntries(VOTE, 9, LOG_ID, 40, (RUN,)), f"9603929207a26e31c309929206a26e32292891c416{RUN_1}"),
    (AppendReply(VOTE, 9, 44, 41, LOG_ID), "9604929207a26e31c3092c29929206a26e3229"),
    (
        SnapshotChunk(VOTE, 9, META, 3, b"de", True),
        f"9705929207a26e31c30997a27331929206a26e3229{MEMBERSHIP_1}929207a26e310305a261620103c4026465c3",
    ),
    (SnapshotReply(VOTE, 9, "s1", SnapshotStatus.INSTALLED, 5, 41), "9706929207a26e31c309a27331010529"),
    (TimeoutNow(VOTE, 9), "9307929207a26e31c309"),
    (Forward(VOTE, 12, "propose", [b"x", b""]), "9508929207a26e31c30ca770726f706f736592c40178c400"),
    (
        ForwardReply(VOTE, 12, [b"y", None], ("NotLeader", "no")),
        "9509929207a26e31c30c92c40179c092a94e6f744c6561646572a26e6f",
    ),
]
HELLO = Hello("orders", "n1", "d1", "10.0.0.1:7101", (1, 1))
HELLO_1 = "95a66f7264657273a26e31a26431ad31302e302e302e313a37313031920101"

numbers = st.integers(0, 2**63 - 1)
names = st.text(max_size=8)
payloads = st.binary(max_size=64)
leaders = st.builds(LeaderId, numbers, names)
log_ids = st.builds(LogId, leaders, numbers)
votes = st.builds(Vote, leaders, st.booleans())
runs = st.builds(
    Entries, leaders, st.integers(1, 2**62), st.sampled_from(EntryKind), st.lists(payloads, min_size=1, max_size=5)
)
groups = st.lists(names, max_size=3).map(tuple)
memberships = st.builds(
    Membership,
    voters=st.lists(groups, max_size=2).map(tuple),
    learners=groups,
    nodes=st.dictionaries(names, st.builds(NodeInfo, names, names), max_size=3),
)
metas = st.builds(SnapshotMeta, names, log_ids, memberships, log_ids, numbers, names, numbers)
any_message = st.one_of(
    st.builds(RequestVote, votes, log_ids, st.booleans(), st.booleans()),
    st.builds(VoteReply, votes, votes, st.booleans(), st.booleans()),
    st.builds(AppendEntries, votes, numbers, log_ids, numbers, st.lists(runs, max_size=3).map(tuple)),
    st.builds(AppendReply, votes, numbers, numbers, st.none() | numbers, st.none() | log_ids),
    st.builds(SnapshotChunk, votes, numbers, metas, numbers, payloads, st.booleans()),
    st.builds(SnapshotReply, votes, numbers, names, st.sampled_from(SnapshotStatus), numbers, numbers),
    st.builds(TimeoutNow, votes, numbers),
    st.builds(Forward, votes, numbers, names, st.lists(payloads, max_size=5)),
    st.builds(
        ForwardReply, votes, numbers, st.lists(st.none() | payloads, max_size=5), st.none() | st.tuples(names, names)
    ),
)
hellos = st.builds(Hello, names, names, names, names, st.tuples(numbers, numbers))

READERS = {
    "message": wire.decode,
    "handshake": wire.decode_hello,
    "run": wire.decode_run,
    "membership": wire.decode_membership,
}


# -- round trips --------------------------------------------------------------------------------------------------


def refusal_of(read, data):
    """The `WireError` that `read` raises, as text; None when it raises nothing."""
    try:
        read(data)
    except WireError as error:
        return str(error)
    return None


@given(any_message, st.sampled_from([bytes, bytearray, memoryview]))
def test_a_message_comes_back_as_it_was(message, container):
    """Every message, from whatever holds its bytes."""
    again = wire.decode(container(wire.encode(message)))

    assert message == again
    assert type(message) is type(again)


@given(hellos)
def test_a_handshake_comes_back_as_it_was(hello):
    """Every `Hello`."""
    assert hello == wire.decode_hello(wire.encode(hello))


@given(runs)
def test_a_run_comes_back_as_it_was(run):
    """Every run; the copy has the same last index, size and kind."""
    again = wire.decode_run(wire.encode_run(run))

    assert run == again
    assert (run.last_index, run.size, run.kind) == (again.last_index, again.size, again.kind)
    assert isinstance(again.kind, EntryKind)


@given(memberships)
def test_a_membership_comes_back_as_it_was(membership):
    """Every membership, joint ones and empty ones included."""
    assert membership == wire.decode_membership(wire.encode_membership(membership))


def test_a_run_is_encoded_once():
    """The bytes are kept with the run, and a run that was decoded keeps those that it came from."""
    run = Entries(LEADER, 1, EntryKind.NORMAL, [b"a"])
    encoded = wire.encode_run(run)

    assert encoded is wire.encode_run(run)
    assert encoded is wire.encode_run(wire.decode_run(encoded))


def test_every_message_is_covered_here():
    """A new message needs a line among the bytes of its release."""
    assert set(messages.Message.__args__) == {type(message) for message, _ in MESSAGES_1}


# -- what earlier releases wrote ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "written"), MESSAGES_1, ids=lambda value: type(value).__name__)
def test_reads_and_writes_messages_of_version_1(message, written):
    """The bytes of version 1 mean what they meant, and are what this release writes."""
    assert message == wire.decode(bytes.fromhex(written))
    assert written == wire.encode(message).hex()


def test_reads_and_writes_the_handshake_of_version_1():
    """The handshake must be understood by every version, since it is what versions are agreed on with."""
    assert HELLO == wire.decode_hello(bytes.fromhex(HELLO_1))
    assert HELLO_1 == "95" + wire.encode(HELLO).hex()[2 : len(HELLO_1)], "new fields go to the end"
    assert "a87374616e64617264" == wire.encode(HELLO).hex()[len(HELLO_1) :], "the order of votes"


def test_reads_and_writes_runs_of_format_1():
    """A log that format 1 was written to can be read."""
    assert RUN == wire.decode_run(bytes.fromhex(RUN_1))
    assert RUN_1 == wire.encode_run(Entries(LEADER, 42, EntryKind.NORMAL, [b"a", b"", b"\xff\x00"])).hex()


def test_reads_and_writes_memberships_of_format_1():
    """A membership in a log of format 1 can be read."""
    assert MEMBERSHIP == wire.decode_membership(bytes.fromhex("9201" + MEMBERSHIP_1))
    assert "9201" + MEMBERSHIP_1 == wire.encode_membership(MEMBERSHIP).hex()


@given(any_message, st.lists(st.none() | numbers | names, min_size=1, max_size=3))
def test_fields_that_a_later_release_added_are_passed_over(message, more):
    """New fields go to the end, so an older release can read a message without them."""
    fields = msgspec.msgpack.decode(wire.encode(message))

    assert message == wire.decode(msgspec.msgpack.encode([*fields, *more]))


@given(hellos, st.lists(st.none() | numbers | names, min_size=1, max_size=3))
def test_fields_that_a_later_release_added_to_the_handshake_are_passed_over(hello, more):
    """A newer peer's `Hello` can be read, so that its versions can be looked at."""
    fields = msgspec.msgpack.decode(wire.encode(hello))

    assert hello == wire.decode_hello(msgspec.msgpack.encode([*fields, *more]))


# -- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [RUN, Entries(LeaderId(1, ""), 1, EntryKind.BLANK, [b""])], ids=["normal", "blank"])
def test_every_flipped_bit_of_a_run_is_detected(run):
    """Whichever bit differs, the run is refused."""
    data = wire.encode_run(run)
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8

        with pytest.raises(WireError, match=r"run of \d+ bytes: checksum mismatch"):
            wire.decode_run(bytes(flipped))


def test_every_flipped_bit_of_a_run_inside_a_message_is_detected():
    """The checksum goes with the run through the network."""
    data = wire.encode(AppendEntries(VOTE, 9, LOG_ID, 40, (RUN,)))
    start = data.index(bytes.fromhex(RUN_1))
    for position in range(8 * start, 8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8

        with pytest.raises(WireError, match=r"message of \d+ bytes: run of \d+ bytes: checksum mismatch"):
            wire.decode(flipped)


@given(runs, st.data())
def test_a_run_that_was_cut_is_detected(run, data):
    """No beginning of a run is taken for a run."""
    encoded = wire.encode_run(run)
    length = data.draw(st.integers(0, len(encoded) - 1))

    with pytest.raises(WireError):
        wire.decode_run(encoded[:length])


@pytest.mark.parametrize("what", READERS)
@given(data=st.binary(max_size=200))
@settings(max_examples=300)
@example(data=b"")
@example(data=b"\xdd\xff\xff\xff\xff")
@example(data=bytes.fromhex("9508") + bytes.fromhex("929200a0c2") + b"\x01\xa1\xff\x90")  # a name that is no UTF-8
@example(data=bytes.fromhex("9708") + bytes.fromhex("929200a0c2") + b"\x01\xa1k\x90\xc0" + b"\x91" * 100_000)
def test_random_bytes_raise_nothing_but_a_wire_error(what, data):
    """Whatever a peer or a disk hands over, one kind of error comes out."""
    refusal = refusal_of(READERS[what], data)

    assert refusal is None or refusal.startswith(f"{what} of ")


@given(any_message, st.data())
def test_damaged_messages_raise_nothing_but_a_wire_error(message, data):
    """Bytes that are nearly a message are either one, or an error of the one kind."""
    encoded = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    refusal = refusal_of(wire.decode, encoded)

    assert refusal is None or refusal.startswith(f"message of {len(encoded)} bytes: ")


def sealed(*fields):
    """A run with these fields and the right checksum."""
    body = msgspec.msgpack.encode(fields)
    return zlib.crc32(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (sealed(2, 1, "n1", 1, 0, [b""]), "run of format 2, this release reads format 1"),
        (sealed(1, 1, "n1", 0, 0, [b""]), "run with first index 0, kind 0, 1 payloads"),
        (sealed(1, 1, "n1", 1, 3, [b""]), "run with first index 1, kind 3, 1 payloads"),
        (sealed(1, 1, "n1", 1, -1, [b""]), "run with first index 1, kind -1, 1 payloads"),
        (sealed(1, 1, "n1", 1, 0, []), "run with first index 1, kind 0, 0 payloads"),
        (sealed(1, 1, "n1", 1, 0, ["text"]), "run of 18 bytes: Expected `bytes`, got `str`"),
    ],
)
def test_a_run_that_can_not_be_is_refused(data, complaint):
    """A right checksum over wrong content is an error that names the content."""
    with pytest.raises(WireError, match=complaint):
        wire.decode_run(data)


def test_a_membership_of_a_later_format_is_refused():
    """The format is named beside the one that can be read."""
    with pytest.raises(WireError, match="membership of format 2, this release reads format 1"):
        wire.decode_membership(bytes.fromhex("9202" + MEMBERSHIP_1))


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("9363929207a26e31c309", "message of 10 bytes: Invalid value 99"),
        ("9603929207a26e31c309929206a26e3229289101", "message of 20 bytes: a run must be bytes, not int"),
        ("9307929207a26e31c3", "message of 9 bytes: Input data was truncated"),
    ],
)
def test_a_message_that_can_not_be_is_refused(written, complaint):
    """An unknown tag, a run that is none, an end that is missing."""
    with pytest.raises(WireError, match=complaint):
        wire.decode(bytes.fromhex(written))

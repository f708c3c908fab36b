from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable

import msgspec
import pytest

from raftcore.backends import kv
from raftcore.backends.kv import (
    CompareAndSet,
    Delete,
    Deleted,
    Item,
    KeyValue,
    Mismatch,
    Put,
    Refused,
    Written,
    decode_answer,
    encode,
)
from raftcore.errors import CorruptData
from raftcore.types import NO_LOG, NO_MEMBERSHIP, Entries, LeaderId, LogId, SnapshotMeta

Runs = Callable[..., Entries]

META = SnapshotMeta("s", LogId(LeaderId(1, "n1"), 50), NO_MEMBERSHIP, NO_LOG)


@pytest.fixture
def machine() -> KeyValue:
    """An empty state machine, opened."""
    machine = KeyValue()
    assert machine.open() is None
    return machine


def answers(machine: KeyValue, run: Entries) -> list[object]:
    """The decoded answers to a run."""
    return [decode_answer(answer) for answer in machine.apply(run) if answer is not None]


def test_a_put_is_answered_with_its_version_and_read_back(machine: KeyValue, run: Runs) -> None:
    """The version is the index of the entry."""
    found = answers(machine, run(7, encode(Put("a", b"1")), encode(Put("b", b"2")), encode(Put("a", b"3"))))

    assert [Written(7), Written(8), Written(9)] == found
    assert Item(b"3", 9) == machine.get("a")
    assert Item(b"2", 8) == machine.get("b")
    assert machine.get("c") is None
    assert 9 == machine.applied


def test_a_delete_is_answered_with_the_version_that_was_there(machine: KeyValue, run: Runs) -> None:
    """0 when there was none."""
    found = answers(machine, run(1, encode(Put("a", b"1")), encode(Delete("a")), encode(Delete("a"))))

    assert [Written(1), Deleted(1), Deleted(0)] == found
    assert machine.get("a") is None


@pytest.mark.parametrize(
    ("expect", "answer"),
    [
        (b"1", Written(2)),
        (1, Written(2)),
        (b"2", Mismatch(1, b"1")),
        (b"", Mismatch(1, b"1")),
        (2, Mismatch(1, b"1")),
        (0, Mismatch(1, b"1")),
    ],
)
def test_compare_and_set_compares_with_a_value_or_a_version(
    machine: KeyValue, run: Runs, expect: bytes | int, answer: object
) -> None:
    """When it does not fit nothing changes, and the answer says what is there."""
    machine.apply(run(1, encode(Put("a", b"1"))))
    found = answers(machine, run(2, encode(CompareAndSet("a", b"new", expect))))

    assert [answer] == found
    assert (Item(b"new", 2) if answer == Written(2) else Item(b"1", 1)) == machine.get("a")


@pytest.mark.parametrize(
    ("expect", "answer"), [(0, Written(1)), (1, Mismatch(0, None)), (b"", Mismatch(0, None)), (b"x", Mismatch(0, None))]
)
def test_compare_and_set_on_a_missing_key_wants_version_0(
    machine: KeyValue, run: Runs, expect: bytes | int, answer: object
) -> None:
    """An empty value is not a missing one."""
    assert [answer] == answers(machine, run(1, encode(CompareAndSet("a", b"new", expect))))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\xc1",
        encode(Put("a", b"1"))[:-1],
        encode(Put("a", b"1")) + b"x",
        msgspec.msgpack.encode([9, "a", b"1"]),
        msgspec.msgpack.encode([1, "a"]),
        msgspec.msgpack.encode([1, "a", b"1", b"more"]),
        msgspec.msgpack.encode([1, "a", "text"]),
        msgspec.msgpack.encode([1, b"bytes", b"1"]),
        msgspec.msgpack.encode([3, "a", b"1", True]),
        msgspec.msgpack.encode({"key": "a"}),
        b"\x93\x01\xa1\xff\xc4\x01a",
        b"\x91" * 100_000,
        b"\x94\x01\xa1a\xc4\x01a" + b"\x91" * 100_000,
        b"\x93\x01\xa1a" + b"\x91" * 100_000,
    ],
)
def test_a_malformed_command_is_answered_with_one_fixed_text(machine: KeyValue, run: Runs, payload: bytes) -> None:
    """On every node the same; the commands around it take effect."""
    found = answers(machine, run(1, encode(Put("a", b"0")), payload, encode(Put("b", b"2"))))

    assert [Written(1), Refused("not a key-value command"), Written(3)] == found
    assert [("a", Item(b"0", 1)), ("b", Item(b"2", 3))] == machine.list()


def test_the_encoding_of_commands_and_answers_is_fixed() -> None:
    """Logs and clients of other releases hold these bytes."""
    assert b"\x93\x01\xa1k\xc4\x01v" == encode(Put("k", b"v"))
    assert b"\x92\x02\xa1k" == encode(Delete("k"))
    assert b"\x94\x03\xa1k\xc4\x01v\x05" == encode(CompareAndSet("k", b"v", 5))
    assert Mismatch(3, b"v") == decode_answer(b"\x93\x03\x03\xc4\x01v")
    assert Written(3) == decode_answer(b"\x92\x01\x03")
    with pytest.raises(msgspec.MsgspecError, match="Input data was truncated"):
        decode_answer(b"")


def test_a_list_is_in_order_and_limited(machine: KeyValue, run: Runs) -> None:
    """Keys with the prefix only, the smallest first."""
    machine.apply(run(1, *[encode(Put(key, b"")) for key in ("b2", "a", "b10", "b1", "c", "b")]))

    assert ["b", "b1", "b10"] == [key for key, _ in machine.list("b", 3)]
    assert [("b2", Item(b"", 1))] == machine.list("b2")
    assert ["a", "b", "b1", "b10", "b2", "c"] == [key for key, _ in machine.list()]
    assert [] == machine.list("d")
    assert [] == machine.list("b", 0)
    assert ["b10", "b2"] == [key for key, _ in machine.list("b", after="b1")]
    assert ["a"] == [key for key, _ in machine.list(limit=1, after="")]


def restored(chunks: Iterable[bytes]) -> KeyValue:
    """A state machine that was given a snapshot."""
    machine = KeyValue()
    machine.open()
    machine.restore(META, chunks)
    return machine


def filled(count: int, value: int = 10) -> KeyValue:
    """A state machine with so many keys."""
    machine = KeyValue()
    machine.open()
    payloads = [encode(Put(f"key {index}", bytes(value))) for index in range(count)]
    machine.apply(Entries(LeaderId(1, "n1"), 1, 0, payloads))
    return machine


@pytest.mark.parametrize("count", [0, 1, 20_000])
@pytest.mark.parametrize("cut", [1, 7, 65536])
def test_a_restored_snapshot_is_the_state_it_was_taken_of(count: int, cut: int) -> None:
    """Whatever the borders of the chunks are."""
    machine = filled(count if cut > 1 else count // 100)
    stream = b"".join(machine.snapshot())
    copy = restored(stream[at : at + cut] for at in range(0, len(stream), cut))

    assert machine.list("", 10**6) == copy.list("", 10**6)
    assert machine.digest() == copy.digest()
    assert 50 == copy.applied


def test_a_snapshot_comes_in_pieces_of_moderate_size() -> None:
    """So that a reader in another thread holds little of it."""
    sizes = [len(chunk) for chunk in filled(2000, 2000).snapshot()]

    assert 10 < len(sizes)
    assert max(sizes) < 300_000


def test_a_snapshot_shows_one_moment_while_commands_are_applied() -> None:
    """Taken between two applies, read in another thread while others go on."""
    machine, rng = filled(5000), random.Random(1)
    expected, digest = machine.list("", 10**6), machine.digest()
    view = machine.snapshot()
    stop = threading.Event()
    chunks: list[bytes] = []

    def read() -> None:
        while (chunk := next(view, None)) is not None:
            chunks.append(chunk)
        stop.set()

    reader = threading.Thread(target=read)
    machine.apply(Entries(LeaderId(1, "n1"), 5001, 0, [encode(Delete("key 1")), encode(Put("key 2", b"after"))]))
    reader.start()
    index = 5003
    while not stop.is_set() or index < 6000:
        key = f"key {rng.randrange(10_000)}"
        command = Put(key, b"later") if rng.random() < 0.5 else Delete(key)
        machine.apply(Entries(LeaderId(1, "n1"), index, 0, [encode(command)]))
        index += 1
    reader.join(10)
    copy = restored(chunks)

    assert expected == copy.list("", 10**6)
    assert digest == copy.digest()
    assert digest != machine.digest()


def test_a_snapshot_that_is_given_up_early_is_closed() -> None:
    """The copy that it holds is released."""
    view = filled(10).snapshot()
    next(view)
    view.close()

    assert next(view, None) is None


def frame(content: object) -> bytes:
    """One frame of a snapshot."""
    body = msgspec.msgpack.encode(content)
    return len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "snapshot 's' is not a key-value snapshot: Input data was truncated"),
        (frame([2, 0]), "snapshot 's' has key-value format 2, this release reads 1"),
        (frame([1, 2]) + frame([["a", b"1", 1]]), "snapshot 's' should hold 2 keys and holds 1"),
        (frame([1, 1]) + frame([["a", "text", 1]]), "snapshot 's' is not a key-value snapshot: Expected `bytes`"),
        (frame([1, 1]) + frame([["a", b"1", 1]])[:-1], "it ends in the middle of a frame, with 11 bytes over"),
        (frame([1, 1]) + b"\x03\x00\x00\x00\x91\x93\xa1", "is not a key-value snapshot: Input data was truncated"),
        (frame([1, 1]) + b"\x07\x00\x00\x00\x91\x93\xa1\xff\xc4\x00\x01", "is not a key-value snapshot: 'utf-8' codec"),
    ],
)
def test_a_bad_snapshot_is_refused_and_changes_nothing(
    machine: KeyValue, run: Runs, stream: bytes, message: str
) -> None:
    """The old state stays in place."""
    machine.apply(run(1, encode(Put("a", b"1"))))
    with pytest.raises(CorruptData, match=message):
        machine.restore(META, [stream])

    assert [("a", Item(b"1", 1))] == machine.list()
    assert 1 == machine.applied


def test_an_error_of_the_stream_leaves_the_old_state(machine: KeyValue, run: Runs) -> None:
    """Also when it comes behind the last key."""
    machine.apply(run(1, encode(Put("a", b"1"))))

    def stream() -> Iterable[bytes]:
        yield from filled(10).snapshot()
        raise CorruptData("the digest is wrong")

    with pytest.raises(CorruptData, match="the digest is wrong"):
        machine.restore(META, stream())

    assert [("a", Item(b"1", 1))] == machine.list()


def test_the_format_of_a_snapshot_is_fixed(machine: KeyValue, run: Runs) -> None:
    """Snapshots of other releases hold these bytes."""
    machine.apply(run(5, encode(Put("a", b"1"))))

    assert [frame([1, 1]), frame([["a", b"1", 5]])] == list(machine.snapshot())


def test_digests_depend_on_keys_values_and_versions_only(run: Runs) -> None:
    """Not on the order in which keys appeared."""
    first, second, third = KeyValue(), KeyValue(), KeyValue()
    first.apply(run(1, encode(Put("a", b"1")), encode(Put("b", b"2"))))
    second.apply(run(2, encode(Put("b", b"2"))))
    second.apply(run(1, encode(Put("a", b"1"))))
    third.apply(run(2, encode(Put("a", b"1")), encode(Put("b", b"2"))))

    assert first.digest() == second.digest()
    assert first.digest() != third.digest()
    assert KeyValue().digest() != first.digest()


def test_it_never_blocks_and_is_rebuilt_at_every_start() -> None:
    """The node applies on its event loop."""
    assert not KeyValue.blocking
    assert KeyValue().open() is None
    assert kv.SNAPSHOT_FORMAT == 1

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from functools import partial

import pytest

from raftcore.sim.disk import SECTOR, Disk

SEEDS = 1000


def content(disk: Disk, name: str) -> bytes | None:
    """A file's bytes; None when there is none of that name."""
    if not disk.exists(name):
        return None
    file = disk.open(name)
    return file.read(0, file.size)


def stored(disk: Disk) -> dict[str, bytes | None]:
    """Every file's bytes."""
    return {name: content(disk, name) for name in disk.names()}


def prepared(seed: int, **files: bytes) -> Disk:
    """A disk on which these files are durable."""
    disk = Disk(random.Random(seed))
    for name, data in files.items():
        file = disk.open(name)
        file.append(data)
        file.sync()
    disk.sync_directory()
    return disk


def outcomes(act: Callable[[Disk], object], *, power: bool = True, **files: bytes) -> list[dict[str, bytes | None]]:
    """What each of many crashes leaves after `act`, in a call that is in flight."""
    found = []
    for seed in range(SEEDS):
        disk = prepared(seed, **files)
        disk.begin_call()
        act(disk)
        disk.end_call()
        disk.crash(power=power)
        found.append(stored(disk))
    return found


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written() -> None:
    """Appended to, written over, cut and extended; as with a real file."""
    disk = Disk(random.Random(0))
    file = disk.open("a")
    file.append(b"hello ")
    file.append(b"world")
    file.write_at(0, b"J")
    file.write_at(13, b"!")
    file.truncate(5)
    cut = file.size, file.read(0, 100)
    file.truncate(7)

    assert (5, b"Jello") == cut
    assert b"lo\0\0" == file.read(3, 10)
    assert b"" == file.read(7, 10)


def test_names_are_listed_in_order() -> None:
    """Created, renamed over another and deleted ones."""
    disk = prepared(0, b=b"b", a=b"a", c=b"c")
    disk.rename("c", "b")
    before = stored(disk)
    disk.delete("a")

    assert {"a": b"a", "b": b"c"} == before
    assert ["a", "b"] == list(before)
    assert ["b"] == disk.names()
    assert not disk.exists("a")


@pytest.mark.parametrize("act", [lambda disk: disk.delete("x"), lambda disk: disk.rename("x", "y")])
def test_a_name_that_is_not_there_is_an_error(act: Callable[[Disk], None]) -> None:
    """Neither is it created."""
    disk = Disk(random.Random(0))
    with pytest.raises(FileNotFoundError, match="'x'"):
        act(disk)

    assert [] == disk.names()


def test_who_has_a_file_open_can_read_it_when_its_name_is_gone() -> None:
    """Deleted, and replaced."""
    disk = prepared(0, a=b"old", b=b"new")
    files = disk.open("a"), disk.open("b")
    disk.rename("b", "a")
    disk.delete("a")

    assert [b"old", b"new"] == [file.read(0, 10) for file in files]


@pytest.mark.parametrize("power", [True, False])
def test_an_open_file_is_dead_after_a_crash(power: bool) -> None:
    """As is one that was closed: every use is an error."""
    disk = prepared(0, a=b"a")
    crashed, closed = disk.open("a"), disk.open("a")
    disk.crash(power=power)
    closed = disk.open("a")
    closed.close()

    uses = [partial(file.append, b"x") for file in (crashed, closed)]
    uses += [partial(file.truncate, 0) for file in (crashed, closed)]
    for use in [*uses, partial(crashed.read, 0, 1), partial(closed.read, 0, 1), crashed.sync, closed.sync]:
        with pytest.raises(OSError, match="Bad file descriptor: 'a'"):
            use()
    assert b"a" == content(disk, "a")


# -- what survives ----------------------------------------------------------------------------------------------------


def test_what_is_synced_outside_of_a_call_survives_every_crash() -> None:
    """The bytes by one sync and the name by the other, any number of crashes later."""
    for seed in range(SEEDS):
        disk = prepared(seed, a=b"one")
        disk.crash()
        file = disk.open("a")
        file.append(b"two")
        file.sync()
        file.append(b"three")
        disk.crash()
        disk.crash()

        assert (content(disk, "a") or b"").startswith(b"onetwo"), f"seed {seed}"


def test_an_append_that_is_not_synced_is_torn_at_any_byte() -> None:
    """Also whole, also missing; with zeroes or garbage behind the tear, within what was written."""
    data = bytes(range(1, 11))
    found = [files["a"] or b"" for files in outcomes(lambda disk: disk.open("a").append(data), a=b"old")]

    assert all(one.startswith(b"old") and len(one) <= 13 for one in found)
    assert {data[:size] for size in range(11)} <= {one[3:] for one in found}
    unequal = [one[3:] for one in found if one[3:] != data[: len(one) - 3]]
    assert any(one.endswith(b"\0\0") for one in unequal)
    assert any(not one.endswith(b"\0") for one in unequal)


def test_garbage_ends_with_its_sector_or_with_the_write() -> None:
    """What was there before a write in place stays as it was outside of it."""
    old, new = b"o" * 3 * SECTOR, b"n" * (SECTOR + 100)
    sizes = set()
    for files in outcomes(lambda disk: disk.open("a").write_at(300, new), a=old):
        found = files["a"] or b""
        assert (old[:300], old[300 + len(new) :]) == (found[:300], found[300 + len(new) :])
        middle = found[300 : 300 + len(new)]
        garbage = middle.lstrip(b"n").rstrip(b"o")
        sizes.add(300 + len(middle.rstrip(b"o")) if garbage else 0)

    assert {0, SECTOR, 300 + len(new)} <= sizes


def test_each_write_that_is_not_synced_survives_or_not_by_itself() -> None:
    """The later without the earlier too: then there are zeroes in between, since the file is that long."""

    def act(disk: Disk) -> None:
        file = disk.open("a")
        file.append(b"AA")
        file.append(b"BB")

    found = {files["a"] for files in outcomes(act, a=b"")}

    assert {b"", b"AA", b"AABB", b"\0\0BB", b"A", b"AAB"} <= found


def test_a_crash_finds_a_call_at_any_of_its_operations() -> None:
    """What lies behind the position never happened, what was synced before it has."""

    def act(disk: Disk) -> None:
        for name in ("a", "b", "c"):
            file = disk.open(name)
            file.append(b"new")
            file.sync()

    found = outcomes(act, a=b"", b=b"", c=b"")
    complete = {"".join(name for name, data in files.items() if data == b"new") for files in found}

    assert {"", "a", "ab", "abc"} == complete
    assert all(files["b"] == b"" for files in found if files["a"] != b"new")


def test_a_finished_call_has_happened_and_a_returned_one_may_not_have() -> None:
    """The latency is part of the call."""
    found = set()
    for seed in range(SEEDS):
        disk = prepared(seed, a=b"", b=b"")
        calls = {}
        for name in ("a", "b"):
            calls[name] = disk.begin_call()
            file = disk.open(name)
            file.append(b"new")
            file.sync()
            disk.end_call()
        calls["b"].finish()
        disk.crash()
        calls["a"].finish()
        assert b"new" == content(disk, "b"), f"seed {seed}"
        found.add(content(disk, "a"))

    assert {b"", b"new"} <= found


def test_a_sync_of_a_file_does_not_keep_its_name() -> None:
    """Nor does a sync of the directory keep its bytes."""

    def act(disk: Disk) -> None:
        file = disk.open("a")
        file.append(b"new")
        file.sync()

    def other(disk: Disk) -> None:
        disk.open("a").append(b"new")
        disk.sync_directory()

    assert {None, b"new"} <= {files.get("a") for files in outcomes(act)}
    assert {None, b"", b"n", b"new"} <= {files.get("a") for files in outcomes(other)}


def test_a_rename_happens_or_does_not() -> None:
    """The name never means nothing, nor do both names mean the same file."""
    found = outcomes(lambda disk: disk.rename("new", "a"), a=b"old", new=b"new")

    expected = [{"a": b"old", "new": b"new"}, {"a": b"new"}]
    assert all(files in expected for files in found)
    assert all(files in found for files in expected)


def test_changes_of_different_names_are_independent_and_those_of_one_name_in_order() -> None:
    """A rename needs the one before it."""

    def act(disk: Disk) -> None:
        disk.delete("a")
        disk.delete("b")
        disk.rename("c", "d")
        disk.rename("d", "e")

    found = {"".join(files) for files in outcomes(act, a=b"", b=b"", c=b"")}

    assert {f"{deleted}{renamed}" for deleted in ("", "a", "b", "ab") for renamed in "cde"} == found


def test_a_sync_does_not_cover_another_call_that_is_in_flight() -> None:
    """That may have come after it. Once it is finished, a sync covers it."""
    found: dict[bool, set[bytes | None]] = {False: set(), True: set()}
    for seed in range(SEEDS):
        for finished in (False, True):
            disk = prepared(seed, a=b"")
            first = disk.begin_call()
            disk.open("a").append(b"new")
            disk.end_call()
            if finished:
                first.finish()
            second = disk.begin_call()
            disk.open("a").sync()
            disk.end_call()
            second.finish()
            disk.crash()
            found[finished].add(content(disk, "a"))

    assert {b"new"} == found[True]
    assert {b"", b"new"} <= found[False]


def test_a_killed_process_leaves_its_writes_but_they_are_no_more_durable() -> None:
    """What happened is there after a kill, and may be gone after the power fails. A later sync keeps it."""
    found = set()
    for seed in range(SEEDS):
        for synced in (False, True):
            disk = prepared(seed, a=b"")
            call = disk.begin_call()
            disk.open("a").append(b"new")
            disk.open("b").append(b"new")
            disk.end_call()
            call.finish()
            disk.crash(power=False)
            assert {"a": b"new", "b": b"new"} == stored(disk)
            if synced:
                disk.open("a").sync()
            disk.crash()
            found.add((synced, content(disk, "a")))

    assert {(True, b"new"), (False, b""), (False, b"new")} <= found
    assert [(True, b"new")] == [one for one in found if one[0]]


def test_a_kill_in_the_middle_of_a_call_cuts_it() -> None:
    """In the middle of a write too; what came before is all there."""

    def act(disk: Disk) -> None:
        disk.open("a").append(b"123")
        disk.open("b").append(b"456")

    found = {(files["a"], files["b"]) for files in outcomes(act, power=False, a=b"", b=b"")}
    expected = {(b"123"[:size], b"") for size in range(4)} | {(b"123", b"456"[:size]) for size in range(4)}

    assert expected == found


def test_the_same_seed_leaves_the_same() -> None:
    """Garbage included."""

    def act(disk: Disk) -> None:
        for name in ("a", "b", "c"):
            disk.open(name).append(bytes(1000))
            disk.open(name).append(b"x" * 1000)

    assert outcomes(act) == outcomes(act)


# -- faults -----------------------------------------------------------------------------------------------------------


def test_what_a_failed_sync_has_left_is_not_covered_by_a_later_one() -> None:
    """It stays readable, and may be lost. What is written later is synced as ever, and writing it anew heals it."""
    found: dict[bool, set[bytes | None]] = {False: set(), True: set()}
    for seed in range(SEEDS):
        for again in (False, True):
            disk = prepared(seed, a=b"")
            file = disk.open("a")
            file.append(b"AA")
            disk.fail_next_sync = True
            with pytest.raises(OSError, match="'a'") as failure:
                file.sync()
            assert (errno.EIO, b"AA") == (failure.value.errno, file.read(0, 9))
            file.append(b"BB")
            if again:
                file.write_at(0, b"AA")
            file.sync()
            assert 1 == disk.counts["failed syncs"]
            disk.crash()
            found[again].add(content(disk, "a"))

    assert {b"AABB"} == found[True]
    assert {b"AABB", b"\0\0BB"} <= found[False]
    assert all(one is not None and one.endswith(b"BB") for one in found[False])


def test_bytes_that_are_durable_are_not_undone_by_older_ones_that_could_not_be_synced() -> None:
    """However late these reach the disk."""
    for seed in range(SEEDS):
        disk = prepared(seed, a=b"....")
        file = disk.open("a")
        file.write_at(0, b"old")
        disk.fail_next_sync = True
        with pytest.raises(OSError, match="'a'"):
            file.sync()
        file.write_at(0, b"new")
        file.sync()
        disk.crash()

        assert b"new." == content(disk, "a"), f"seed {seed}"


def test_names_that_could_not_be_synced_are_covered_by_a_later_sync() -> None:
    """They are in the journal, which is written anew."""
    found = set()
    for seed in range(SEEDS):
        for again in (False, True):
            disk = prepared(seed)
            disk.open("a")
            disk.fail_next_sync = True
            with pytest.raises(OSError, match="the directory"):
                disk.sync_directory()
            if again:
                disk.sync_directory()
            disk.crash()
            found.add((again, disk.exists("a")))

    assert {(True, True), (False, True), (False, False)} == found


def test_a_full_disk_takes_a_part() -> None:
    """What is deleted, cut off or replaced makes room; writing in place needs none."""
    disk = prepared(0, a=b"1234", b=b"12")
    disk.free_bytes = 3
    file = disk.open("c")
    with pytest.raises(OSError, match="No space left on device: 'c'"):
        file.append(b"abcdef")
    with pytest.raises(OSError, match="No space left on device: 'c'"):
        file.append(b"d")
    file.write_at(0, b"ABC")
    full = content(disk, "c"), disk.free_bytes
    disk.open("a").truncate(2)
    disk.delete("b")
    file.append(b"1234")

    assert (b"ABC", 0) == full
    assert (b"ABC1234", 0, 2) == (content(disk, "c"), disk.free_bytes, disk.counts["full"])
    disk.free_bytes = None
    file.append(bytes(1000))
    assert 1007 == file.size


def test_a_crash_makes_room_of_what_is_lost() -> None:
    """The limit is for what is stored."""
    for seed in range(20):
        disk = prepared(seed, a=b"")
        disk.free_bytes = 100
        disk.open("a").append(bytes(60))
        disk.crash()

        assert 100 == (disk.free_bytes or 0) + len(content(disk, "a") or b"")


def test_a_disk_that_can_not_be_read_can_be_written() -> None:
    """And read again, once it is mended."""
    disk = prepared(0, a=b"a")
    disk.read_error = True
    file = disk.open("a")
    with pytest.raises(OSError, match="Input/output error: 'a'"):
        file.read(0, 1)
    file.append(b"b")
    disk.read_error = False

    assert b"ab" == file.read(0, 9)
    assert 1 == disk.counts["read errors"]


def test_one_bit_rots_and_is_put_right() -> None:
    """In any file; it survives a crash, and what is written meanwhile is not touched."""
    places = set()
    for seed in range(SEEDS):
        disk = prepared(seed, a=b"aaaa", b=b"bb")
        file = disk.open("a")
        file.append(b"more")
        rot = disk.rot()
        assert rot is not None
        found = stored(disk)
        (name,) = [name for name in "ab" if found[name] != {"a": b"aaaamore", "b": b"bb"}[name]]
        file.sync()
        disk.crash()
        assert found == stored(disk)
        rot.unrot()
        places.add(str(rot))

        assert {"a": b"aaaamore", "b": b"bb"} == stored(disk)
        assert str(rot).endswith(f" of {name} has flipped")
        assert 1 == disk.counts["rotten bits"]
    assert 6 * 8 == len(places)


def test_what_took_the_place_of_a_rotten_bit_is_not_touched() -> None:
    """Neither by the rot nor by its end."""
    for seed in range(50):
        disk = prepared(seed, a=b"aaaa")
        file = disk.open("a")
        rot = disk.rot()
        assert rot is not None
        file.write_at(0, file.read(0, 4))
        found = content(disk, "a")
        file.sync()
        rot.unrot()

        assert b"aaaa" != found == content(disk, "a")


def test_without_durable_bytes_nothing_rots() -> None:
    """An empty disk, and one to which nothing was synced."""
    disk = Disk(random.Random(0))
    disk.open("a").append(b"abc")

    assert disk.rot() is None
    assert 0 == disk.counts["rotten bits"]


def test_what_happened_is_counted() -> None:
    """By kind, over all crashes."""
    disk = Disk(random.Random(1))
    for number in range(100):
        disk.open(f"{number}").append(b"abc")
        disk.open("a").append(b"abc")
        disk.crash()

    assert 100 == disk.counts["crashes"]
    assert all(disk.counts[kind] > 3 for kind in ("torn writes", "dropped writes", "dropped names"))

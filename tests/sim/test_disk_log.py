from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from raftcore.contracts import LogState, WriteBatch
from raftcore.errors import CorruptData, StorageError
from raftcore.sim.disk import SECTOR, Disk
from raftcore.sim.disk_log import LOG, MARK, NEW_LOG, DiskLog
from raftcore.types import NO_LOG, NO_VOTE, Entries, EntryKind, LeaderId, LogId, Vote

SEEDS = range(200)
EVERYTHING = 1 << 30
Entry = tuple[LeaderId, bytes]


def run(first: int, *payloads: bytes, term: int = 1) -> Entries:
    """Entries of n1."""
    return Entries(LeaderId(term, "n1"), first, EntryKind.NORMAL, list(payloads))


class Held:
    """What a log holds, the simple way. The commit hint may be lost: `committed` is the greatest that was given."""

    def __init__(self) -> None:
        self.vote, self.purged, self.committed = NO_VOTE, NO_LOG, 0
        self.entries: list[Entry] = []

    def last(self) -> LogId:
        end = self.purged.index + len(self.entries)
        return LogId(self.entries[-1][0], end) if self.entries else self.purged

    def write(self, batch: WriteBatch) -> None:
        if batch.vote is not None:
            self.vote = batch.vote
        if batch.reset is not None:
            self.purged = batch.reset
            self.entries.clear()
        if batch.truncate_from is not None:
            del self.entries[batch.truncate_from - self.purged.index - 1 :]
        for one in batch.runs:
            self.entries += [(one.leader, payload) for payload in one.payloads]
        self.committed = max(self.committed, batch.committed)

    def purge(self, upto: LogId) -> None:
        del self.entries[: upto.index - self.purged.index]
        self.purged = upto

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and (self.vote, self.purged, self.entries) == (
            other.vote,
            other.purged,
            other.entries,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.vote} behind {self.purged}: {self.entries}>"


def held(log: DiskLog, state: LogState) -> Held:
    """Everything that the log reports and gives. Without holes, or it is not what was written."""
    found = Held()
    found.vote, found.purged, found.committed = state.vote, state.purged, state.committed
    runs = log.read(state.purged.index + 1, EVERYTHING, EVERYTHING)
    for one in runs:
        assert found.last().index + 1 == one.first_index
        found.entries += [(one.leader, payload) for payload in one.payloads]
    assert found.last() == state.last
    return found


def opened(disk: Disk) -> tuple[DiskLog, Held]:
    """A new store on that disk, and what it holds."""
    log = DiskLog(disk)
    return log, held(log, log.open())


def random_batch(rng: random.Random, model: Held) -> WriteBatch:
    """A legal batch for a log that holds this."""
    batch, term, end = WriteBatch(runs=[]), model.last().leader.term, model.last().index
    if rng.random() < 0.2:
        batch.vote = Vote(LeaderId(model.vote.leader.term + 1, "n2"), rng.random() < 0.5)
    if rng.random() < 0.05:
        end = model.purged.index + rng.randrange(len(model.entries) + 5)
        batch.reset = LogId(LeaderId(term, "n1"), end)
    elif rng.random() < 0.2:
        term += 1
        end = model.purged.index + rng.randrange(len(model.entries) + 1)
        batch.truncate_from = end + 1
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        payloads = [rng.randbytes(rng.choice([0, 8, 40, 700])) for _ in range(rng.randrange(1, 4))]
        batch.runs.append(run(end + 1, *payloads, term=term))
        end += len(payloads)
    batch.committed = max(model.committed, batch.reset.index if batch.reset is not None else 0)
    return batch


class Life:
    """A log that is written, purged, crashed and opened again at random, and what it has to hold."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"life {seed}")
        self.disk = Disk(random.Random(seed))
        self.log, self.model = opened(self.disk)
        self.crashes = 0

    def crash(self, after: Held) -> None:
        """With a call in flight that leads to `after`. The store then holds what it held, or that; and keeps it."""
        self.disk.end_call()
        self.disk.crash(power=self.rng.random() < 0.6)
        while self.rng.random() < 0.3:  # once more, while it is opened
            self.disk.begin_call()
            opened(self.disk)
            self.disk.end_call()
            self.disk.crash(power=self.rng.random() < 0.6)
        call = self.disk.begin_call()
        self.log, found = opened(self.disk)
        self.disk.end_call()
        call.finish()
        assert found in (self.model, after)
        assert found.committed <= after.committed
        self.model = found
        self.crashes += 1

    def step(self) -> None:
        """One call, and in one of six a crash before it has finished, or a fault in it."""
        rng, disk, after = self.rng, self.disk, copy.deepcopy(self.model)
        chance = rng.random()
        fault = chance < 0.08
        if fault:
            disk.fail_next_sync = rng.random() < 0.5
            disk.free_bytes = None if disk.fail_next_sync else rng.randrange(800)
        call = disk.begin_call()
        try:
            if after.entries and rng.random() < 0.15:
                upto = rng.randrange(1, len(after.entries) + 1)
                purged = LogId(after.entries[upto - 1][0], after.purged.index + upto)
                after.purge(purged)
                self.log.purge(purged)
            else:
                batch = random_batch(rng, self.model)
                after.write(batch)
                self.log.write(batch)
        except StorageError:
            assert fault
            with pytest.raises(StorageError, match="nothing more is written"):
                self.log.write(WriteBatch(vote=NO_VOTE))
        disk.fail_next_sync, disk.free_bytes = False, None
        if fault or chance > 0.9:
            self.crash(after)
        else:
            disk.end_call()
            call.finish()
            self.model = after


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_acknowledged_survives_and_the_rest_does_wholly_or_not_at_all(seed: int) -> None:
    """Crashes of the process and the power in writes, purges and openings; failed syncs and full disks too."""
    life = Life(seed)
    for _ in range(60):
        life.step()
        if life.rng.random() < 0.05:
            life.log.close()
            life.log, found = opened(life.disk)
            assert life.model == found
    assert life.crashes


def test_a_batch_under_way_is_there_after_some_crashes_and_not_after_others() -> None:
    """Both have to happen, or the test above would show less than it says."""
    found = set()
    for seed in range(100):
        disk = Disk(random.Random(seed))
        log, _ = opened(disk)
        disk.begin_call()
        log.write(WriteBatch(runs=[run(1, b"a", b"b")]))
        disk.end_call()
        disk.crash()
        found.add(opened(disk)[1].last().index)

    assert {0, 2} == found


# -- damage -----------------------------------------------------------------------------------------------------------


def damaged(disk: Disk) -> Iterator[tuple[str, Disk]]:
    """The disk with one bit flipped, for every bit of the log and its watermark."""
    for name in (LOG, MARK):
        for offset in range(disk.open(name).size):
            for bit in range(8):
                other = copy.deepcopy(disk)
                file = other.open(name)
                file.write_at(offset, bytes([file.read(offset, 1)[0] ^ 1 << bit]))
                file.sync()
                yield f"bit {bit} of byte {offset} of {name}", other


def small_log(disk: Disk) -> tuple[DiskLog, Held]:
    """A log with a bit of everything, all of it acknowledged."""
    log, model = opened(disk)
    batches = [
        WriteBatch(vote=Vote(LeaderId(1, "n1"), True), runs=[run(1, b"a", b"b", b"c")]),
        WriteBatch(runs=[run(4, b"d"), run(5, b"e", b"f")], committed=3),
        WriteBatch(truncate_from=6, runs=[run(6, b"g", term=2)], committed=4),
        WriteBatch(vote=Vote(LeaderId(3, "n2"), False)),
    ]
    for number, batch in enumerate(batches):
        log.write(batch)
        model.write(batch)
        if number == 1:
            log.purge(LogId(LeaderId(1, "n1"), 2))
            model.purge(LogId(LeaderId(1, "n1"), 2))
    return log, model


@pytest.mark.parametrize("last_is_a_purge", [False, True])
def test_a_flipped_bit_of_what_was_acknowledged_is_an_error_or_changes_nothing(last_is_a_purge: bool) -> None:
    """Every bit of both files: never a wrong value, and never a batch that is taken for one under way."""
    disk = Disk(random.Random(1))
    log, model = small_log(disk)
    if last_is_a_purge:
        log.purge(LogId(LeaderId(1, "n1"), 4))
        model.purge(LogId(LeaderId(1, "n1"), 4))
    errors: list[str] = []
    for place, rotten in damaged(disk):
        for _ in range(2):  # the verdict stands: a first attempt changes nothing that makes the second one succeed
            try:
                found = opened(rotten)[1]
            except CorruptData as error:
                errors.append(str(error))
            else:
                assert model == found, place

    # Each bit of the log, and none of the watermark: what one slot no longer says, the log shows.
    assert 2 * 8 * disk.open(LOG).size == len(errors)
    assert all(error.endswith("; empty the node's disk and let it join again as a new member") for error in errors)


def test_a_flipped_bit_under_an_open_log_is_an_error_when_it_is_read_or_purged() -> None:
    """The checksum is that of the bytes on the disk. A purge does not carry the damage on."""
    disk = Disk(random.Random(1))
    log, model = small_log(disk)
    file = disk.open(LOG)
    data = file.read(0, file.size)
    upto = LogId(LeaderId(1, "n1"), 3)
    errors: tuple[list[str], list[str]] = [], []
    expected = held(log, LogState(model.vote, model.purged, model.last(), 0))
    for offset in range(len(data)):
        file.write_at(offset, bytes([data[offset] ^ 1 << offset % 8]))
        for number, other in enumerate(copy.deepcopy((disk, log)) for _ in range(2)):
            rotten, reader = other
            try:
                if number:
                    reader.purge(upto)
                    found = opened(rotten)[1]
                else:
                    found = held(reader, LogState(model.vote, model.purged, model.last(), 0))
            except CorruptData as error:
                errors[number].append(str(error))
            else:
                assert model.entries[number:] == found.entries
        file.write_at(offset, data[offset : offset + 1])

    assert expected == model
    assert all(len(some) > 50 for some in errors)
    assert all(error.startswith("log: damaged: at entry ") for some in errors for error in some)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flipped_bit_after_a_crash_costs_nothing_that_was_acknowledged(seed: int) -> None:
    """With a batch under way: it is an error, or all is right. Put right, the log opens."""
    life = Life(seed)
    for _ in range(10):
        life.step()
    life.disk.begin_call()
    batch, after = random_batch(life.rng, life.model), copy.deepcopy(life.model)
    after.write(batch)
    life.log.write(batch)
    life.disk.end_call()
    life.disk.crash(power=seed % 4 > 0)
    rot = life.disk.rot()
    assert rot is not None
    try:
        found = opened(life.disk)[1]
        assert found in (life.model, after), str(rot)
    except CorruptData:
        rot.unrot()
        found = opened(life.disk)[1]

        assert found in (life.model, after), str(rot)


def test_two_flipped_bits_do_not_look_like_a_torn_write() -> None:
    """One in the newest slot of the watermark, one in the last record: that looks as if it had been under way."""
    disk = Disk(random.Random(1))
    log, _ = opened(disk)
    log.write(WriteBatch(runs=[run(1, b"a")]))
    size = disk.open(LOG).size
    log.write(WriteBatch(runs=[run(2, b"b")]))
    for slot in (0, SECTOR):
        for offset in range(size, disk.open(LOG).size):
            other = copy.deepcopy(disk)
            for name, at in ((MARK, slot), (LOG, offset)):
                file = other.open(name)
                file.write_at(at, bytes([file.read(at, 1)[0] ^ 1]))
            with pytest.raises(
                CorruptData, match=r"log: damaged: .* of it (were|was) acknowledged|but batch 3 was ack"
            ):
                opened(other)


@pytest.mark.parametrize("name", [LOG, MARK])
def test_a_missing_file_is_an_error(name: str) -> None:
    """An empty log is not what was acknowledged."""
    disk = Disk(random.Random(1))
    small_log(disk)
    disk.delete(name)

    for _ in range(2):
        with pytest.raises(CorruptData, match=r"is missing.*; empty the node's disk and let it join again"):
            opened(disk)


def test_a_log_that_ends_early_is_an_error() -> None:
    """At every length."""
    disk = Disk(random.Random(1))
    small_log(disk)
    for size in range(disk.open(LOG).size):
        other = copy.deepcopy(disk)
        other.open(LOG).truncate(size)
        with pytest.raises(CorruptData, match=r"log: damaged: .*batch(es)? .*acknowledged"):
            opened(other)


# -- errors -----------------------------------------------------------------------------------------------------------


class FailsLater(Disk):
    """A disk whose n-th sync from now on fails; each sync asks once whether it is to fail."""

    remaining = 0

    @property
    def fail_next_sync(self) -> bool:
        self.remaining -= 1
        return self.remaining == 0

    @fail_next_sync.setter
    def fail_next_sync(self, on: bool) -> None:
        assert not on


@pytest.mark.parametrize(("act", "sync"), [("write", 1), ("write", 2), ("purge", 1), ("purge", 2), ("purge", 3)])
def test_after_a_failed_sync_nothing_more_is_written(act: str, sync: int) -> None:
    """The error names the log and the next step. What was acknowledged is there when the log is opened again, and
    what the next one acknowledges is too, when the power fails later: the failed sync left nothing half durable."""
    for seed in range(100):
        disk = FailsLater(random.Random(seed))
        log, model = small_log(disk)
        after = copy.deepcopy(model)
        disk.remaining = sync
        with pytest.raises(StorageError, match=rf"log: can't {act}: .*Input/output error.*, then restart the node"):
            act_on(log, after, act)
        with pytest.raises(StorageError, match=r"log: nothing more is written \(.*error.*\); restart the node"):
            log.purge(LogId(LeaderId(1, "n1"), 4))
        log.close()
        if seed % 2:
            crash_while_opened(disk)
        log, found = opened(disk)
        assert found in (model, after)
        batch = WriteBatch(vote=Vote(LeaderId(9, "n3"), True))
        log.write(batch)
        found.write(batch)
        disk.begin_call()
        log.write(WriteBatch(vote=Vote(LeaderId(10, "n3"), True)))
        disk.end_call()
        disk.crash()
        last = opened(disk)[1]

        assert last.vote.leader.term in (9, 10)
        assert (found.purged, found.entries) == (last.purged, last.entries)


def crash_while_opened(disk: Disk) -> None:
    """Nothing that `open` does may cost what was durable before, even if the newest is not what it seems."""
    disk.begin_call()
    opened(disk)
    disk.end_call()
    disk.crash()


def act_on(log: DiskLog, model: Held, act: str) -> None:
    """Write a batch, or purge one entry."""
    if act == "write":
        batch = WriteBatch(runs=[run(7, b"h" * 100, term=2)])
        model.write(batch)
        log.write(batch)
    else:
        model.purge(LogId(LeaderId(1, "n1"), 3))
        log.purge(LogId(LeaderId(1, "n1"), 3))


@pytest.mark.parametrize("act", ["write", "purge"])
def test_a_full_disk_costs_nothing_that_was_acknowledged(act: str) -> None:
    """However much of the write had room; nor does the opening that finds no room to put the log in order."""
    errors: list[str] = []
    for room in range(150):
        disk = Disk(random.Random(1))
        log, model = small_log(disk)
        after = copy.deepcopy(model)
        disk.free_bytes = room
        try:
            act_on(log, after, act)
        except StorageError as error:
            errors.append(str(error))
            with suppress(StorageError):
                opened(disk)
            after = model
        disk.crash()
        disk.free_bytes = None

        assert after == opened(disk)[1]
    assert 0 < len(errors) < 150
    assert all(error.startswith(f"log: can't {act}: [Errno 28] No space left on device") for error in errors)


def test_a_disk_that_can_not_be_read_is_an_error() -> None:
    """For reading, purging and opening. Nothing is lost."""
    disk = Disk(random.Random(1))
    log, model = small_log(disk)
    disk.read_error = True
    with pytest.raises(StorageError, match=r"log: can't read: .*Input/output error.*look at the disk"):
        log.read(3, 5, 100)
    with pytest.raises(StorageError, match=r"log: can't open it: .*Input/output error"):
        opened(disk)
    disk.read_error = False

    assert model == opened(disk)[1]


def test_calls_out_of_turn_are_refused() -> None:
    """Before the log is open, and after it is closed."""
    log = DiskLog(Disk(random.Random(1)))
    with pytest.raises(StorageError, match="log: not open; open it first"):
        log.read(1, 2, 100)
    with pytest.raises(StorageError, match=r"nothing more is written \(it is not open\)"):
        log.write(WriteBatch(vote=NO_VOTE))
    log.open()
    log.close()
    with pytest.raises(StorageError, match=r"nothing more is written \(it is closed\)"):
        log.purge(NO_LOG)


def test_what_the_caller_does_wrong_is_refused() -> None:
    """Runs that do not follow, purged entries, and a purge past the end."""

    def refusal(match: str, act: str, *arguments: object) -> None:
        log, _ = small_log(Disk(random.Random(1)))
        with pytest.raises(StorageError, match=match):
            getattr(log, act)(*arguments)
        if act != "read":
            with pytest.raises(StorageError, match="nothing more is written"):
                log.write(WriteBatch(vote=NO_VOTE))

    refusal("8..8, 1 B.* does not follow the log's end: the next index is 7", "write", WriteBatch(runs=[run(8, b"x")]))
    refusal("entries from 2 on can't be cut off: 2 is purged", "write", WriteBatch(truncate_from=2))
    refusal("entry 2 is purged; the log begins behind 2", "read", 2, 4, 100)
    refusal("7 can't be purged: the log ends at 6", "purge", LogId(LeaderId(2, "n1"), 7))


def test_a_hint_goes_with_the_next_batch() -> None:
    """By itself it is not worth a sync."""
    disk = Disk(random.Random(1))
    log, _ = small_log(disk)
    size = disk.open(LOG).size
    log.write(WriteBatch(committed=5))
    alone = disk.open(LOG).size, opened(copy.deepcopy(disk))[1].committed
    log.write(WriteBatch(vote=Vote(LeaderId(4, "n2"), False)))

    assert (size, 4) == alone
    assert 5 == opened(disk)[1].committed


def test_a_purge_makes_the_log_smaller() -> None:
    """One record is left of it, under the same name."""
    disk = Disk(random.Random(1))
    log, _ = opened(disk)
    for index in range(1, 101):
        log.write(WriteBatch(runs=[run(index, b"x" * 100)]))
    size = disk.open(LOG).size
    log.purge(LogId(LeaderId(1, "n1"), 90))

    assert size / 5 > disk.open(LOG).size
    assert [LOG, MARK] == disk.names()
    assert not disk.exists(NEW_LOG)

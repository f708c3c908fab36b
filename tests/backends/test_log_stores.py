from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.sqlite_log import SqliteLog
from raftcore.contracts import LogState, LogStore, WriteBatch
from raftcore.errors import StorageError
from raftcore.sim.disk import Disk
from raftcore.sim.disk_log import DiskLog
from raftcore.types import NO_LOG, NO_VOTE, Entries, LeaderId, LogId, Vote

Runs = Callable[..., Entries]
Stored = Callable[[LogStore, int, int], list[tuple[int, int, bytes]]]


@pytest.fixture(params=["memory", "sqlite", "simulated disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogStore]:
    """Every store that comes with raftcore, opened."""
    make: dict[str, Callable[[], LogStore]] = {
        "memory": MemoryLog,
        "sqlite": lambda: SqliteLog(tmp_path / "log.sqlite"),
        "simulated disk": lambda: DiskLog(Disk(random.Random(1))),
    }
    log = make[request.param]()
    log.open()
    yield log
    log.close()


def reopened(log: LogStore) -> LogState:
    """What the store reports when it is closed and opened again."""
    log.close()
    return log.open()


def test_an_empty_store_reports_the_empty_state(store: LogStore) -> None:
    """Nothing voted, purged, stored or committed."""
    assert LogState() == reopened(store)
    assert [] == store.read(1, 10, 1000)


def test_what_was_written_is_there_after_reopening(store: LogStore, run: Runs, stored: Stored) -> None:
    """The vote, the entries, the last id and the commit hint of one batch."""
    vote = Vote(LeaderId(3, "n2"), True)
    store.write(WriteBatch(vote=vote, runs=[run(1, b"a", b"b"), run(3, b"c", term=3, node="n2")], committed=2))

    assert LogState(vote, NO_LOG, LogId(LeaderId(3, "n2"), 3), 2) == reopened(store)
    assert [(1, 1, b"a"), (2, 1, b"b"), (3, 3, b"c")] == stored(store, 1, 10)


def test_a_truncation_inside_a_run_keeps_its_beginning(store: LogStore, run: Runs, stored: Stored) -> None:
    """The entries before the cut stay, those that follow it are new."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b", b"c", b"d")]))
    store.write(WriteBatch(truncate_from=3, runs=[run(3, b"x", term=2)]))

    assert LogId(LeaderId(2, "n1"), 3) == reopened(store).last
    assert [(1, 1, b"a"), (2, 1, b"b"), (3, 2, b"x")] == stored(store, 1, 10)


def test_a_truncation_between_two_runs_leaves_the_first(store: LogStore, run: Runs, stored: Stored) -> None:
    """The last id is that of the run that is left, leader included."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b"), run(3, b"c", term=2)]))
    store.write(WriteBatch(truncate_from=3))

    assert LogId(LeaderId(1, "n1"), 2) == reopened(store).last
    assert [(1, 1, b"a"), (2, 1, b"b")] == stored(store, 1, 10)


def test_a_truncation_past_the_end_changes_nothing(store: LogStore, run: Runs, stored: Stored) -> None:
    """The cut may lie behind the last entry."""
    store.write(WriteBatch(runs=[run(1, b"a")]))
    store.write(WriteBatch(truncate_from=7, runs=[run(2, b"b")]))

    assert [(1, 1, b"a"), (2, 1, b"b")] == stored(store, 1, 10)


def test_a_purge_inside_a_run_keeps_its_end(store: LogStore, run: Runs, stored: Stored) -> None:
    """The log begins exactly behind the purged id, also after reopening."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b", b"c")]))
    store.purge(LogId(LeaderId(1, "n1"), 2))

    state = reopened(store)

    assert (2, 3) == (state.purged.index, state.last.index)
    assert [(3, 1, b"c")] == stored(store, 3, 10)


def test_a_truncation_right_behind_the_purged_id_leaves_an_empty_log(store: LogStore, run: Runs) -> None:
    """What is left of a run that a purge cut through is not an entry."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b", b"c")]))
    store.purge(LogId(LeaderId(1, "n1"), 2))
    store.write(WriteBatch(truncate_from=3))

    state = reopened(store)

    assert LogId(LeaderId(1, "n1"), 2) == state.purged == state.last
    assert [] == store.read(3, 10, 1000)


def test_a_purge_of_everything_makes_the_purged_id_the_last(store: LogStore, run: Runs, stored: Stored) -> None:
    """The log goes on behind it."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b")]))
    store.purge(LogId(LeaderId(1, "n1"), 2))
    last = reopened(store).last
    store.write(WriteBatch(runs=[run(3, b"c")]))

    assert LogId(LeaderId(1, "n1"), 2) == last
    assert [(3, 1, b"c")] == stored(store, 3, 10)


def test_a_reset_drops_every_entry_and_goes_on_behind_its_id(store: LogStore, run: Runs, stored: Stored) -> None:
    """Entries on both sides of the snapshot's end are gone; the vote stays."""
    vote = Vote(LeaderId(1, "n1"), False)
    store.write(WriteBatch(vote=vote, runs=[run(1, b"a", b"b", b"c")]))
    store.write(WriteBatch(reset=LogId(LeaderId(2, "n2"), 9), committed=9))
    state = reopened(store)
    store.write(WriteBatch(runs=[run(10, b"x", term=2)]))

    assert LogState(vote, LogId(LeaderId(2, "n2"), 9), LogId(LeaderId(2, "n2"), 9), 9) == state
    assert [(10, 2, b"x")] == stored(store, 10, 20)


def test_reading_stops_at_the_limit_but_gives_at_least_one_entry(store: LogStore, run: Runs) -> None:
    """Payload bytes count; a single entry over the limit comes alone."""
    store.write(WriteBatch(runs=[run(1, b"aaaa", b"bb", b"cc"), run(4, b"dd")]))

    assert [run(1, b"aaaa")] == store.read(1, 5, 1)
    assert [run(1, b"aaaa", b"bb")] == store.read(1, 5, 7)
    assert [run(2, b"bb", b"cc"), run(4, b"dd")] == store.read(2, 5, 6)
    assert [run(2, b"bb", b"cc")] == store.read(2, 5, 5)
    assert [run(3, b"cc")] == store.read(3, 4, 1000)
    assert [] == store.read(5, 9, 1000)


def test_reading_gives_all_of_many_small_runs_at_once(store: LogStore, run: Runs) -> None:
    """An answer ends at the limit or at the end of the log, not earlier."""
    runs = [run(index, b"x" * (index % 7)) for index in range(1, 3001)]
    store.write(WriteBatch(runs=runs))

    assert runs == store.read(1, 10_000, 1_000_000)
    assert runs[999:2500] == store.read(1000, 2501, 1_000_000)


def test_an_empty_payload_is_an_entry(store: LogStore, run: Runs) -> None:
    """Entries without bytes have their index like others, and cost nothing of the limit."""
    store.write(WriteBatch(runs=[run(1, b"", b"", b"x", b"")]))

    assert [run(1, b"", b"")] == store.read(1, 5, 0)
    assert [run(1, b"", b"", b"x", b"")] == store.read(1, 5, 1)


def test_a_commit_hint_is_never_reported_greater_than_given(store: LogStore, run: Runs) -> None:
    """A hint alone may be lost; one that comes with entries is kept, and a smaller one does not replace it."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b")], committed=1))
    store.write(WriteBatch(committed=2))
    store.write(WriteBatch(runs=[run(3, b"c")]))
    with_entries = reopened(store).committed
    store.write(WriteBatch(vote=Vote(LeaderId(2, "n1"), True), committed=3))

    assert 2 == with_entries
    assert 3 == reopened(store).committed


def test_a_run_that_does_not_follow_is_refused(store: LogStore, run: Runs, stored: Stored) -> None:
    """No part of such a batch takes effect, and nothing more is written."""
    store.write(WriteBatch(runs=[run(1, b"a")]))
    hole = WriteBatch(vote=Vote(LeaderId(9, "n9"), True), runs=[run(2, b"b"), run(4, b"d")])
    with pytest.raises(StorageError, match=r"4\.\.4, 1 B\) does not follow the log's end: the next index is 3"):
        store.write(hole)
    with pytest.raises(StorageError, match="restart the node"):
        store.write(WriteBatch(runs=[run(2, b"b")]))
    with pytest.raises(StorageError, match="restart the node"):
        store.purge(LogId(LeaderId(1, "n1"), 1))

    assert NO_VOTE == reopened(store).vote
    assert [(1, 1, b"a")] == stored(store, 1, 10)


@pytest.mark.parametrize(
    "refused",
    [
        {"truncate_from": 2},
        {"vote": Vote(LeaderId(9, "n9"), True), "truncate_from": 1},
        {"reset": LogId(LeaderId(2, "n2"), 7)},
        {"reset": LogId(LeaderId(2, "n2"), 7), "committed": 7},
    ],
)
def test_a_refused_batch_takes_nothing_away(
    store: LogStore, run: Runs, stored: Stored, refused: dict[str, object]
) -> None:
    """What it would have cut off or dropped before the run that does not fit is still there."""
    store.write(WriteBatch(vote=Vote(LeaderId(1, "n1"), True), runs=[run(1, b"a", b"b"), run(3, b"c")], committed=1))
    before = reopened(store), stored(store, 1, 10)
    with pytest.raises(StorageError, match="does not follow the log's end"):
        store.write(WriteBatch(**refused, runs=[run(30, b"x")]))

    assert before == (reopened(store), stored(store, 1, 10))


def test_an_overlap_is_refused(store: LogStore, run: Runs) -> None:
    """Entries are replaced only after a truncation."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b")]))

    with pytest.raises(StorageError, match="the next index is 3"):
        store.write(WriteBatch(runs=[run(2, b"x")]))


def test_what_is_purged_can_neither_be_read_nor_cut_off(store: LogStore, run: Runs) -> None:
    """Both would need entries that the store no longer has."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b", b"c")]))
    store.purge(LogId(LeaderId(1, "n1"), 2))

    with pytest.raises(StorageError, match="begins behind 2"):
        store.read(2, 4, 1000)
    with pytest.raises(StorageError, match="entries from 2 on can't be cut off: 2 is purged"):
        store.write(WriteBatch(truncate_from=2))


def test_a_purge_past_the_end_is_refused(store: LogStore, run: Runs) -> None:
    """That is what a reset is for."""
    store.write(WriteBatch(runs=[run(1, b"a")]))

    with pytest.raises(StorageError, match="2 can't be purged: the log ends at 1"):
        store.purge(LogId(LeaderId(1, "n1"), 2))


def test_a_purge_of_what_is_purged_changes_nothing(store: LogStore, run: Runs) -> None:
    """The purged id never goes back."""
    store.write(WriteBatch(runs=[run(1, b"a", b"b")]))
    store.purge(LogId(LeaderId(1, "n1"), 2))
    store.purge(LogId(LeaderId(1, "n1"), 1))

    assert 2 == reopened(store).purged.index


class Model:
    """What a store should hold, the simple way."""

    def __init__(self) -> None:
        self.vote, self.purged, self.committed = NO_VOTE, NO_LOG, 0
        self.entries: list[tuple[LeaderId, bytes]] = []

    def state(self) -> LogState:
        end = self.purged.index + len(self.entries)
        last = LogId(self.entries[-1][0], end) if self.entries else self.purged
        return LogState(self.vote, self.purged, last, self.committed)


def random_batch(rng: random.Random, model: Model) -> WriteBatch:
    """A legal batch; `model` is what the store should hold after it."""
    batch = WriteBatch(runs=[])
    term = model.state().last.leader.term
    if rng.random() < 0.2:
        batch.vote = model.vote = Vote(LeaderId(model.vote.leader.term + 1, "n2"), rng.random() < 0.5)
    if rng.random() < 0.05:
        batch.reset = model.purged = LogId(
            LeaderId(term, "n1"), model.purged.index + rng.randrange(len(model.entries) + 5)
        )
        model.entries.clear()
    if rng.random() < 0.2:
        term += 1
        keep = rng.randrange(len(model.entries) + 1)
        batch.truncate_from = model.purged.index + keep + 1
        del model.entries[keep:]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 80])):
        leader = LeaderId(term, "n1")
        payloads = [rng.randbytes(rng.choice([0, 8, 64, 5000])) for _ in range(rng.randrange(1, 6))]
        batch.runs.append(Entries(leader, model.state().last.index + 1, rng.choice([0, 1]), payloads))
        model.entries += [(leader, payload) for payload in payloads]
    model.committed = batch.committed = max(model.committed, model.purged.index)
    return batch


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_calls_gives_what_a_plain_list_gives(store: LogStore, stored: Stored, seed: int) -> None:
    """Votes, resets, truncations, appends, purges and reopenings in a random order."""
    rng, model = random.Random(seed), Model()
    for _ in range(120):
        store.write(random_batch(rng, model))
        if model.entries and rng.random() < 0.2:
            count = rng.randrange(1, len(model.entries) + 1)
            model.purged = LogId(model.entries[count - 1][0], model.purged.index + count)
            store.purge(model.purged)
            del model.entries[:count]
        if rng.random() < 0.2:
            found = reopened(store)
            assert model.state() == LogState(found.vote, found.purged, found.last, model.committed)
        first = model.purged.index + 1
        start = first + rng.randrange(len(model.entries) + 2)
        stop = start + rng.randrange(20)
        expected = [
            (index, leader.term, payload)
            for index, (leader, payload) in enumerate(model.entries, first)
            if start <= index < stop
        ]

        assert expected == stored(store, start, stop)

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcore.engine import empty_log
from raftcore.engine.log import Log
from raftcore.errors import InvariantViolation
from raftcore.types import ENTRY_OVERHEAD, NO_LOG, Entries, EntryKind, LeaderId, LogId


@pytest.fixture(scope="session")
def log_of(run):
    """Make a log that is wholly durable, with these runs of (term, number of entries) behind `base`."""

    def make(*parts, base=NO_LOG, cache_bytes=1 << 20):
        log, ticket = Log(base, base, [], cache_bytes), 0
        for term, count in parts:
            log.append(run(term, log.last.index + 1, count))
        if parts:
            log.take_unwritten(ticket)
            log.written(ticket)
        return log

    return make


def terms(log):
    """Index: term, for everything that the log still knows."""
    return [log.leader_at(index).term for index in range(log.base.index + 1, log.last.index + 1)]


def cached(log, first):
    """What memory holds from `first` on, as (first, last, term)."""
    runs = log.read(first, 1 << 30)
    return None if runs is None else [(run.first_index, run.last_index, run.leader.term) for run in runs]


# -- growing ------------------------------------------------------------------------------------------------------


def test_an_empty_log_knows_nothing():
    """Its end is `NO_LOG`, and memory has no entry."""
    log = empty_log(100)

    assert (NO_LOG, NO_LOG, 0, None) == (log.base, log.last, log.durable, log.read(1, 100))
    assert [NO_LOG.leader, None] == [log.leader_at(0), log.leader_at(1)]
    assert not log.dirty


def test_appending_moves_the_end(log_of, at):
    """Each run begins right behind the one before, and keeps its leader."""
    log = log_of((1, 2), (1, 1), (3, 2))

    assert (at(3, 5), [1, 1, 1, 3, 3]) == (log.last, terms(log))
    assert [at(1, 3), at(3, 4), None] == [log.id_at(3), log.id_at(4), log.id_at(6)]


@pytest.mark.parametrize("first", [3, 5])
def test_a_run_that_leaves_a_hole_or_overlaps_is_a_broken_invariant(log_of, run, first):
    """The log ends at 3, so only 4 can come next."""
    with pytest.raises(InvariantViolation, match=f"it ends at 3, a run begins at {first}"):
        log_of((1, 3)).append(run(1, first))


def test_leaders_never_decrease_along_a_log(log_of, run):
    """An older leader's run can't follow a newer one's."""
    with pytest.raises(InvariantViolation, match="leaders would decrease"):
        log_of((2, 3)).append(run(1, 4))


# -- agreeing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run_of", "expected"),
    [
        ((1, 1, 2), None),
        ((2, 3, 2), None),
        ((2, 3, 9), None),
        ((3, 5, 4), None),
        ((1, 2, 3), 3),
        ((2, 4, 3), 5),
        ((3, 3, 3), 3),
        ((4, 6, 1), 6),
        ((4, 7, 1), None),
    ],
)
def test_the_first_conflict_is_where_leaders_differ(log_of, run, expected, run_of):
    """Against the log 1 1 2 2 3 3."""
    log = log_of((1, 2), (2, 2), (3, 2))
    log_is_longer = run_of == (2, 3, 9)
    if log_is_longer:
        expected = 5

    assert expected == log.first_conflict(run(*run_of))


def test_what_was_purged_can_not_conflict(log_of, run, at):
    """Only the part of a run behind the base is compared."""
    log = log_of((1, 2), (2, 4))
    log.purge(at(2, 3))

    assert None is log.first_conflict(run(1, 1, 3))
    assert 4 == log.first_conflict(run(1, 1, 5))


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [(9, 9, (3, 6)), (6, 3, (3, 6)), (5, 3, (3, 5)), (6, 2, (2, 4)), (3, 2, (2, 3)), (6, 1, (1, 2)), (6, 0, (0, 0))],
)
def test_the_last_entry_not_after_a_leader_skips_whole_leaderships(log_of, at, index, term, expected):
    """In the log 1 1 2 2 3 3."""
    log = log_of((1, 2), (2, 2), (3, 2))

    assert at(*expected) == log.last_not_after(index, LeaderId(term, "b"))


# -- shrinking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "expected"),
    [(1, []), (2, [1]), (3, [1, 1]), (5, [1, 1, 2, 2]), (7, [1, 1, 2, 2, 3, 3]), (9, [1, 1, 2, 2, 3, 3])],
)
def test_truncation_drops_the_tail(log_of, index, expected):
    """From the log 1 1 2 2 3 3; a cut behind the end does nothing."""
    log = log_of((1, 2), (2, 2), (3, 2))
    log.truncate(index)

    assert (expected, min(6, index - 1)) == (terms(log), log.durable)
    assert (index if index <= 6 else None) == log.take_unwritten(1)[1]


def test_truncation_cuts_what_memory_holds(log_of, run, at):
    """In the middle of a run, and the cache counts what is left."""
    log = log_of((1, 2), (2, 4))
    log.truncate(5)
    log.append(run(3, 5))

    assert [(1, 2, 1), (3, 4, 2), (5, 5, 3)] == cached(log, 1)
    assert at(3, 5) == log.last


def test_what_was_purged_can_not_be_cut_off(log_of, at):
    """It is committed, so a leader that wants this is no leader of this cluster."""
    log = log_of((1, 6))
    log.purge(at(1, 4))

    with pytest.raises(InvariantViolation, match="reaches behind the purged 4"):
        log.truncate(4)


def test_truncation_to_the_base_leaves_an_empty_log(log_of, at):
    """The end is then the purged entry."""
    log = log_of((1, 2), (2, 4))
    log.purge(at(2, 4))
    log.truncate(5)

    assert (at(2, 4), at(2, 4), None) == (log.last, log.id_at(4), log.leader_at(5))


def test_entries_that_never_left_for_the_disk_need_no_truncation_there(log_of, run):
    """They are only taken out of what is to be written."""
    log = log_of((1, 2))
    log.append(run(1, 3, 4))
    log.truncate(5)
    reset, truncate_from, runs = log.take_unwritten(1)

    assert (None, None, [run(1, 3, 2)]) == (reset, truncate_from, runs)


def test_two_truncations_before_a_write_are_one_at_the_lower_index(log_of, run):
    """The store deletes from there and gets only what is left."""
    log = log_of((1, 6))
    log.truncate(5)
    log.append(run(2, 5, 2))
    log.truncate(3)
    log.append(run(3, 3))
    log.truncate(4)

    assert (None, 3, [run(3, 3)]) == log.take_unwritten(1)


@pytest.mark.parametrize(
    ("upto", "expected", "first"),
    [(1, [1, 2, 2, 3, 3], 1), (2, [2, 2, 3, 3], 3), (3, [2, 3, 3], 3), (6, [], None)],
)
def test_purging_forgets_the_head(log_of, run, upto, expected, first):
    """From the log 1 1 2 2 3 3; memory forgets the runs that are wholly purged."""
    log = log_of((1, 2), (2, 2), (3, 2))
    upto_id = log.id_at(upto)
    log.purge(upto_id)

    assert (expected, upto_id, 6) == (terms(log), log.id_at(upto), log.last.index)
    assert None is log.leader_at(upto - 1)
    assert (None if first is None else first) == (log.read(first, 1)[0].first_index if first else log.read(7, 1))

    log.append(run(3, 7))

    assert [*expected, 3] == terms(log)


def test_a_reset_forgets_everything(log_of, run, at):
    """The log goes on behind the snapshot, whose entries are durable; the store is told before it gets new ones."""
    log = log_of((1, 6))
    log.append(run(1, 7))
    log.reset(at(4, 20))

    assert (at(4, 20), at(4, 20), 20, None) == (log.base, log.last, log.durable, log.read(7, 1))

    log.append(run(4, 21))

    assert (at(4, 20), None, [run(4, 21)]) == log.take_unwritten(1)


# -- memory -------------------------------------------------------------------------------------------------------


def test_reading_takes_what_fits_and_at_least_one_run(log_of):
    """Sizes are weights: the payload and what an entry costs beside it."""
    log = log_of((1, 2), (2, 2), (3, 2))
    two = 2 * (1 + ENTRY_OVERHEAD)

    assert [1] == [run.first_index for run in log.read(1, 1)]
    assert [1, 3] == [run.first_index for run in log.read(1, 2 * two)]
    assert [1, 3] == [run.first_index for run in log.read(1, 3 * two - 1)]
    assert [2, 3, 5] == [run.first_index for run in log.read(2, 3 * two)]


def test_a_whole_run_is_passed_on_as_the_same_object(log_of):
    """So its encoded bytes are shared; a part is a new one."""
    log = log_of((1, 3))

    assert log.read(1, 1)[0] is log.read(1, 1)[0]
    assert (2, 3) == (log.read(2, 1)[0].first_index, log.read(2, 1)[0].last_index)


def test_a_full_cache_forgets_the_oldest_durable_runs(run):
    """Down to three quarters; what is not durable yet stays, however much it is."""
    log = empty_log(8 * (1 + ENTRY_OVERHEAD))
    for index in range(1, 13):
        log.append(run(1, index))

    assert 12 == len(cached(log, 1))

    log.take_unwritten(1)
    log.written(1)
    log.append(run(1, 13))

    assert (None, None, 6) == (log.read(1, 1), log.read(7, 1), len(cached(log, 8)))


def test_what_was_read_at_the_start_is_remembered(run, at):
    """So a follower that is a little behind costs no reading."""
    log = Log(NO_LOG, at(1, 6), [(1, LeaderId(1, "b"))], 1 << 20)
    log.remember([run(1, 4, 3)])

    assert (None, [(4, 6, 1)]) == (cached(log, 3), cached(log, 4))


# -- the disk -----------------------------------------------------------------------------------------------------


def test_entries_are_durable_when_their_write_is(log_of, run):
    """A ticket stands for itself and every write before it."""
    log = log_of((1, 1))
    for ticket, first in ((1, 2), (2, 3), (3, 4)):
        log.append(run(1, first))
        log.take_unwritten(ticket)

    assert 1 == log.durable

    log.written(2)

    assert (3, 4) == (log.durable, log.last.index)


def test_an_old_write_does_not_make_newer_entries_at_its_indexes_durable(run, at):
    """Three leaders' entries at one index, each on its way when the next replaces it; completions come one by one."""
    log = empty_log(1 << 20)
    tickets = []
    for term in (1, 2, 3):
        log.truncate(1)
        log.append(run(term, 1, 2))
        tickets.append((term, log.take_unwritten(term)))

    assert [(1, None), (2, 1), (3, 1)] == [(term, truncate) for term, (_, truncate, _) in tickets]

    for term in (1, 2):
        log.written(term)

        assert (0, at(3, 2), [(1, 2, 3)]) == (log.durable, log.last, cached(log, 1))

    log.written(3)

    assert 2 == log.durable


def test_a_write_from_before_a_reset_makes_nothing_durable(log_of, run, at):
    """Its entries are gone."""
    log = log_of((1, 3))
    log.append(run(1, 4, 60))
    log.take_unwritten(1)
    log.reset(at(2, 20))
    log.append(run(2, 21))
    log.written(1)

    assert (20, 21) == (log.durable, log.last.index)


# -- against a list of entries ------------------------------------------------------------------------------------


class Model:
    """The log as a plain list, a disk that gets what the log hands out, and the writes that are under way."""

    def __init__(self, disk, cache_bytes):
        self.log = empty_log(cache_bytes)
        self.base, self.ids = NO_LOG, []
        self.disk, self.writing, self.ticket = disk, [], 0
        self.term = 1

    @property
    def last(self):
        return self.ids[-1] if self.ids else self.base

    def step(self, kind, number):
        getattr(self, kind)(number)
        self.check()

    def append(self, number):
        count = number % 4 + 1
        self.term += number % 3 == 0
        leader, first = LeaderId(self.term, "b"), self.last.index + 1
        payloads = [b"%d.%d" % (self.term, first + i) for i in range(count)]
        self.log.append(Entries(leader, first, EntryKind.NORMAL, payloads))
        self.ids += [LogId(leader, first + i) for i in range(count)]

    def truncate(self, number):
        index = self.base.index + 1 + number % (len(self.ids) + 2)
        self.log.truncate(index)
        del self.ids[index - self.base.index - 1 :]
        self.term += 1  # only another leader cuts

    def purge(self, number):
        stored = [log_id for log_id in self.ids if log_id.index <= self.log.durable]
        if stored and not self.writing and not self.log.dirty:
            upto = stored[number % len(stored)]
            self.log.purge(upto)
            self.disk.purge(upto)
            self.base, self.ids = upto, self.ids[upto.index - self.base.index :]

    def reset(self, number):
        if number % 5 == 0:
            self.base, self.ids = LogId(LeaderId(self.term, "b"), self.last.index + number % 7 + 1), []
            self.log.reset(self.base)

    def begin(self, number):
        if self.log.dirty:
            self.ticket += 1
            self.writing.append((self.ticket, self.log.take_unwritten(self.ticket)))

    def finish(self, number):
        for _ in range(min(number % 3 + 1, len(self.writing))):
            ticket, (reset, truncate_from, runs) = self.writing.pop(0)
            if reset is not None:
                self.disk.base, self.disk.entries = reset, []
            if truncate_from is not None:
                del self.disk.entries[max(0, truncate_from - self.disk.base.index - 1) :]
            for entries in runs:
                assert self.disk.last.index + 1 == entries.first_index
                self.disk.entries += list(entries)
            self.log.written(ticket)

    def check(self):
        log = self.log
        assert (self.base, self.last) == (log.base, log.last)
        assert self.ids == [log.id_at(index) for index in range(log.base.index + 1, log.last.index + 1)]
        for index in range(log.base.index + 1, log.durable + 1):
            assert self.disk.id_at(index) == log.id_at(index) or index <= self.base.index, "not really durable"
        self.check_memory()

    def check_memory(self):
        log = self.log
        reachable = [i for i in range(log.base.index + 1, log.last.index + 1) if log.read(i, 1) is not None]
        missing = range(log.base.index + 1, min(log.last.index + 1, reachable[0] if reachable else log.last.index + 1))
        assert all(index <= log.durable for index in missing), "forgotten before it was durable"
        for index in reachable:
            found = [entry.log_id for entries in log.read(index, 1 << 30) for entry in entries]
            assert self.ids[index - self.base.index - 1 :] == found
        assert log._cached == sum(entries.weight for entries in log._runs)


steps = st.tuples(
    st.sampled_from(["append"] * 4 + ["truncate", "purge", "reset", "begin", "begin", "finish", "finish"]),
    st.integers(0, 40),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=40), st.sampled_from([200, 1 << 20]))
def test_the_log_is_a_list_of_entries(disk, steps, cache_bytes):
    """Whatever is appended, cut, purged, reset and written in whatever order, memory and `durable` tell the truth."""
    model = Model(disk(), cache_bytes)
    for kind, number in steps:
        model.step(kind, number)
    while model.writing or model.log.dirty:
        model.step("begin", 0)
        model.step("finish", 3)

    assert model.last.index == model.log.durable
    assert model.ids == [entry.log_id for entry in model.disk.entries]

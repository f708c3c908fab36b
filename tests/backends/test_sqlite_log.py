from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from raftcore.backends import sqlite_log
from raftcore.backends.sqlite_log import SqliteLog
from raftcore.contracts import LogState, LogStore, WriteBatch
from raftcore.errors import StorageError, StorageInUse
from raftcore.types import NO_LOG, NO_VOTE, Entries, EntryKind, LeaderId, LogId, Vote

Runs = Callable[..., Entries]
Stored = Callable[[LogStore, int, int], list[tuple[int, int, bytes]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log of a test lies."""
    return tmp_path / "log.sqlite"


def test_nothing_is_touched_before_it_is_opened(path: Path) -> None:
    """Building a store for a configuration leaves no files."""
    log = SqliteLog(path)
    log.close()

    assert [] == list(path.parent.iterdir())


def test_a_directory_that_is_missing_is_made(tmp_path: Path) -> None:
    """The option may name a place inside the data directory."""
    log = SqliteLog(tmp_path / "deep" / "below" / "log.sqlite")

    assert LogState() == log.open()
    log.close()


def test_it_needs_no_particular_thread_to_be_built_in(path: Path, run: Runs) -> None:
    """The node builds it on one thread and uses it on another."""
    log = SqliteLog(path)
    failures: list[BaseException] = []

    def use() -> None:
        try:
            log.open()
            log.write(WriteBatch(runs=[run(1, b"a")]))
            log.close()
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(10)

    assert [] == failures


def test_a_usual_batch_is_one_statement(path: Path, run: Runs) -> None:
    """A single INSERT that commits itself: atomic, one flush, and the interpreter lock given up once."""
    log = SqliteLog(path)
    log.open()
    statements: list[str] = []
    log._connection.set_trace_callback(statements.append)
    log.write(WriteBatch(runs=[run(1, b"a"), run(2, b"b", term=2)], committed=1))
    log.close()

    assert ["INSERT INTO runs VALUES"] == [statement[:23] for statement in statements]


def test_a_batch_too_large_for_one_statement_is_one_transaction(path: Path, run: Runs) -> None:
    """All of its statements stand between BEGIN and COMMIT."""
    log = SqliteLog(path)
    log.open()
    statements: list[str] = []
    log._connection.set_trace_callback(statements.append)
    log.write(WriteBatch(runs=[run(index, b"a") for index in range(1, sqlite_log.ROWS_PER_STATEMENT + 2)]))
    log.close()

    assert ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"] == [statement.split()[0] for statement in statements]


def test_the_write_ahead_log_is_moved_into_the_database_now_and_then(
    path: Path, run: Runs, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size stays near the limit, however much is written."""
    monkeypatch.setattr(sqlite_log, "CHECKPOINT_BYTES", 200_000)
    log = SqliteLog(path)
    log.open()
    for index in range(1, 201):
        log.write(WriteBatch(runs=[run(index, b"x" * 10_000)]))
    size = path.with_name("log.sqlite-wal").stat().st_size
    entries = stored(log, 1, 201)
    log.close()

    assert size < 400_000
    assert 200 == len(entries)


def test_moving_the_write_ahead_log_stays_rare(path: Path, run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for so many bytes, also after the first time: a batch must not wait for it each time."""
    monkeypatch.setattr(sqlite_log, "CHECKPOINT_BYTES", 200_000)
    log = SqliteLog(path)
    log.open()
    statements: list[str] = []
    log._connection.set_trace_callback(statements.append)
    for index in range(1, 201):
        log.write(WriteBatch(runs=[run(index, b"x" * 10_000)]))
    log.close()

    assert 5 <= sum("wal_checkpoint" in statement for statement in statements) <= 25


def test_a_second_opener_in_the_same_process_is_refused(path: Path, run: Runs) -> None:
    """And does not disturb the first, which keeps its lock."""
    log = SqliteLog(path)
    log.open()
    for _ in range(2):
        with pytest.raises(StorageInUse, match=r"log\.sqlite-acked: another process has this log open; stop it"):
            SqliteLog(path).open()
    log.write(WriteBatch(runs=[run(1, b"a")]))
    log.close()

    assert 1 == reopened(path).last.index


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    """A killed process leaves no lock behind."""
    with subprocess.Popen([sys.executable, __file__, path, "0", "0"], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            with pytest.raises(StorageInUse, match="another process has this log open"):
                SqliteLog(path).open()
        finally:
            child.kill()
            child.stdout.read()
    reopened(path)


def test_another_program_that_reads_the_database_is_in_the_way(path: Path) -> None:
    """SQLite's own lock counts too."""
    log = SqliteLog(path)
    log.open()
    log.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode").fetchone()
        other.execute("BEGIN")
        other.execute("SELECT * FROM runs").fetchall()
        with pytest.raises(StorageInUse, match=r"log\.sqlite: another process has it open; stop that process"):
            SqliteLog(path).open()


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_is_refused(path: Path, version: int) -> None:
    """With both formats in the message."""
    reopened(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")

    with pytest.raises(StorageError, match=rf"log\.sqlite: format {version}, this release reads format 1; run the rel"):
        SqliteLog(path).open()


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    """A path that was meant for something else."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StorageError, match=r"not a raftcore log \(application id 0\); give the log store another path"):
        SqliteLog(path).open()

    with closing(sqlite3.connect(path)) as database:
        assert [("theirs",)] == database.execute("SELECT name FROM sqlite_master").fetchall()


def test_a_path_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    """Here a directory stands where the file should be."""
    (tmp_path / "log.sqlite").mkdir()

    with pytest.raises(StorageError, match=r"log\.sqlite: can't open it: .*; look at the disk's space"):
        SqliteLog(tmp_path / "log.sqlite").open()


def test_a_companion_that_can_not_be_opened_is_named(tmp_path: Path) -> None:
    """The watermark's place is taken by a directory."""
    (tmp_path / "log.sqlite-acked").mkdir()

    with pytest.raises(
        StorageError, match=r"can't open it: .*log\.sqlite-acked.*; look at its permissions and the disk"
    ):
        SqliteLog(tmp_path / "log.sqlite").open()


def test_a_closed_store_takes_and_gives_nothing(path: Path, run: Runs) -> None:
    """Calls out of order are errors, not surprises."""
    log = SqliteLog(path)
    log.open()
    log.close()

    with pytest.raises(StorageError, match=r"nothing more is written \(it is closed\); restart the node"):
        log.write(WriteBatch(runs=[run(1, b"a")]))
    with pytest.raises(StorageError, match="not open"):
        log.read(1, 2, 1000)


def test_a_full_disk_stops_the_store_and_loses_nothing(path: Path, run: Runs, stored: Stored) -> None:
    """SQLite itself reports the database as full; after reopening with more space it goes on where it was."""
    log = SqliteLog(path)
    log.open()
    log.write(WriteBatch(runs=[run(1, b"a")]))
    log._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(
        StorageError, match=r"log\.sqlite: can't write: database or disk is full; look at the disk's sp"
    ):
        log.write(WriteBatch(runs=[run(2, b"x" * 100_000)]))
    log._connection.execute("PRAGMA max_page_count = 1000000")
    with pytest.raises(StorageError, match=r"nothing more is written \(database or disk is full\); restart the node"):
        log.write(WriteBatch(runs=[run(2, b"b")]))
    with pytest.raises(StorageError, match="nothing more is written"):
        log.purge(LogId(LeaderId(1, "n1"), 1))
    log.close()
    state = log.open()
    log.write(WriteBatch(runs=[run(2, b"c")]))
    entries = stored(log, 1, 10)
    log.close()

    assert 1 == state.last.index
    assert [(1, 1, b"a"), (2, 1, b"c")] == entries


def test_a_write_that_the_system_refuses_stops_the_store(
    path: Path, run: Runs, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    """Each batch either was acknowledged and is there after reopening, or was not and is not."""
    log = SqliteLog(path)
    log.open()
    acknowledged = 0

    def fill() -> None:
        nonlocal acknowledged
        for index in range(1, 1000):
            log.write(WriteBatch(runs=[run(index, b"x" * 1000)]))
            acknowledged = index

    with largest_file(300_000), pytest.raises(StorageError, match="can't write: disk I/O error; look at the disk's"):
        fill()
    with pytest.raises(StorageError, match="nothing more is written"):
        log.write(WriteBatch(runs=[run(acknowledged + 1, b"x")]))
    log.close()

    assert acknowledged > 10
    assert acknowledged == reopened(path).last.index


def reopened(path: Path) -> LogState:
    """What a store reports that is opened and closed again."""
    log = SqliteLog(path)
    state = log.open()
    log.close()
    return state


# -- killed processes ----------------------------------------------------------------------------------------------


class Model:
    """What a store holds after the first `done` of an endless sequence of batches, which a seed decides."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.done = 0
        self.vote, self.purged = NO_VOTE, NO_LOG
        self.entries: list[tuple[int, int, bytes]] = []

    @property
    def last(self) -> int:
        return self.purged.index + len(self.entries)

    def next(self) -> WriteBatch | LogId:
        """The next batch, or the next purge; done as far as the model goes."""
        self.done += 1
        rng, term = self.rng, max(1, self.vote.leader.term)
        if self.done % 50 == 0:
            index, term, _ = self.entries[-10]
            del self.entries[:-9]
            self.purged = LogId(LeaderId(term, "n1"), index)
            return self.purged
        batch = WriteBatch(runs=[])
        if self.done % 10 == 0:
            term += 1
            self.vote = batch.vote = Vote(LeaderId(term, "n1"), True)
        if self.done % 20 == 0:
            del self.entries[max(0, len(self.entries) - rng.randrange(4)) :]
            batch.truncate_from = self.last + 1
        for _ in range(rng.randrange(1, 4)):
            payloads = [rng.randbytes(rng.choice([0, 60, 6000])) for _ in range(rng.randrange(1, 5))]
            batch.runs.append(Entries(LeaderId(term, "n1"), self.last + 1, EntryKind.NORMAL, payloads))
            self.entries += [(index, term, payload) for index, payload in enumerate(payloads, self.last + 1)]
        return batch


def write_until_killed(path: Path, seed: int, done: int) -> None:
    """What the child process does: go on with the sequence, and say after each call how many are done."""
    sqlite_log.CHECKPOINT_BYTES = 100_000
    model = Model(seed)
    while model.done < done:
        model.next()
    log = SqliteLog(path)
    log.open()
    print(done, flush=True)  # noqa: T201 # this is how the parent knows
    while True:
        batch = model.next()
        if isinstance(batch, LogId):
            log.purge(batch)
        else:
            log.write(batch)
        print(model.done, flush=True)  # noqa: T201 # as above


def killed(path: Path, seed: int, done: int, rounds: int) -> int:
    """Let a child go on with the sequence, kill it after some calls; the number of acknowledged calls."""
    arguments = [sys.executable, __file__, path, str(seed), str(done)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as child:
        try:
            lines = [child.stdout.readline() for _ in range(rounds)]
        finally:
            child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return int([line for line in lines if line.endswith(b"\n")][-1])


def test_a_killed_process_loses_nothing_that_was_acknowledged(path: Path, stored: Stored) -> None:
    """A dozen kills in a row, between votes, truncations, purges, appends and checkpoints."""
    seed = random.randrange(2**32)
    print("seed", seed)  # noqa: T201 # shown when the test fails
    rng, model = random.Random(seed), Model(seed)
    for _ in range(12):
        acknowledged = killed(path, seed, model.done, rng.randrange(1, 120))
        while model.done < acknowledged:
            model.next()
        log = SqliteLog(path)
        state = log.open()
        # The call that was under way may have taken effect, wholly or not at all.
        if (state.vote, state.purged, state.last.index) != (model.vote, model.purged, model.last):
            model.next()
        found = stored(log, state.purged.index + 1, state.last.index + 1)
        log.close()

        assert (model.vote, model.purged, model.last) == (state.vote, state.purged, state.last.index)
        assert model.entries == found


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

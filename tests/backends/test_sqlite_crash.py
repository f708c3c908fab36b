"""A log whose process ends between any two statements, and a log whose flush fails."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore.backends import sqlite_log
from raftcore.backends.sqlite_log import ROWS_PER_STATEMENT, SqliteLog
from raftcore.contracts import LogState, LogStore, WriteBatch
from raftcore.errors import StorageError
from raftcore.types import Entries, EntryKind, LeaderId, LogId, Vote

Runs = Callable[..., Entries]
Stored = Callable[[LogStore, int, int], list[tuple[int, int, bytes]]]
Content = tuple[LogState, list[tuple[int, int, bytes]]]

LEADER = LeaderId(1, "n1")
VOTE = Vote(LeaderId(2, "n2"), True)


def run_of(term: int, first: int, *payloads: bytes) -> Entries:
    """A run of n2's."""
    return Entries(LeaderId(term, "n2"), first, EntryKind.NORMAL, list(payloads))


MANY = [run_of(2, 7 + place, b"new") for place in range(ROWS_PER_STATEMENT + 1)]


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.write(WriteBatch(runs=[run_of(2, 7, b"new")])),
        lambda log: log.write(WriteBatch(runs=MANY)),
        lambda log: log.write(WriteBatch(vote=VOTE, runs=[run_of(2, 7, b"new")])),
        lambda log: log.write(WriteBatch(truncate_from=5, runs=[run_of(2, 5, b"new"), run_of(2, 6, b"new")])),
        lambda log: log.write(WriteBatch(truncate_from=3)),
        lambda log: log.write(WriteBatch(reset=LogId(LeaderId(2, "n2"), 20), runs=[run_of(2, 21, b"new")])),
        lambda log: log.purge(LogId(LEADER, 5)),
    ],
    ids=["runs", "many runs", "vote", "replacement", "truncation", "reset", "purge"],
)
def test_a_kill_between_any_two_statements_leaves_all_of_a_call_or_nothing(
    tmp_path: Path, run: Runs, stored: Stored, call: Callable[[SqliteLog], None]
) -> None:
    """A batch or a purge is atomic, whatever it needs; and the log that is left opens."""
    copies: list[Path] = []

    def killed(_statement: str = "") -> None:
        copies.append(tmp_path / str(len(copies)))
        shutil.copytree(tmp_path / "live", copies[-1])

    log = SqliteLog(tmp_path / "live" / "log.sqlite")
    log.open()
    log.write(WriteBatch(vote=Vote(LEADER, True), runs=[run(1, b"a", b"b"), run(3, b"c", b"d"), run(5, b"e", b"f")]))
    killed()
    log._connection.set_trace_callback(killed)
    call(log)
    log._connection.set_trace_callback(None)
    killed()
    log.close()
    before, *between, after = [content(copy, stored) for copy in copies]

    assert before != after
    assert len(between) >= 1
    assert [] == [left for left in between if left not in (before, after)]


def content(directory: Path, stored: Stored) -> Content:
    """What the log there holds."""
    log = SqliteLog(directory / "log.sqlite")
    state = log.open()
    entries = stored(log, state.purged.index + 1, state.last.index + 1)
    log.close()
    return state, entries


# -- flushes -------------------------------------------------------------------------------------------------------


class Failing(sqlite3.Connection):
    """A connection whose next writes, as many as `failures` says, end as they do when the system can't flush."""

    failures = 0

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if Failing.failures and sql.startswith(("INSERT INTO runs", "COMMIT")):
            Failing.failures -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


def test_the_database_is_told_to_flush_every_commit(tmp_path: Path) -> None:
    """With a write-ahead log less than FULL would put the flush off; macOS has one that goes deeper."""
    log = SqliteLog(tmp_path / "log.sqlite")
    log.open()
    names = ("journal_mode", "synchronous", "fullfsync")
    told = {name: log._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}
    log.close()

    assert {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1} == told


@pytest.mark.parametrize("vote", [None, VOTE], ids=["runs", "vote"])
def test_after_one_failed_flush_nothing_more_is_acknowledged(
    tmp_path: Path, run: Runs, monkeypatch: pytest.MonkeyPatch, vote: Vote | None
) -> None:
    """The disk says that all is well again; the kernel may only have forgotten what it could not write."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite_log.sqlite3, "connect", lambda *args, **kw: connect(*args, factory=Failing, **kw))
    log = SqliteLog(tmp_path / "log.sqlite")
    log.open()
    log.write(WriteBatch(runs=[run(1, b"a")]))
    monkeypatch.setattr(Failing, "failures", 1)
    with pytest.raises(StorageError, match="can't write: disk I/O error; look at the disk's space and health"):
        log.write(WriteBatch(vote=vote, runs=[run(2, b"b")]))
    with pytest.raises(StorageError, match=r"nothing more is written \(disk I/O error\); restart the node"):
        log.write(WriteBatch(vote=vote, runs=[run(2, b"b")]))
    with pytest.raises(StorageError, match="nothing more is written"):
        log.purge(LogId(LEADER, 1))
    log.close()
    state = log.open()
    log.close()

    assert LogState(last=LogId(LEADER, 1)) == state
    assert 0 == Failing.failures


def write_and_report(path: Path) -> None:
    """What the child process does: write six batches, some with a vote, and say after each how it went."""
    log = SqliteLog(path)
    log.open()
    os.write(1, b"open\n")
    for index in range(1, 7):
        vote = Vote(LeaderId(index, "n1"), True) if index % 2 else None
        try:
            log.write(WriteBatch(vote=vote, runs=[Entries(LEADER, index, EntryKind.NORMAL, [b"x"])]))
        except StorageError as error:
            os.write(1, f"{error}\n".encode())
        else:
            os.write(1, f"acknowledged {index}\n".encode())


def observed(directory: Path, *options: str) -> list[str]:
    """Let the child write, and look at it from outside: the flushes that it asks the system for, by the name of the
    call, and what it says, in order. Skips where there is no `strace`."""
    directory.mkdir()
    strace, calls = shutil.which("strace"), directory / "calls"
    if strace is None or subprocess.run([strace, "-o", calls, "true"], check=False, capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not look at other processes here")
    child = [sys.executable, __file__, directory / "log.sqlite"]
    trace = ["-f", "-e", "trace=fdatasync,fsync,write", "-s", "200", *options]
    subprocess.run([strace, *trace, "-o", calls, *child], check=True, timeout=50, stdout=subprocess.DEVNULL)
    found = re.findall(r'^\d+ +(?:(f\w*sync)\(|write\(1, "(.*)\\n",)', calls.read_text(), re.MULTILINE)
    return [flush or said for flush, said in found]


def test_each_batch_is_flushed_before_it_is_acknowledged(tmp_path: Path) -> None:
    """Seen from outside, whatever the settings of the database are called."""
    seen = observed(tmp_path / "log")
    acknowledged = [place for place, said in enumerate(seen) if said.startswith("acknowledged")]

    assert 6 == len(acknowledged)
    assert [] == [seen[place] for place in acknowledged if not seen[place - 1].endswith("sync")]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_once_the_system_could_not_flush_no_batch_is_acknowledged(tmp_path: Path, batch: int) -> None:
    """It says so once, and says that all is well when it is asked again. What was acknowledged before is there."""
    seen = observed(tmp_path / "sound")
    before = seen[: seen.index(f"acknowledged {batch}")]
    flush = before[-1]
    failing = observed(tmp_path / "failing", "-e", f"inject={flush}:error=EIO:when={before.count(flush)}")
    log = SqliteLog(tmp_path / "failing" / "log.sqlite")
    last = log.open().last.index
    log.close()
    said = [line for line in failing[failing.index("open") + 1 :] if line != flush]

    assert [f"acknowledged {index}" for index in range(1, batch)] == said[: batch - 1]
    assert re.search("can't write: disk I/O error; look at the disk's space and health", said[batch - 1])
    assert 6 - batch == sum("nothing more is written (disk I/O error)" in line for line in said[batch:])
    assert batch - 1 <= last <= batch


if __name__ == "__main__":
    write_and_report(Path(sys.argv[1]))

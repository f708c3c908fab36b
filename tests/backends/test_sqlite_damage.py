from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from raftcore.backends import sqlite_log
from raftcore.backends.sqlite_checks import Watermark
from raftcore.backends.sqlite_format import row_checksum
from raftcore.backends.sqlite_log import PAGE_BYTES, SqliteLog
from raftcore.contracts import LogState, LogStore, WriteBatch
from raftcore.errors import CorruptData, StorageError
from raftcore.types import Entries, LeaderId, LogId, Vote
from raftcore.wire import encode_run

Runs = Callable[..., Entries]
Stored = Callable[[LogStore, int, int], list[tuple[int, int, bytes]]]
Flip = Callable[[Path, int], None]
Content = tuple[LogState, list[tuple[int, int, bytes]]]

WAL_HEADER, FRAME_HEADER = 32, 24
FRAME = FRAME_HEADER + PAGE_BYTES


class Crashed:
    """A log as a killed process left it: half of it in the database, half in the write-ahead log.

    `contents` is what it held after each batch that is in the write-ahead log; `frames` how many frames it then had.
    `batches` is how many it holds, `stale` how many it held when it was last opened.
    """

    stale, batches = 22, 36

    def __init__(self, directory: Path, run: Runs, stored: Stored) -> None:
        self.directory = directory
        self._stored = stored
        self.contents: list[Content] = []
        self.frames: list[int] = []
        log = SqliteLog(directory / "live" / "log.sqlite")
        log.open()
        log.write(WriteBatch(vote=Vote(LeaderId(1, "n1"), True), runs=[run(1, *[b"old"] * 10)], committed=3))
        for index in range(11, 31):
            log.write(WriteBatch(runs=[run(index, b"y" * 1000)]))
        log.purge(LogId(LeaderId(1, "n1"), 4))
        log.close()
        log.open()
        for index in range(31, 45):
            vote = Vote(LeaderId(index, "n1"), False) if index % 4 == 0 else None
            log.write(WriteBatch(vote=vote, runs=[run(index, b"z" * 900 * (index % 3))], committed=index - 1))
            vote = Vote(LeaderId(index - index % 4, "n1"), False) if index > 31 else Vote(LeaderId(1, "n1"), True)
            state = LogState(vote, LogId(LeaderId(1, "n1"), 4), LogId(LeaderId(1, "n1"), index), index - 1)
            self.contents.append((state, stored(log, 5, index + 1)))
            size = (directory / "live" / "log.sqlite-wal").stat().st_size
            self.frames.append((size - WAL_HEADER) // FRAME)
        shutil.copytree(directory / "live", directory / "crashed")
        log.close()

    def copy(self) -> Path:
        """A fresh copy of the database's path, to be damaged."""
        shutil.rmtree(self.directory / "copy", ignore_errors=True)
        shutil.copytree(self.directory / "crashed", self.directory / "copy")
        return self.directory / "copy" / "log.sqlite"

    def content(self, path: Path) -> Content:
        """What the store gives that is opened there. Raises what it raises."""
        log = SqliteLog(path)
        state = log.open()
        try:
            return state, self._stored(log, state.purged.index + 1, state.last.index + 1)
        finally:
            log.close()


@pytest.fixture
def crashed(tmp_path: Path, run: Runs, stored: Stored) -> Crashed:
    """A log that was not closed."""
    return Crashed(tmp_path, run, stored)


def companion(path: Path, ending: str) -> Path:
    """``log.sqlite-wal`` or ``log.sqlite-acked``."""
    return path.with_name(path.name + ending)


def test_a_crashed_log_opens_with_all_that_was_acknowledged(crashed: Crashed) -> None:
    """The undamaged case; more than once, since opening writes."""
    path = crashed.copy()

    assert crashed.contents[-1] == crashed.content(path)
    assert crashed.contents[-1] == crashed.content(path)


def test_a_flipped_bit_in_the_write_ahead_log_is_an_error(crashed: Crashed, flipped: Flip) -> None:
    """Wherever it is: SQLite itself would drop what lies behind it without a word."""
    size = companion(crashed.copy(), "-wal").stat().st_size
    last = size - FRAME
    offsets = {*range(WAL_HEADER + FRAME_HEADER), *range(last, last + FRAME_HEADER), *range(60, size, 919), size - 1}
    for offset in sorted(offsets):
        path = crashed.copy()
        flipped(companion(path, "-wal"), offset)
        with pytest.raises(CorruptData, match="let this node join again as a new member"):
            crashed.content(path)
        # The verdict stands: what a first attempt changes in the files does not make the second one succeed.
        with pytest.raises(CorruptData, match="let this node join again as a new member"):
            crashed.content(path)


def test_a_write_ahead_log_that_ends_early_is_an_error(crashed: Crashed) -> None:
    """At every length, in the middle of a frame and between two."""
    size = companion(crashed.copy(), "-wal").stat().st_size
    for length in {*range(0, size, 2311), *range(WAL_HEADER, size, FRAME), size - 1}:
        path = crashed.copy()
        with companion(path, "-wal").open("r+b") as file:
            file.truncate(length)
        with pytest.raises(CorruptData, match=r"ends with batch \d+, but batch \d+ was acknowledged"):
            crashed.content(path)


def test_after_a_loss_of_power_damage_before_the_last_batches_is_still_an_error(
    crashed: Crashed, flipped: Flip
) -> None:
    """The watermark may be old then, but the frames behind the damaged one give it away."""
    for frame in range(crashed.frames[-3]):
        for offset in (0, 5, 10, 17, FRAME_HEADER, FRAME - 1):
            path = crashed.copy()
            set_watermark(companion(path, "-acked"), crashed.stale)
            flipped(companion(path, "-wal"), WAL_HEADER + frame * FRAME + offset)
            for _ in range(2):
                with pytest.raises(CorruptData, match=rf"-wal: frame {frame + 1} is damaged, and acknowledged entries"):
                    crashed.content(path)


def test_after_a_loss_of_power_damage_in_the_last_batches_drops_whole_batches_at_most(
    crashed: Crashed, flipped: Flip
) -> None:
    """It can't be told from a batch that was under way. What is left is what the log held before."""
    dropped = 0
    for frame in range(crashed.frames[-3], crashed.frames[-1]):
        for offset in (0, 5, 10, 17, FRAME_HEADER, FRAME - 1):
            path = crashed.copy()
            set_watermark(companion(path, "-acked"), crashed.stale)
            flipped(companion(path, "-wal"), WAL_HEADER + frame * FRAME + offset)
            try:
                content = crashed.content(path)
            except CorruptData:
                continue
            dropped += 1
            assert content in crashed.contents[-3:-1]

    assert dropped


def test_a_damaged_header_of_the_write_ahead_log_is_an_error_also_after_a_loss_of_power(
    crashed: Crashed, flipped: Flip
) -> None:
    """SQLite would take the whole of it for empty."""
    for offset in range(WAL_HEADER):
        path = crashed.copy()
        set_watermark(companion(path, "-acked"), crashed.stale)
        flipped(companion(path, "-wal"), offset)
        with pytest.raises(
            CorruptData, match=r"log\.sqlite-wal: the header is damaged, and acknowledged entries may lie"
        ):
            crashed.content(path)


def test_a_batch_that_a_loss_of_power_tore_is_dropped(crashed: Crashed) -> None:
    """Its frames may have reached the disk in any order, or the file may end early; it was never acknowledged."""
    first, last = crashed.frames[-2:]
    assert last - first > 1
    for missing in range(first, last):
        path = crashed.copy()
        set_watermark(companion(path, "-acked"), crashed.batches - 1)
        with companion(path, "-wal").open("r+b") as file:
            file.seek(WAL_HEADER + missing * FRAME)
            file.write(bytes(FRAME))

        assert crashed.contents[-2] == crashed.content(path)
    for length in range(WAL_HEADER + first * FRAME, WAL_HEADER + last * FRAME, 999):
        path = crashed.copy()
        set_watermark(companion(path, "-acked"), crashed.batches - 1)
        with companion(path, "-wal").open("r+b") as file:
            file.truncate(length)

        assert crashed.contents[-2] == crashed.content(path)


def set_watermark(path: Path, number: int) -> None:
    """Write a watermark file with this number."""
    path.unlink()
    watermark = Watermark(path)
    watermark.open()
    watermark.create()
    watermark.advance(number)
    watermark.close()


def test_a_flipped_bit_in_the_database_is_an_error_or_changes_nothing(crashed: Crashed, flipped: Flip) -> None:
    """Never a wrong value, a hole or a missing entry; some bytes of the file mean nothing."""
    size = crashed.copy().stat().st_size
    pages = [offset for page in range(0, size, PAGE_BYTES) for offset in range(page, page + 32, 3)]
    errors = 0
    for offset in sorted({*range(100), *pages, *range(100, size, 401)}):
        path = crashed.copy()
        flipped(path, offset)
        try:
            content = crashed.content(path)
        except StorageError:
            errors += 1
        else:
            assert crashed.contents[-1] == content

    assert errors > 50


def test_damage_among_free_pages_does_not_spread(tmp_path: Path, run: Runs, stored: Stored, flipped: Flip) -> None:
    """What is written later goes into pages that a purge freed: never into one that is in use."""
    log = SqliteLog(tmp_path / "live" / "log.sqlite")
    log.open()
    for index in range(1, 41):
        log.write(WriteBatch(runs=[run(index, b"x" * 3000)]))
    log.purge(LogId(LeaderId(1, "n1"), 20))
    log.close()
    path = tmp_path / "copy" / "log.sqlite"
    data = (tmp_path / "live" / "log.sqlite").read_bytes()
    trunk = (int.from_bytes(data[32:36], "big") - 1) * PAGE_BYTES
    errors = 0
    for offset in [*range(32, 40), *range(trunk, trunk + 40)]:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
        flipped(path, offset)
        log = SqliteLog(path)
        try:
            log.open()
        except StorageError:
            errors += 1
            continue
        for index in range(41, 61):
            log.write(WriteBatch(runs=[run(index, b"y" * 3000)]))
        log.close()
        log.open()
        payloads = [payload for _, _, payload in stored(log, 21, 1000)]
        log.close()

        assert [b"x" * 3000] * 20 + [b"y" * 3000] * 20 == payloads

    assert errors > 20


def test_a_database_that_ends_early_is_an_error_or_changes_nothing(crashed: Crashed) -> None:
    """Pages that the write-ahead log has newer may be missing; others not."""
    size = crashed.copy().stat().st_size
    errors = 0
    for length in range(0, size, 1777):
        path = crashed.copy()
        with path.open("r+b") as file:
            file.truncate(length)
        try:
            content = crashed.content(path)
        except CorruptData:
            errors += 1
        else:
            assert crashed.contents[-1] == content

    assert errors > 5


def test_a_flipped_bit_in_the_watermark_is_an_error_or_changes_nothing(crashed: Crashed, flipped: Flip) -> None:
    """It can make the number smaller by one, never greater."""
    errors = 0
    for offset in {*range(16), *range(508, 528), *range(1020, 1040), 2000}:
        path = crashed.copy()
        flipped(companion(path, "-acked"), offset)
        try:
            content = crashed.content(path)
        except StorageError:
            errors += 1
        else:
            assert crashed.contents[-1] == content

    assert errors == 12


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("", r"log\.sqlite: damaged: missing or empty, but 36 batches of it were acknowledged; set its files aside"),
        (
            "-wal",
            r"log\.sqlite: damaged: it ends with batch 22, but batch 36 was acknowledged; the last entry left is 30",
        ),
        (
            "-acked",
            r"log\.sqlite: damaged: it holds 36 batches, but log\.sqlite-acked is missing or empty; set its files",
        ),
    ],
)
@pytest.mark.parametrize("emptied", [True, False])
def test_a_file_that_is_gone_is_an_error(crashed: Crashed, ending: str, message: str, emptied: bool) -> None:
    """An empty one as well: it must not be taken for a new log, which would forget the vote."""
    path = crashed.copy()
    companion(path, ending).unlink()
    if emptied:
        companion(path, ending).touch()

    with pytest.raises(CorruptData, match=message):
        crashed.content(path)


def test_a_log_of_which_all_is_in_the_database_is_not_forgotten_either(crashed: Crashed) -> None:
    """After a clean end there is no write-ahead log that could be missed."""
    path = crashed.copy()
    crashed.content(path)
    path.write_bytes(b"")

    with pytest.raises(CorruptData, match="missing or empty, but 36 batches of it were acknowledged"):
        crashed.content(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM runs WHERE last = 20", r"Entries\(.*21\.\.21, 1000 B\) does not follow 19"),
        ("DELETE FROM runs WHERE last = 10", r"Entries\(.*11\.\.11, 1000 B\) does not follow 4"),
        ("DELETE FROM runs WHERE last = 44", "it ends with entry 43, but entry 44 was stored"),
        ("DELETE FROM meta", "the row with the vote: not enough values to unpack"),
        ("UPDATE meta SET data = zeroblob(20)", "the row with the vote: checksum mismatch"),
        ("UPDATE meta SET data = 7", "the row with the vote: 'int' object is not subscriptable"),
        (
            "UPDATE runs SET committed = 99 WHERE last = 40",
            r"the row of Entries\(.*40\.\.40.*does not fit its checksum",
        ),
        ("UPDATE runs SET batch = 99 WHERE last = 40", r"the row of Entries\(.*40\.\.40.*does not fit its checksum"),
        (
            "UPDATE runs SET batch = 'x' WHERE last = 40",
            "the row of the run that ends at 40: required argument is not an",
        ),
        ("UPDATE runs SET last = 50 WHERE last = 44", r"the row of Entries\(.*44\.\.44.*does not fit its checksum"),
        ("UPDATE runs SET data = zeroblob(99) WHERE last = 40", "at entry 40: run of 99 bytes: checksum mismatch"),
        (
            "UPDATE runs SET data = (SELECT data FROM runs WHERE last = 39) WHERE last = 40",
            r"the row of Entries\(.*39\.\.39.*does not fit its checksum",
        ),
        ("ALTER TABLE runs ADD COLUMN more", "its tables are not those that raftcore made"),
    ],
)
def test_a_change_by_another_hand_is_found(crashed: Crashed, statement: str, message: str) -> None:
    """What SQLite thinks is in order may still not be what was written."""
    path = crashed.copy()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement)

    with pytest.raises(CorruptData, match=message):
        crashed.content(path)


def test_a_row_that_overlaps_the_one_before_is_found(crashed: Crashed, run: Runs) -> None:
    """Even with checksums that fit: an entry would be there twice."""
    path = crashed.copy()
    data = encode_run(run(39, b"again", b"x"))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        values = (row_checksum(40, 30, 39, data), data)
        database.execute("UPDATE runs SET batch = 30, committed = 39, checksum = ?, data = ? WHERE last = 40", values)

    with pytest.raises(CorruptData, match=r"Entries\(.*39\.\.40, 6 B\) does not follow 39"):
        crashed.content(path)


def test_damage_that_appears_while_the_log_is_open_is_found_by_reading(tmp_path: Path, run: Runs) -> None:
    """The checksum of a run is verified whenever it is read, and then nothing more is written."""
    log = SqliteLog(tmp_path / "log.sqlite")
    log.open()
    log.write(WriteBatch(runs=[run(1, b"a"), run(2, b"b"), run(3, b"c")]))
    log._connection.execute("UPDATE runs SET data = zeroblob(40) WHERE last = 2")
    with pytest.raises(CorruptData, match="at entry 1: run of 40 bytes: checksum mismatch"):
        log.read(1, 4, 1000)
    log._connection.execute("DELETE FROM runs WHERE last = 2")
    with pytest.raises(CorruptData, match=r"Entries\(.*3\.\.3, 1 B\) where entry 2 should be"):
        log.read(1, 4, 1000)
    with pytest.raises(StorageError, match="nothing more is written"):
        log.write(WriteBatch(runs=[run(4, b"d")]))
    log.close()


def test_frames_of_an_earlier_round_are_no_damage(
    tmp_path: Path, run: Runs, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite overwrites its write-ahead log from the start after a checkpoint, and leaves what lies behind."""
    monkeypatch.setattr(sqlite_log, "CHECKPOINT_BYTES", 60_000)
    log = SqliteLog(tmp_path / "live" / "log.sqlite")
    log.open()
    for index in range(1, 50):
        log.write(WriteBatch(runs=[run(index, b"x" * 3000)]))
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
        copy = SqliteLog(tmp_path / "copy" / "log.sqlite")
        copy.open()
        entries = stored(copy, 1, 1000)
        copy.close()

        assert index == len(entries)
    log.close()


def test_a_watermark_of_another_format_is_refused(crashed: Crashed) -> None:
    """With both formats in the message."""
    path = crashed.copy()
    data = bytearray(companion(path, "-acked").read_bytes())
    data[8] = 2
    companion(path, "-acked").write_bytes(data)

    with pytest.raises(
        StorageError, match=r"log\.sqlite-acked: format 2, this release reads format 1; run the release"
    ):
        crashed.content(path)


@pytest.mark.parametrize("data", [b"short", bytes(4096), b"raftmark\x01\x00\x00\x00" + bytes(4084)])
def test_a_watermark_without_a_number_is_refused(crashed: Crashed, data: bytes) -> None:
    """Then it can't be known what the log should hold."""
    path = crashed.copy()
    companion(path, "-acked").write_bytes(data)

    with pytest.raises(
        CorruptData, match=r"log\.sqlite-acked: damaged, so the log beside it can't be trusted; set its"
    ):
        crashed.content(path)


def test_a_watermark_that_was_torn_keeps_the_number_before(tmp_path: Path) -> None:
    """Two numbers are kept; a kill in the middle of a store spoils one of them."""
    path = tmp_path / "acked"
    watermark = Watermark(path)
    watermark.open()
    watermark.create()
    watermark.advance(7)
    watermark.advance(8)
    watermark.close()
    data = bytearray(path.read_bytes())
    data[512] ^= 1
    path.write_bytes(data)

    assert 7 == watermark.open()
    watermark.close()

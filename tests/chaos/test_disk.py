from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from raftcore.backends.sqlite_checks import Watermark
from raftcore.backends.sqlite_log import SqliteLog
from raftcore.cli.chaos.disk import LogFiles
from raftcore.contracts import WriteBatch
from raftcore.errors import CorruptData
from raftcore.types import Entries, EntryKind, LeaderId

LEADER = LeaderId(1, "n1")
LOG = "log.sqlite"


def _killed(tmp_path: Path, batches: int) -> Path:
    """The data directory of a node that was killed after so many batches of one entry."""
    data, alive = tmp_path / "n1", SqliteLog(tmp_path / "alive" / LOG)
    alive.open()
    for index in range(1, batches + 1):
        alive.write(WriteBatch(runs=[Entries(LEADER, index, EntryKind.NORMAL, [b"x" * 3000])]))
    shutil.copytree(tmp_path / "alive", data)
    alive.close()
    (data / "snapshots").mkdir()
    return data


def _last(data: Path) -> int:
    """The last entry of the log. Raises `CorruptData`."""
    log = SqliteLog(data / LOG)
    try:
        return log.open().last.index
    finally:
        log.close()


def _acknowledged(data: Path) -> int | None:
    watermark = Watermark(data / f"{LOG}-acked")
    try:
        return watermark.open()
    finally:
        watermark.close()


@pytest.mark.parametrize("batches", [1, 2, 40])
def test_a_torn_log_has_all_that_was_acknowledged(tmp_path: Path, batches: int) -> None:
    """Whatever remains of an unfinished write lies behind it, the node starts; and after some more batches again."""
    data = _killed(tmp_path, batches)
    for seed in range(20):
        torn = tmp_path / f"torn{seed}"
        shutil.copytree(data, torn)
        before = (torn / f"{LOG}-wal").read_bytes()
        text = LogFiles(torn).tear(random.Random(seed))

        assert (
            "of an unfinished transaction in the write-ahead log, half an acknowledgement, part of a snapshot" in text
        )
        assert before != (torn / f"{LOG}-wal").read_bytes()
        assert _acknowledged(data) == _acknowledged(torn) == batches
        assert batches == _last(torn), f"seed {seed}: {text}"


def test_tearing_finds_the_end_in_a_log_that_began_anew(tmp_path: Path) -> None:
    """Behind the last transaction lie older ones, which a checkpoint has made superfluous."""
    data, alive = tmp_path / "n1", SqliteLog(tmp_path / "alive" / LOG)
    alive.open()
    for index in range(1, 301):
        alive.write(WriteBatch(runs=[Entries(LEADER, index, EntryKind.NORMAL, [b"x" * 9000])]))
    shutil.copytree(tmp_path / "alive", data)
    alive.close()
    (data / "snapshots").mkdir()
    before = (data / f"{LOG}-wal").read_bytes()
    for seed in range(4):
        torn = tmp_path / f"torn{seed}"
        shutil.copytree(data, torn)
        LogFiles(torn).tear(random.Random(seed))
        after = (torn / f"{LOG}-wal").read_bytes()
        at = next(at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new)

        assert at < len(before) / 2
        assert 300 == _last(torn), f"seed {seed}"


def test_a_damaged_log_is_refused_until_it_is_put_back(tmp_path: Path) -> None:
    """Cut or changed: acknowledged batches are gone, the store says so, and the copy is whole again."""
    data, texts = _killed(tmp_path, 40), []
    for seed in range(20):
        files = LogFiles(data)
        files.copy_to(tmp_path / "copy")
        texts.append(files.damage(random.Random(seed)))

        with pytest.raises(CorruptData, match="damaged"):
            _last(data)
        files.put_back(tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
    assert {"the", "a"} == {text.split()[0] for text in texts}
    assert 40 == _last(data)


@pytest.mark.parametrize("seed", range(5))
def test_damage_that_destroys_nothing_is_none(tmp_path: Path, seed: int) -> None:
    """All that the write-ahead log holds is in the database too, so nothing is missing without it."""
    data, whole = _killed(tmp_path, 2), tmp_path / "whole"
    shutil.copytree(data, whole)
    _last(whole)  # opening moves everything into the database
    shutil.copy2(whole / LOG, data)

    assert "" == LogFiles(data).damage(random.Random(seed))


def test_there_must_be_something_to_tear_or_to_damage(tmp_path: Path) -> None:
    """A log that nobody has opened yet."""
    files = LogFiles(tmp_path)

    assert "nothing to tear yet" == files.tear(random.Random(1))
    assert "" == files.damage(random.Random(1))

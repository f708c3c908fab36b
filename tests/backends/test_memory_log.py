from __future__ import annotations

from collections.abc import Callable

from raftcore.backends.memory_log import MemoryLog
from raftcore.contracts import WriteBatch
from raftcore.types import Entries

Runs = Callable[..., Entries]


def test_it_never_blocks() -> None:
    """So the node calls it on the event loop."""
    assert not MemoryLog.blocking


def test_it_keeps_the_runs_themselves(run: Runs) -> None:
    """Nothing is copied or encoded on the way in or out."""
    log = MemoryLog()
    log.open()
    first, second = run(1, b"a", b"b"), run(3, b"c")
    log.write(WriteBatch(runs=[first, second]))
    runs = log.read(1, 4, 1000)

    assert [id(first), id(second)] == [id(run) for run in runs]
    assert first.encoded is None


def test_a_batch_that_its_owner_changes_later_changes_nothing(run: Runs) -> None:
    """The list of runs stays the caller's."""
    log = MemoryLog()
    log.open()
    batch = WriteBatch(runs=[run(1, b"a")])
    log.write(batch)
    batch.runs.append(run(2, b"b"))

    assert [run(1, b"a")] == log.read(1, 10, 1000)

from __future__ import annotations

from collections.abc import Callable

from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.types import SnapshotMeta


def test_snapshots_stay_with_the_object(save: Callable[..., SnapshotMeta]) -> None:
    """Closed and started again, it plays a disk that survives its node."""
    sink = MemorySnapshots()
    sink.start()
    meta = save(sink, "s", b"state")
    sink.close()
    sink.start()

    assert [meta] == sink.list()
    assert [b"state"] == list(sink.open("s"))


def test_a_node_s_snapshots_are_its_own() -> None:
    """So the leader sends the bytes."""
    assert not MemorySnapshots.shared

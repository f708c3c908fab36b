"""For the whole suite: raftcore never blocks the event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def loop_guard() -> Iterator[BlockBuster]:
    """Fail a test in which raftcore does I/O, sleeps or waits for a lock on the event loop."""
    with blockbuster_ctx("raftcore") as guard:
        yield guard

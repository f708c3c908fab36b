"""The guard in tests/conftest.py is on, and sees what raftcore does."""

from __future__ import annotations

import time

import pytest
from blockbuster import BlockingError

from raftcore.errors import OutcomeUnknown


def test_raftcore_blocking_the_loop_fails_a_test(run, cluster):
    """A plugin that claims not to block, and sleeps, is noticed when the node calls it."""

    async def main():
        async with cluster(1) as c:
            c["n1"].machine.apply = lambda run: time.sleep(0.001)
            with pytest.raises(OutcomeUnknown):
                await c["n1"].node.propose(b"x")

            assert "BlockingError: Blocking call to time.sleep" in str(c["n1"].node.member.failure)

    run(main)


def test_a_data_directory_is_not_opened_on_the_loop(run, tmp_path):
    """The guard sees files too, and threads may use them."""

    async def main():
        import random

        from raftcore.node.identity import DataDirectory

        with pytest.raises(BlockingError, match=r"Blocking call to os.mkdir|Blocking call"):
            DataDirectory(tmp_path / "data").open("test", "n1", random.Random(1))

    run(main)

"""What a message can do to a node: a peer's bad one is refused, a broken rule stops it."""

from __future__ import annotations

import asyncio

import pytest

from raftcore.errors import InvariantViolation, NodeStopped
from raftcore.messages import AppendEntries, AppendReply
from raftcore.types import NO_LOG, Entries, EntryKind


def test_a_message_that_can_not_be_true_is_refused_and_counted(run, cluster):
    """An acknowledgement of what the log does not hold: the peer is wrong, and the node goes on."""

    async def main():
        async with cluster() as c:
            node = c["n1"].node
            before = node.status()
            node.member.deliver("n2", AppendReply(node.member.engine.vote, 0, before.last_index + 100))

            assert b"x!" == await node.propose(b"x")
            assert before.refused_messages + 1 == node.status().refused_messages

    run(main)


def test_a_message_that_breaks_a_rule_stops_the_node_at_once(run, cluster):
    """The leader contradicts what is committed here: one of the two logs is not what it was."""

    async def main():
        async with cluster() as c:
            member = c["n2"].node.member
            vote = c["n1"].node.member.engine.vote
            entry = Entries(vote.leader, 1, EntryKind.NORMAL, [b"another history"])
            member.deliver("n1", AppendEntries(vote, 1_000_000, NO_LOG, 1, (entry,)))
            await asyncio.sleep(0)  # the turn was asked for first, so it comes first

            assert isinstance(member.failure, InvariantViolation)
            with pytest.raises(
                NodeStopped, match=r"node n2 has stopped: the leader's entry 1 is .* is committed there"
            ):
                await c["n2"].node.propose(b"x")

    run(main)

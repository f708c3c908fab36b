from __future__ import annotations

from typing import get_args

import pytest

from raftcore.engine import Role
from raftcore.engine.engine import HANDLERS
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Message,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    SnapshotStatus,
    TimeoutNow,
    VoteReply,
)
from raftcore.types import NO_LOG, SnapshotMeta

# Who counts, answers or takes over only the vote of what: every role, every type of message.
HANDLED = {
    RequestVote: dict.fromkeys(Role, "on_request_vote"),
    AppendEntries: dict.fromkeys(Role, "on_append"),
    SnapshotChunk: dict.fromkeys(Role, "on_chunk"),
    VoteReply: {
        Role.LEARNER: "on_stray_reply",
        Role.FOLLOWER: "on_stray_reply",
        Role.PRE_CANDIDATE: "on_vote_reply",
        Role.CANDIDATE: "on_vote_reply",
        Role.LEADER: "on_stray_reply",
    },
    AppendReply: {
        Role.LEARNER: "on_stray_reply",
        Role.FOLLOWER: "on_stray_reply",
        Role.PRE_CANDIDATE: "on_stray_reply",
        Role.CANDIDATE: "on_stray_reply",
        Role.LEADER: "on_append_reply",
    },
    SnapshotReply: {
        Role.LEARNER: "on_stray_reply",
        Role.FOLLOWER: "on_stray_reply",
        Role.PRE_CANDIDATE: "on_stray_reply",
        Role.CANDIDATE: "on_stray_reply",
        Role.LEADER: "on_reply",
    },
    TimeoutNow: {
        Role.LEARNER: None,
        Role.FOLLOWER: "on_timeout_now",
        Role.PRE_CANDIDATE: None,
        Role.CANDIDATE: None,
        Role.LEADER: None,
    },
    Forward: dict.fromkeys(Role),
    ForwardReply: dict.fromkeys(Role),
}
REFUSED = [(role, kind) for kind, roles in HANDLED.items() for role, name in roles.items() if name is None]


@pytest.fixture(scope="session")
def in_role(solo, vote):
    """Make member "a" in a role, at term 3 or on its way there."""

    def make(role):
        member = solo("a", voters="bc", learners="a") if role is Role.LEARNER else solo("a", terms=[1], term=2)
        if role in (Role.LEARNER, Role.FOLLOWER):
            member.receive("b", AppendEntries(vote(3), 1, member.engine.log.last, 0))
        elif role is Role.LEADER:
            member.become_leader()
        else:
            member.elapse(member.engine.timeout + 0.01)
            if role is Role.CANDIDATE:
                member.receive("b", VoteReply(member.engine.vote, member.engine.candidacy.vote, True, True))
        assert role is member.engine.role
        member.take_sent()
        member.events.clear()
        return member

    return make


def stray(kind, vote):
    """A message of a type, of the vote that the receiver has already, that fits nothing that it waits for."""
    return {
        VoteReply: VoteReply(vote, vote._replace(committed=True), True),
        AppendReply: AppendReply(vote, 1, 1),
        SnapshotReply: SnapshotReply(vote, 1, "s", SnapshotStatus.INSTALLED, 0, 1),
        TimeoutNow: TimeoutNow(vote, 99),
        Forward: Forward(vote, 1, "propose", [b"x"]),
        ForwardReply: ForwardReply(vote, 1, [None]),
    }[kind]


def test_every_role_handles_or_refuses_every_message_on_purpose():
    """The table above is the engine's, and it is complete."""
    names = {
        kind: {role: handler and handler.__name__ for role in Role for handler in [HANDLERS[role].get(kind)]}
        for kind in get_args(Message)
    }

    assert HANDLED == names
    assert set(HANDLERS) == set(Role)


@pytest.mark.parametrize(("role", "kind"), REFUSED)
def test_a_refused_message_is_counted_and_changes_nothing(in_role, role, kind):
    """Nor is it answered."""
    member = in_role(role)
    before, refused = member.state(), member.engine.refused
    member.receive("b", stray(kind, member.engine.vote))

    assert (before, [], []) == (member.state(), member.sent, member.events)
    assert refused + 1 == member.engine.refused


@pytest.mark.parametrize(
    ("role", "kind"),
    [(role, kind) for kind, roles in HANDLED.items() for role, name in roles.items() if name == "on_stray_reply"],
)
def test_an_answer_that_nobody_waits_for_changes_nothing(in_role, role, kind):
    """When its vote is not a higher one."""
    member = in_role(role)
    before = member.state()
    member.receive("b", stray(kind, member.engine.vote))

    assert (before, [], []) == (member.state(), member.sent, member.events)


@pytest.mark.parametrize("kind", [AppendEntries, SnapshotChunk])
def test_a_leader_believes_nobody_who_speaks_in_its_name(in_role, membership, kind):
    """Its own vote in another's message."""
    member = in_role(Role.LEADER)
    before = member.state()
    vote = member.engine.vote
    message = {
        AppendEntries: AppendEntries(vote, 1, NO_LOG, 9),
        SnapshotChunk: SnapshotChunk(vote, 1, SnapshotMeta("s", NO_LOG, membership("abc"), NO_LOG), 0, b"", True),
    }[kind]
    member.receive("b", message)

    assert before == member.state()


def test_a_vote_that_no_quorum_has_granted_makes_no_leader(in_role, vote):
    """Entries under it are not taken."""
    member = in_role(Role.FOLLOWER)
    before = member.state()
    member.receive("c", AppendEntries(vote(9, "c", False), 1, NO_LOG, 9))

    assert before == member.state()

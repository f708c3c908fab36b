"""The harness of `tests/lib/engine_cluster.py` as fixtures: `solo`, one member; `cluster`, several; and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from engine_cluster import Clock, Cluster, Disk, Member, make_membership

from raftcore.engine import RaftSettings
from raftcore.types import Entries, EntryKind, LeaderId, LogId, Membership, Vote


@pytest.fixture(scope="session")
def solo() -> Callable[..., Member]:
    """Make one member, "a" of a, b and c unless told otherwise, with a log of `terms`."""

    def make(
        node: str = "a",
        *,
        voters: Iterable[str] = "abc",
        learners: Iterable[str] = (),
        membership: Membership | None = None,
        terms: Iterable[int] = (),
        term: int | None = None,
        commit: int = 0,
        by: str = "b",
        auto: bool = True,
        seed: int = 0,
        **settings: object,
    ) -> Member:
        initial = membership or make_membership(voters, learners)
        member = Member(node, RaftSettings(**settings), Clock(), initial=initial, seed=seed, auto=auto)
        member.fill(terms, term=term, commit=commit, by=by)
        member.start()
        return member

    return make


@pytest.fixture(scope="session")
def cluster() -> Callable[..., Cluster]:
    """Make a cluster of `voters` and `learners`, with a log of terms for who is in `logs`; all know the latest term."""

    def make(
        voters: Iterable[str] = "abc",
        learners: Iterable[str] = (),
        *,
        logs: dict[str, Iterable[int]] | None = None,
        seed: int = 0,
        auto: bool = True,
        **settings: object,
    ) -> Cluster:
        clock, initial = Clock(), make_membership(voters, learners)
        members = {
            node: Member(node, RaftSettings(**settings), clock, initial=initial, seed=seed, auto=auto)
            for node in initial.members
        }
        term = max((term for terms in (logs or {}).values() for term in terms), default=None)
        for node, member in members.items():
            member.fill((logs or {}).get(node, ()), term=term)
            member.start()
        return Cluster(members, clock)

    return make


@pytest.fixture(scope="session")
def membership() -> Callable[..., Membership]:
    """Make a membership of names: voters, learners, and the second voter set of a joint one."""
    return make_membership


@pytest.fixture(scope="session")
def disk() -> type[Disk]:
    """The naive log store."""
    return Disk


@pytest.fixture(scope="session")
def run() -> Callable[..., Entries]:
    """Make a run of entries: term, first index, number of entries."""

    def make(term: int, first: int, count: int = 1, *, by: str = "b", size: int = 1) -> Entries:
        return Entries(LeaderId(term, by), first, EntryKind.NORMAL, [b"x" * size] * count)

    return make


@pytest.fixture(scope="session")
def at() -> Callable[..., LogId]:
    """Make the id of an entry: term and index."""

    def make(term: int, index: int, by: str = "b") -> LogId:
        return LogId(LeaderId(term, by if index else ""), index)

    return make


@pytest.fixture(scope="session")
def vote() -> Callable[..., Vote]:
    """Make a vote: a leader's unless `committed` is False."""

    def make(term: int, node: str = "b", committed: bool = True) -> Vote:
        return Vote(LeaderId(term, node), committed)

    return make

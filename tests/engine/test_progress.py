from __future__ import annotations

import pytest

from raftcore.engine.progress import Progress, State


@pytest.fixture
def progress():
    """A follower that is probed at index 5, with room for 3 messages or 100 bytes."""
    return Progress(5, 3, 100)


@pytest.fixture
def following(progress):
    """The same, when its log is known to agree up to 4."""
    progress.acknowledged(4)
    progress.pipeline()
    return progress


def test_a_new_follower_is_probed(progress):
    """Nothing is known of it, and one message may go."""
    assert (State.PROBE, 0, 5, True) == (progress.state, progress.match, progress.next, progress.may_send)


def test_a_probe_waits_for_its_answer(progress):
    """While one is on its way no other goes, and `next` stays."""
    progress.sent(9, 10)

    assert (False, 5, 0) == (progress.may_send, progress.next, progress.in_flight)


def test_the_window_closes_after_so_many_messages(following):
    """Three messages are on their way; an answer to the second makes room for two."""
    for last in (5, 6, 7):
        following.sent(last, 1)

    assert (False, 3, 8) == (following.may_send, following.in_flight, following.next)

    following.acknowledged(6)

    assert (True, 1, 1) == (following.may_send, following.in_flight, following.in_flight_bytes)


def test_the_window_closes_after_so_many_bytes(following):
    """One large message fills it."""
    following.sent(5, 100)

    assert (False, 1) == (following.may_send, following.in_flight)

    following.acknowledged(5)

    assert (True, 0) == (following.may_send, following.in_flight_bytes)


def test_nothing_is_sent_while_the_store_is_read(following):
    """The entries that are being read come first."""
    following.reading = True

    assert not following.may_send


@pytest.mark.parametrize("old", [0, 3, 4])
def test_match_never_goes_back(following, old):
    """An old or repeated answer is no news and moves nothing."""
    following.sent(8, 1)

    assert not following.acknowledged(old)
    assert (4, 9, 1) == (following.match, following.next, following.in_flight)


def test_next_stays_above_match(following):
    """Also when a follower has more than was sent to it, and whatever a probe asks for."""
    following.acknowledged(20)

    assert (20, 21) == (following.match, following.next)

    following.probe(3)

    assert (20, 21) == (following.match, following.next)


def test_changing_the_way_forgets_what_was_on_its_way(following):
    """A probe begins with an empty window, and so does a snapshot."""
    following.sent(6, 30)
    following.probe(5)

    assert (State.PROBE, 0, 0, 5, True) == (
        *(following.state, following.in_flight, following.in_flight_bytes, following.next, following.may_send),
    )

    following.pipeline()
    following.sent(6, 30)
    following.snapshot(40)

    assert (State.SNAPSHOT, 0, 40, False) == (
        *(following.state, following.in_flight, following.snapshot_index, following.may_send),
    )

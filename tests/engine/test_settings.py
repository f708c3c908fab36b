from __future__ import annotations

import pytest

from raftcore.engine import RaftSettings


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"election_timeout_ms": (1000, 1000)},
            r"election_timeout_ms: \[1000, 1000\] must be a range.*try \[1000, 2000\]",
        ),
        ({"heartbeat_ms": 400}, r"heartbeat_ms: 400 is more than a third of the lower election timeout \(1000\)"),
        ({"lease_ms": 1000}, r"lease_ms: 1000 must be below the lower election timeout \(1000\).*try 900"),
        ({"lease_ms": 500, "check_quorum": False}, "lease_ms: a lease needs check_quorum = true"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, reason):
    """With what to try instead: a leader whose heartbeats are that rare could be voted out by who hears it."""
    with pytest.raises(ValueError, match=reason):
        RaftSettings(**settings)


def test_a_lease_is_nine_tenths_of_the_lower_election_timeout():
    """Unless it is set."""
    assert 0.9 == RaftSettings().lease_seconds
    assert 0.5 == RaftSettings(lease_ms=500).lease_seconds

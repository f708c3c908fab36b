"""What a leader knows of one follower, and how much it may send it (paper §5.3, thesis 10.2)."""

from __future__ import annotations

import enum
from collections import deque


class State(enum.Enum):
    """How entries go to a follower.

    PROBE: where its log agrees with ours is not known; one message at a time.
    PIPELINE: it follows; messages go out without waiting for answers, up to the window.
    SNAPSHOT: our log no longer reaches back to where it is; it gets a snapshot first, and no entries.
    """

    PROBE = "probe"
    PIPELINE = "pipeline"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower. `match`: its durable log is ours up to here; `next`: the entry to send next. Always next > match.

    `asked` (PROBE only): a probe is on its way, so wait. `reading`: entries for it are being read from the
    store. `snapshot_index` (SNAPSHOT only): what the snapshot brings it to.
    """

    __slots__ = (
        "_in_flight",
        "_max_bytes",
        "_max_messages",
        "asked",
        "commit_sent",
        "in_flight_bytes",
        "match",
        "next",
        "reading",
        "snapshot_index",
        "state",
    )

    def __init__(self, next_index: int, max_messages: int, max_bytes: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = State.PROBE
        self.asked = False
        self.reading = False
        self.commit_sent = 0
        self.snapshot_index = 0
        self.in_flight_bytes = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    @property
    def may_send(self) -> bool:
        """There is room for a message with entries."""
        if self.reading:
            return False
        if self.state is State.PIPELINE:
            return len(self._in_flight) < self._max_messages and self.in_flight_bytes < self._max_bytes
        return self.state is State.PROBE and not self.asked

    @property
    def in_flight(self) -> int:
        """Messages with entries that are not acknowledged yet."""
        return len(self._in_flight)

    def sent(self, last_index: int, size: int) -> None:
        """Entries up to `last_index` have gone out, `size` bytes."""
        if self.state is State.PIPELINE:
            self._in_flight.append((last_index, size))
            self.in_flight_bytes += size
            self.next = last_index + 1
        else:
            self.asked = True

    def acknowledged(self, match: int) -> bool:
        """The follower holds everything up to `match`. True when that is news; an old answer moves nothing back."""
        if match <= self.match:
            return False
        self.match = match
        if self.next <= match:
            self.next = match + 1
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= match:
            self.in_flight_bytes -= in_flight.popleft()[1]
        return True

    def pipeline(self) -> None:
        """The follower's log agrees up to `match`: send ahead from there."""
        self._forget_in_flight()
        self.state = State.PIPELINE
        self.next = self.match + 1

    def probe(self, next_index: int) -> None:
        """Where the logs agree is in doubt: ask with one message at a time, from `next_index`."""
        self._forget_in_flight()
        self.state = State.PROBE
        self.next = max(next_index, self.match + 1)
        self.asked = False

    def snapshot(self, index: int) -> None:
        """Send no entries until the snapshot that ends at `index` is installed or given up."""
        self._forget_in_flight()
        self.state = State.SNAPSHOT
        self.snapshot_index = index

    def _forget_in_flight(self) -> None:
        self._in_flight.clear()
        self.in_flight_bytes = 0

"""The contract of a state machine: the application's state, driven by the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from raftcore.types import Entries, LogId, SnapshotMeta


class StateMachine(Protocol):
    """The application's state. The same entries in the same order must give the same state and the same
    answers everywhere.

    Calls. `open`, `apply`, `snapshot` and `restore` are never called two at once, and a query that the application
    makes through `Node.query` runs between them, never beside one. When `blocking` is True they run in one thread
    that belongs to this state machine. When it is False, `open`, `apply` and `snapshot` are called on the
    event loop and must return quickly; `restore` may take long and always runs in a thread. The iterator that
    `snapshot` returned is consumed in another thread *while* later `apply` calls go on.

    Determinism. `apply` must not look at a clock, a random source, the node's name, or anything else outside
    the entries and the state. A bad command is answered (with whatever bytes say "refused"), not raised: an
    exception from `apply` stops the node, since it is then unknown how much of the run took effect.

    Three kinds are legal.
    *Volatile*: `open` returns None and the state is rebuilt from the newest snapshot and the log behind it.
    *Durable*: `apply` stores the state together with the id of the last entry of the run in one atomic step, and `open`
    returns that id. It need not be durable when `apply` returns, but after a crash the two must agree.
    *Handle only*: the data live in another system, which stores the last applied id with them; `open` returns it.
    """

    blocking: bool

    def open(self) -> LogId | None:
        """The last entry that the state contains, or None for a volatile state machine."""
        ...

    def apply(self, run: Entries) -> Sequence[bytes | None]:
        """Apply a run of `NORMAL` entries, in order; one answer for each payload.

        Runs arrive in order and never overlap; indexes between two runs belong to entries that are not the
        application's. Only committed entries that are durable on this node arrive here.
        """
        ...

    def snapshot(self) -> Iterator[bytes]:
        """A consistent view of the state as it is now, as chunks of bytes (64 KiB to 1 MiB each is a good size).

        Return quickly (copy a reference, take a read transaction); the work belongs in the iterator. What the
        iterator yields must not change when later entries are applied. It is closed when it is no longer needed.
        """
        ...

    def restore(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by a snapshot's. The chunks' borders are not those of `snapshot`.

        The stream has been verified before its last chunk is handed over; an error before that must leave the old state
        in place. A durable state machine stores `meta.last` as its last applied id.
        """
        ...

    def close(self) -> None:
        """Release everything. Called once, also after a failure."""
        ...

"""What the tests of the backends share: runs, stores, and a limit to what may be written."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from raftcore.contracts import LogStore, SnapshotSink
from raftcore.types import NO_MEMBERSHIP, Entries, EntryKind, LeaderId, LogId, Membership, SnapshotMeta

_LAST = LogId(LeaderId(1, "n1"), 7)


def _run(first: int, *payloads: bytes, term: int = 1, node: str = "n1") -> Entries:
    return Entries(LeaderId(term, node), first, EntryKind.NORMAL, list(payloads))


def _stored(log: LogStore, start: int, stop: int) -> list[tuple[int, int, bytes]]:
    """The (index, term, payload) of every entry that the store gives for start <= index < stop, read to the end."""
    found: list[tuple[int, int, bytes]] = []
    while start < stop and (runs := log.read(start, stop, 20_000)):
        for run in runs:
            assert start == run.first_index
            found += [(entry.log_id.index, entry.log_id.leader.term, entry.payload) for entry in run]
            start = run.last_index + 1
    return found


@pytest.fixture
def run() -> Callable[..., Entries]:
    """Make a run: its first index, its payloads, and `term` and `node` of its leader."""
    return _run


@pytest.fixture
def stored() -> Callable[[LogStore, int, int], list[tuple[int, int, bytes]]]:
    """Read (index, term, payload) of all entries between two indexes."""
    return _stored


@pytest.fixture
def largest_file() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which no file can grow beyond so many bytes: a disk that is full, as far as the caller can tell."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def flipped() -> Callable[[Path, int], None]:
    """Flip one bit of the byte at an offset of a file."""

    def flip(path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << offset % 8]))

    return flip


@pytest.fixture
def save() -> Callable[..., SnapshotMeta]:
    """Save a snapshot: the sink, its id and its bytes; what `list` then shows of it."""

    def save(
        sink: SnapshotSink,
        id: str,
        data: bytes,
        *,
        last: LogId = _LAST,
        membership: Membership = NO_MEMBERSHIP,
        chunk: int = 65536,
    ) -> SnapshotMeta:
        writer = sink.begin(SnapshotMeta(id, last, membership, LogId(LeaderId(1, "n1"), 1)))
        for at in range(0, len(data), chunk):
            writer.write(data[at : at + chunk])
        digest = hashlib.sha256(data).hexdigest()
        meta = SnapshotMeta(id, last, membership, LogId(LeaderId(1, "n1"), 1), len(data), digest)
        writer.commit(meta)
        return meta

    return save

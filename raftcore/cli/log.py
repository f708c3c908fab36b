"""``log``: what a node's log store holds, while the node does not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from raftcore.cli.output import as_json, print_fields, print_json
from raftcore.cli.stored import stored, stored_argument
from raftcore.contracts import LogState, LogStore
from raftcore.errors import CorruptData
from raftcore.types import Entries, EntryKind
from raftcore.wire import decode_membership

READ_BYTES = 1024 * 1024
PREVIEW_BYTES = 60


@click.group(no_args_is_help=False)
def log() -> None:
    """Look into the log of a node that does not run."""


@log.command()
@stored_argument
@click.option("--start", type=click.IntRange(min=1), default=1, help="Begin at this index. Default: the oldest entry.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many entries. Default: all.")
@as_json
def dump(where: Path, start: int, limit: int | None, json: bool) -> None:
    """Print the entries in the data directory (or of the configuration) DIR_OR_FILE, one a line.

    With --json, one JSON object a line.
    """
    with _opened(where) as (store, state):
        left = limit if limit is not None else state.last.index
        for run in _runs(store, state, start):
            for index, payload in enumerate(run.payloads, run.first_index):
                if left <= 0:
                    return
                left -= 1
                click.echo(_json_line(run, index, payload) if json else _line(run, index, payload))


@log.command()
@stored_argument
@as_json
def verify(where: Path, json: bool) -> None:
    """Read and check the whole log in the data directory (or of the configuration) DIR_OR_FILE.

    Exits with 1 on damage.

    These are the checks of a node's start: as there, an unfinished write at the end that was never acknowledged
    is dropped.
    """
    with _opened(where) as (store, state):
        entries, last = 0, state.purged
        for run in _runs(store, state, 1):
            if run.leader < last.leader:
                raise CorruptData(f"entry {run.first_index} is of {run.leader}, behind an entry of {last.leader}")
            entries, last = entries + len(run), run.last_id
        if last != state.last:
            raise CorruptData(f"the log ends with {last} when it is read, but the store says {state.last}")
    facts = {
        "entries": entries,
        "first": state.purged.index + 1 if entries else 0,
        "last": state.last.index,
        "last_term": state.last.leader.term,
        "purged": state.purged.index,
        "committed": state.committed,
        "vote_term": state.vote.leader.term,
        "vote_node": state.vote.leader.node,
        "vote_committed": state.vote.committed,
    }
    if json:
        print_json(facts)
    else:
        click.echo(f"{where}: good")
        print_fields(facts)


@contextmanager
def _opened(where: Path) -> Iterator[tuple[LogStore, LogState]]:
    with stored(where) as found:
        file = found.file_of(found.log_store)
        if file is not None and not file.exists() and not file.with_name(f"{file.name}-acked").exists():
            raise click.ClickException(f"{file}: there is no log; the node has not written any")
        store = found.log_store.build(found.context)
        try:
            yield store, store.open()
        finally:
            store.close()


def _runs(store: LogStore, state: LogState, start: int) -> Iterator[Entries]:
    following = max(start, state.purged.index + 1)
    while following <= state.last.index:
        runs = store.read(following, state.last.index + 1, READ_BYTES)
        if not runs or runs[0].first_index != following:
            raise CorruptData(f"entry {following} is missing")
        yield from runs
        following = runs[-1].last_index + 1


def _line(run: Entries, index: int, payload: bytes) -> str:
    leader, kind = f"term {run.leader.term} by {run.leader.node}", run.kind.name.lower()
    return f"{index:>10}  {leader}  {kind:<10}  {len(payload):>8} B  {_text(run, payload)}"


def _text(run: Entries, payload: bytes) -> str:
    """A payload in readable characters: a membership in full, of others the beginning."""
    if run.kind is EntryKind.MEMBERSHIP:
        return _membership(payload)
    text = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in payload[:PREVIEW_BYTES])
    return f"{text}…" if len(payload) > PREVIEW_BYTES else text


def _membership(payload: bytes) -> str:
    membership = decode_membership(payload)
    voters = " and ".join(",".join(group) for group in membership.voters)
    return f"voters {voters} learners {','.join(membership.learners) or 'none'}"


def _json_line(run: Entries, index: int, payload: bytes) -> str:
    """The payload itself is base64, as msgspec writes bytes."""
    entry = {
        "index": index,
        "term": run.leader.term,
        "leader": run.leader.node,
        "kind": run.kind.name.lower(),
        "payload_base64": payload,
    }
    return msgspec.json.encode(entry).decode()

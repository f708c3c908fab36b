"""``snapshot``: the snapshots that a node has kept, while it does not run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from raftcore.cli.output import as_json, print_fields, print_json, print_table
from raftcore.cli.stored import stored, stored_argument
from raftcore.contracts import SnapshotSink
from raftcore.errors import CorruptData
from raftcore.types import SnapshotMeta


@click.group(no_args_is_help=False)
def snapshot() -> None:
    """Look at the snapshots of a node that does not run."""


@snapshot.command("list")
@stored_argument
@as_json
def list_snapshots(where: Path, json: bool) -> None:
    """The snapshots in the data directory (or of the configuration) DIR_OR_FILE, newest first."""
    with _opened(where) as sink:
        found = [_facts(meta) for meta in sink.list()]
    if json:
        print_json(found)
    else:
        columns = ("id", "index", "term", "bytes")
        print_table([name.upper() for name in columns], [[facts[name] for name in columns] for facts in found])


@snapshot.command()
@stored_argument
@click.argument("id", required=False)
@as_json
def inspect(where: Path, id: str | None, json: bool) -> None:
    """Show one snapshot (default: the newest) and read it whole, to check it. Exits with 1 on damage."""
    with _opened(where) as sink:
        metas = sink.list()
        meta = next((meta for meta in metas if id in (None, meta.id)), None)
        if meta is None:
            wanted = f"no snapshot '{id}'" if id else "no snapshot"
            raise click.ClickException(f"{where}: there is {wanted}; `raftcore snapshot list` shows what there is")
        _verify(sink, meta)
    facts = _facts(meta)
    if json:
        print_json(facts)
    else:
        print_fields({**facts, "voters": _listed(facts["voters"]), "learners": ", ".join(facts["learners"]) or "none"})
        click.echo(f"{meta.id}: good")


@contextmanager
def _opened(where: Path) -> Iterator[SnapshotSink]:
    with stored(where) as found:
        sink = found.snapshot_sink.build(found.context)
        directory = found.file_of(found.snapshot_sink)
        if directory is None:
            sink.start()
        elif not directory.is_dir():
            raise click.ClickException(f"{directory}: there is no such directory; the node has kept no snapshot yet")
        # A directory needs no start, which would remove half-written snapshots: looking changes nothing.
        try:
            yield sink
        finally:
            sink.close()


def _verify(sink: SnapshotSink, meta: SnapshotMeta) -> None:
    digest, size = hashlib.sha256(), 0
    for chunk in sink.open(meta.id):
        digest.update(chunk)
        size += len(chunk)
    if (size, digest.hexdigest()) != (meta.size, meta.digest):
        raise CorruptData(
            f"snapshot {meta.id}: {size} bytes with SHA-256 {digest.hexdigest()}, its manifest says {meta.size} "
            f"bytes with {meta.digest}"
        )


def _facts(meta: SnapshotMeta) -> dict[str, Any]:
    return {
        "id": meta.id,
        "index": meta.last.index,
        "term": meta.last.leader.term,
        "bytes": meta.size,
        "sha256": meta.digest,
        "voters": meta.membership.voters,
        "learners": meta.membership.learners,
    }


def _listed(groups: tuple[tuple[str, ...], ...]) -> str:
    return " and ".join(", ".join(group) for group in groups)

"""A node's data while the node does not run: what ``log`` and ``snapshot`` look into."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from raftcore.config import Config
from raftcore.errors import StorageInUse
from raftcore.node.identity import DataDirectory, Identity
from raftcore.plugins import LOG_STORE, SNAPSHOT_SINK, BuildContext, Choice, Registry

if TYPE_CHECKING:
    from raftcore.contracts import LogStore, SnapshotSink

stored_argument = click.argument("where", metavar="DIR_OR_FILE", type=click.Path(exists=True, path_type=Path))


class Stored:
    """What one node has on disk, and the backends that can read it. Nothing is open."""

    def __init__(self, context: BuildContext, log_store: Choice[LogStore], snapshot_sink: Choice[SnapshotSink]) -> None:
        self.context = context
        self.log_store = log_store
        self.snapshot_sink = snapshot_sink

    def file_of(self, choice: Choice[LogStore] | Choice[SnapshotSink]) -> Path | None:
        """Where a built-in backend keeps its data; None for one that keeps them elsewhere."""
        path = getattr(choice.options, "path", None)
        return self.context.path(path) if path is not None else None


@contextmanager
def stored(where: Path) -> Iterator[Stored]:
    """The data of the node whose directory `where` is, or which the configuration `where` describes.

    The directory stays locked meanwhile. Raises `StorageInUse` while a node runs on it, and what `Config.load` does.
    """
    if where.is_dir():
        identity = _identity(where)
        registry = Registry()
        context = BuildContext(identity.node, identity.cluster, "", where)
        found = Stored(context, registry.choose(LOG_STORE, "sqlite"), registry.choose(SNAPSHOT_SINK, "directory"))
    else:
        config = Config.load(where)
        identity = _identity(config.data_dir)
        found = Stored(config.context, config.log_store, config.snapshot_sink)
    directory = DataDirectory(found.context.data_dir)
    try:
        directory.open(found.context.cluster, found.context.node, random.Random())
    except StorageInUse as error:
        raise StorageInUse(f"{error} (of a running node, `raftcore status` shows the state)") from None
    try:
        yield found
    finally:
        directory.close()


def _identity(directory: Path) -> Identity:
    """Whose directory this is. One that no node has used yet is refused: looking must not create anything."""
    file = directory / "identity.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Identity)
    except FileNotFoundError:
        raise click.ClickException(
            f"{directory}: not the data directory of a node (it has no {file.name}); name one, or a configuration"
        ) from None
    except msgspec.MsgspecError as error:
        raise click.ClickException(f"{file}: {error}; restore it from a backup") from None

"""Whose a data directory is. It belongs to one node of one cluster, and to one process at a time.

``identity.json`` holds ``{"format": 1, "cluster": …, "node": …, "incarnation": …}`` and is written once,
before anything else. The *incarnation* is a random name of this disk. The cluster remembers the first one
that a member showed, so a member that comes back with an empty disk, having forgotten its vote and its
acknowledgements, is refused instead of being believed.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from raftcore.errors import ConfigError, CorruptData, IdentityError, StorageInUse

if TYPE_CHECKING:
    import random


class Identity(msgspec.Struct, frozen=True):
    """The content of ``identity.json``."""

    cluster: str
    node: str
    incarnation: str
    format: int = 1


class DataDirectory:
    """A node's directory, locked for this process from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def open(self, cluster: str, node: str, rng: random.Random) -> Identity:
        """Create or enter the directory. Raises `ConfigError` (can't be written), `StorageInUse`,
        `IdentityError`, `CorruptData`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _sync_directory(self.path.parent)  # or a power loss may take the whole directory, with all that it promised
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(
                f"node.data_dir: {self.path} can't be written: {error.strerror}; choose another directory or change "
                "its rights"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise StorageInUse(
                f"data directory {self.path} is in use by another process; stop it, or give this node a directory of "
                "its own"
            ) from None
        try:
            return self._identify(cluster, node, rng)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _identify(self, cluster: str, node: str, rng: random.Random) -> Identity:
        file = self.path / "identity.json"
        if not file.exists():
            identity = Identity(cluster, node, f"{rng.getrandbits(64):016x}")
            self._write(file, identity)
            return identity
        try:
            identity = msgspec.json.decode(file.read_bytes(), type=Identity)
        except msgspec.MsgspecError as error:
            raise CorruptData(
                f"{file}: {error}; restore this file from a copy, or remove this member from the cluster and add it "
                "anew with an empty directory"
            ) from None
        if identity.cluster != cluster:
            raise IdentityError(
                f"data directory {self.path} belongs to cluster {identity.cluster!r}, not to {cluster!r}; correct "
                "cluster.name or node.data_dir"
            )
        if identity.node != node:
            raise IdentityError(
                f"data directory {self.path} belongs to node {identity.node!r}, not to {node!r}; correct node.id or "
                "node.data_dir"
            )
        return identity

    def _write(self, file: Path, identity: Identity) -> None:
        draft = file.with_suffix(".tmp")
        with draft.open("wb") as stream:
            stream.write(msgspec.json.encode(identity))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
        _sync_directory(self.path)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

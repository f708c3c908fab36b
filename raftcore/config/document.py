"""The tables of the configuration file, one record each.

`[raft]` is `raftcore.engine.settings.RaftSettings` and `[limits]` is `raftcore.node.settings.Limits`; what an
`options` table holds is up to the backend that stands beside it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from raftcore.engine.settings import RaftSettings
from raftcore.node.settings import Limits, SnapshotPolicy

Positive = Annotated[int, Meta(ge=1)]


class NodeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[node]`: which member this is, and where it lives."""

    id: str
    """This member's name, never used again for a different disk."""

    data_dir: str
    """The directory of this member's data; a relative path counts from the directory of the file."""

    address: str | None = None
    """Where to listen, as host:port. Default: this member's address in `[cluster.members]`."""


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[cluster]`: what all members share."""

    name: str
    """Nodes of clusters with different names refuse each other."""

    members: dict[str, str] = {}
    """The first members, id to host:port. Used once, to begin the cluster; later changes go through the cluster
    itself."""


class LogStoreTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[log_store]`."""

    backend: str = "sqlite"
    options: dict[str, Any] = {}


class TransportTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[transport]`."""

    backend: str = "tcp"
    options: dict[str, Any] = {}


class StateMachineTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[state_machine]`; `backend` may be an import string, ``my_package.module:MyStateMachine``."""

    backend: str = "kv"
    options: dict[str, Any] = {}


class SnapshotsTable(SnapshotPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[snapshots]`: where they are kept, when they are taken, how many stay."""

    backend: str = "directory"
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def policy(self) -> SnapshotPolicy:
        return SnapshotPolicy(**{name: getattr(self, name) for name in SnapshotPolicy.__struct_fields__})


class ObserverTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the tables `[[observers]]`."""

    backend: str
    options: dict[str, Any] = {}


class PluginsTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[plugins]`."""

    disable: list[str] = []
    """Names of entry points or distributions that are not to be loaded."""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[http]`: the node's face for people and monitoring."""

    address: str | None = None
    """Where to serve HTTP, as host:port; nothing is served without it."""

    max_body_bytes: Positive = 1024 * 1024
    """The largest body of a request; a larger one is refused before it is read."""

    max_key_bytes: Positive = 4096
    """The longest key, as bytes of UTF-8."""

    request_timeout_ms: Positive = 15_000
    """A request that has no answer by then ends with an error that says whether it may have happened."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    node: NodeTable
    cluster: ClusterTable
    raft: RaftSettings = RaftSettings()
    limits: Limits = Limits()
    log_store: LogStoreTable = LogStoreTable()
    transport: TransportTable = TransportTable()
    state_machine: StateMachineTable = StateMachineTable()
    snapshots: SnapshotsTable = SnapshotsTable()
    observers: list[ObserverTable] = []
    plugins: PluginsTable = PluginsTable()
    http: HttpSettings = HttpSettings()

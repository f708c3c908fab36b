"""The configuration of a node: TOML, checked whole before anything is opened.

    from raftcore.config import Config

    config = Config.load("node.toml")
    store = config.build(config.log_store)

A value on the command line counts before one in the environment, that before the file, and the file before the
default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from raftcore.config.document import Document, HttpSettings
from raftcore.config.schema import schema
from raftcore.config.sources import Sources
from raftcore.contracts import LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.engine.settings import RaftSettings
from raftcore.errors import PluginError
from raftcore.node import Limits, Node, SnapshotPolicy
from raftcore.plugins import (
    LOG_STORE,
    OBSERVER,
    SNAPSHOT_SINK,
    STATE_MACHINE,
    TRANSPORT,
    BuildContext,
    Choice,
    Kind,
    Registry,
    Secret,
)
from raftcore.plugins.options import Key, dotted
from raftcore.types import NodeId

__all__ = ["Config", "HttpSettings", "Setting", "schema"]

Built = TypeVar("Built")

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):(\d{1,5})")


@dataclass(frozen=True)
class Setting:
    """One line of `raftcore config show`: a dotted key, its value (a secret's is masked) and the source that
    set it."""

    key: str
    value: object
    source: str


@dataclass(frozen=True)
class Config:
    """Everything that a node needs to know. Made by `load`; nothing is open."""

    path: Path
    id: NodeId
    data_dir: Path
    address: str
    cluster: str
    members: Mapping[NodeId, str]
    raft: RaftSettings
    limits: Limits
    log_store: Choice[LogStore]
    transport: Choice[Transport]
    state_machine: Choice[StateMachine]
    snapshots: SnapshotPolicy
    snapshot_sink: Choice[SnapshotSink]
    observers: tuple[Choice[Observer], ...]
    http: HttpSettings
    registry: Registry
    settings: tuple[Setting, ...]

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        overrides: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
        registry: Registry | None = None,
    ) -> Config:
        """Read and check a configuration, the options of its backends included. Opens nothing but the file and
        secrets.

        `overrides` maps dotted keys to values, as the command line gives them; `environ` is the process's own
        when it is not given. A `registry` that is handed in has decided itself which plugins to load, and
        `[plugins]` is then without effect. Raises `ConfigError`, or `PluginError` where a backend is to blame;
        the message begins with the file (or the variable, or the command line) and the dotted key.
        """
        sources = Sources(Path(path), os.environ if environ is None else environ, overrides or {})
        document = sources.fit(sources.tree, Document)
        _check_members(sources, document)
        plugins = registry or Registry(disable=document.plugins.disable)
        options: dict[tuple[Key, ...], msgspec.Struct] = {}

        def choose(kind: Kind[Built], name: str, raw: Mapping[str, object], *table: Key) -> Choice[Built]:
            try:
                backend = plugins.backend(kind, name)
            except PluginError as error:
                raise PluginError(f"{sources.place((*table, 'backend'))}: {error}") from error
            place = (*table, "options")
            options[place] = sources.fit(raw, backend.options, place)
            return Choice(kind, backend, options[place])

        log_store, transport, machine = document.log_store, document.transport, document.state_machine
        snapshots = document.snapshots
        return cls(
            path=Path(path),
            id=document.node.id,
            data_dir=sources.directory / Path(document.node.data_dir).expanduser(),
            address=document.node.address or document.cluster.members[document.node.id],
            cluster=document.cluster.name,
            members=document.cluster.members,
            raft=document.raft,
            limits=document.limits,
            log_store=choose(LOG_STORE, log_store.backend, log_store.options, "log_store"),
            transport=choose(TRANSPORT, transport.backend, transport.options, "transport"),
            state_machine=choose(STATE_MACHINE, machine.backend, machine.options, "state_machine"),
            snapshots=snapshots.policy,
            snapshot_sink=choose(SNAPSHOT_SINK, snapshots.backend, snapshots.options, "snapshots"),
            observers=tuple(
                choose(OBSERVER, observer.backend, observer.options, "observers", position)
                for position, observer in enumerate(document.observers)
            ),
            http=document.http,
            registry=plugins,
            settings=tuple(_settings(sources, document, options)),
        )

    @property
    def context(self) -> BuildContext:
        """What backends are told of this node."""
        return BuildContext(node=self.id, cluster=self.cluster, address=self.address, data_dir=self.data_dir)

    def make_node(self) -> Node:
        """The node that this describes, not started. Raises `PluginError` when a backend's driver is missing."""
        return Node(
            self.id,
            cluster=self.cluster,
            log_store=self.build(self.log_store),
            state_machine=self.build(self.state_machine),
            transport=self.build(self.transport),
            snapshots=self.build(self.snapshot_sink),
            address=self.address,
            members=self.members,
            data_dir=self.data_dir,
            raft=self.raft,
            limits=self.limits,
            snapshot_policy=self.snapshots,
            observers=[self.build(observer) for observer in self.observers],
        )

    def build(self, choice: Choice[Built]) -> Built:
        """Make what was chosen: `config.build(config.log_store)`. Raises `PluginError` when its driver is missing."""
        return choice.build(self.context)


def _check_members(sources: Sources, document: Document) -> None:
    """Ids and addresses: of this node, of the first members, and of HTTP."""
    node, members = document.node, document.cluster.members
    _check_id(sources, node.id, "node", "id")
    if node.address is not None:
        _check_address(sources, node.address, "node", "address")
    elif node.id not in members:
        problem = f"missing; set it, or add '{node.id}' with its address to cluster.members"
        raise sources.error(("node", "address"), problem)
    owners: dict[str, NodeId] = {}
    for member, address in members.items():
        place = ("cluster", "members", member)
        _check_id(sources, member, *place)
        _check_address(sources, address, *place)
        if address in owners:
            raise sources.error(place, f"'{address}' is the address of '{owners[address]}' too; give each its own")
        owners[address] = member
    if document.http.address is not None:
        _check_address(sources, document.http.address, "http", "address")


def _check_id(sources: Sources, name: str, *place: Key) -> None:
    if not _NODE_ID.fullmatch(name):
        raise sources.error(place, f"'{name}' is not a node id; use up to 64 letters, digits, '.', '_' and '-'")


def _check_address(sources: Sources, address: str, *place: Key) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > 65535:
        raise sources.error(place, f"'{address}' is not an address; write host:port, such as 127.0.0.1:7101")


def _settings(
    sources: Sources, document: Document, options: Mapping[tuple[Key, ...], msgspec.Struct]
) -> Iterator[Setting]:
    """Every setting in force, in the order of the document, and where it comes from."""

    def leaves(path: tuple[Key, ...], value: object) -> Iterator[Setting]:
        value = options.get(path, value)
        inner: Any
        if isinstance(value, msgspec.Struct):
            inner = [(name, getattr(value, name)) for name in value.__struct_fields__]
        elif isinstance(value, dict):
            inner = value.items()
        elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
            inner = enumerate(value)
        else:
            shown = str(value) if isinstance(value, Secret) else value
            yield Setting(dotted(path), shown, sources.origin(path) or "default")
            return
        for key, held in inner:
            yield from leaves((*path, key), held)

    return leaves((), document)

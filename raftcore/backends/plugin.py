"""What comes with raftcore, by name: a plugin like any other, except that it is always there."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from raftcore.backends.tcp_options import TcpOptions
from raftcore.contracts import Event, LogStore, Observer, SnapshotSink, StateMachine, Transport
from raftcore.plugins.backend import Backend, BuildContext, NoOptions
from raftcore.plugins.hookspecs import hookimpl

_events = logging.getLogger("raftcore.events")


class SqliteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the log store ``sqlite``."""

    path: str = "log.sqlite"
    """The database file; its companions get the same name with an ending."""


class DirectoryOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the snapshot sink ``directory``."""

    path: str = "snapshots"
    """The directory; nothing else may be kept in it."""


def _memory_log(_options: NoOptions, _context: BuildContext) -> LogStore:
    from raftcore.backends.memory_log import MemoryLog

    return MemoryLog()


def _sqlite_log(options: SqliteOptions, context: BuildContext) -> LogStore:
    from raftcore.backends.sqlite_log import SqliteLog

    return SqliteLog(context.path(options.path))


def _memory_transport(_options: NoOptions, _context: BuildContext) -> Transport:
    from raftcore.backends.memory_transport import Hub, MemoryTransport

    return MemoryTransport(Hub())


def _tcp(options: TcpOptions, context: BuildContext) -> Transport:
    from raftcore.backends.tcp import TcpTransport

    return TcpTransport(options, context.address, directory=context.data_dir)


def _memory_snapshots(_options: NoOptions, _context: BuildContext) -> SnapshotSink:
    from raftcore.backends.memory_snapshots import MemorySnapshots

    return MemorySnapshots()


def _directory(options: DirectoryOptions, context: BuildContext) -> SnapshotSink:
    from raftcore.backends.directory import DirectorySnapshots

    return DirectorySnapshots(context.path(options.path))


def _key_value(_options: NoOptions, _context: BuildContext) -> StateMachine:
    from raftcore.backends.kv import KeyValue

    return KeyValue()


class LogObserver:
    """Writes every event to the logger ``raftcore.events``: what needs an operator as a warning, the rest as info."""

    _WARNINGS = frozenset({"peer_refused", "storage_stalled", "stopped"})

    def notify(self, event: Event) -> None:
        level = logging.WARNING if event.name in self._WARNINGS else logging.INFO
        detail = " ".join(f"{key}={value}" for key, value in event.detail.items())
        _events.log(level, "node %s: %s %s", event.node, event.name, detail)


def _log_observer(_options: NoOptions, _context: BuildContext) -> Observer:
    return LogObserver()


@hookimpl
def raftcore_log_stores() -> list[Backend[Any, LogStore]]:
    """``memory`` and ``sqlite``."""
    return [
        Backend("memory", NoOptions, _memory_log, "in memory, for tests: a restart forgets the log and the vote"),
        Backend("sqlite", SqliteOptions, _sqlite_log, "an SQLite file, flushed with every batch"),
    ]


@hookimpl
def raftcore_transports() -> list[Backend[Any, Transport]]:
    """``memory`` and ``tcp``."""
    return [
        Backend("memory", NoOptions, _memory_transport, "none: for a cluster of one node"),
        Backend("tcp", TcpOptions, _tcp, "TCP, with TLS where it is configured"),
    ]


@hookimpl
def raftcore_snapshot_sinks() -> list[Backend[Any, SnapshotSink]]:
    """``memory`` and ``directory``."""
    return [
        Backend("memory", NoOptions, _memory_snapshots, "in memory, for tests: a restart forgets the snapshots"),
        Backend("directory", DirectoryOptions, _directory, "files in a directory, checked by part"),
    ]


@hookimpl
def raftcore_state_machines() -> list[Backend[Any, StateMachine]]:
    """``kv``."""
    return [Backend("kv", NoOptions, _key_value, "a dictionary in memory: put, delete, compare and set")]


@hookimpl
def raftcore_observers() -> list[Backend[Any, Observer]]:
    """``log``."""
    return [Backend("log", NoOptions, _log_observer, "writes events to the logger raftcore.events")]

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from raftcore.backends import plugin
from raftcore.backends.directory import DirectorySnapshots
from raftcore.backends.kv import KeyValue
from raftcore.backends.memory_log import MemoryLog
from raftcore.backends.memory_snapshots import MemorySnapshots
from raftcore.backends.memory_transport import MemoryTransport
from raftcore.backends.sqlite_log import SqliteLog
from raftcore.backends.tcp import TcpTransport
from raftcore.contracts import Event
from raftcore.plugins.backend import BuildContext

BACKENDS = [
    *plugin.raftcore_log_stores(),
    *plugin.raftcore_transports(),
    *plugin.raftcore_snapshot_sinks(),
    *plugin.raftcore_state_machines(),
    *plugin.raftcore_observers(),
]


def test_every_backend_is_built_from_its_defaults_without_touching_anything(tmp_path: Path) -> None:
    """Opening is the node's business."""
    context = BuildContext("n1", "test", "127.0.0.1:0", tmp_path)
    built = [type(backend.build(msgspec.convert({}, backend.options), context)) for backend in BACKENDS]

    assert [
        MemoryLog,
        SqliteLog,
        MemoryTransport,
        TcpTransport,
        MemorySnapshots,
        DirectorySnapshots,
        KeyValue,
        plugin.LogObserver,
    ] == built
    assert [] == list(tmp_path.iterdir())


def test_paths_lie_in_the_data_directory(tmp_path: Path) -> None:
    """As the options name them."""
    context = BuildContext("n1", "test", "127.0.0.1:0", tmp_path / "data")
    stores = {backend.name: backend for backend in plugin.raftcore_log_stores()}
    log = stores["sqlite"].build(plugin.SqliteOptions("wal/votes.db"), context)
    log.open()
    log.close()

    assert ["votes.db", "votes.db-acked"] == sorted(file.name for file in (tmp_path / "data" / "wal").iterdir())


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: f"{backend.name} {backend.options.__name__}")
def test_unknown_options_are_refused(backend: object) -> None:
    """By every one of them."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `pth`"):
        msgspec.convert({"pth": "x"}, backend.options)


def test_the_plugin_imports_no_driver() -> None:
    """Only building does. (What measures coverage in the child may have loaded sqlite3 before.)"""
    code = (
        "import sys; before = set(sys.modules); from raftcore.backends import plugin;"
        "plugin.raftcore_log_stores(); plugin.raftcore_transports();"
        "print({'sqlite3', 'raftcore.backends.sqlite_log', 'raftcore.backends.tcp'} & (set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    assert ("set()\n", "") == (result.stdout, result.stderr)


@pytest.mark.parametrize(("name", "level"), [("leader", logging.INFO), ("storage_stalled", logging.WARNING)])
def test_the_observer_logs_every_event(caplog: pytest.LogCaptureFixture, name: str, level: int) -> None:
    """What needs an operator as a warning."""
    with caplog.at_level(logging.INFO, "raftcore.events"):
        plugin.LogObserver().notify(Event("n1", name, {"term": 3, "leader": "n2"}))

    assert [("raftcore.events", level, f"node n1: {name} term=3 leader=n2")] == caplog.record_tuples

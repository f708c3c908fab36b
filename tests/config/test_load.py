"""What a configuration that fits becomes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore.config import Config, HttpSettings, Setting
from raftcore.engine.settings import RaftSettings
from raftcore.node.settings import Limits, SnapshotPolicy
from raftcore.plugins import BuildContext, Registry

Load = Callable[..., Config]


def source(config: Config, key: str) -> str:
    """Where the value of a key comes from."""
    (setting,) = [setting for setting in config.settings if setting.key == key]
    return setting.source


# -- the file -----------------------------------------------------------------------------------------------------


def test_a_minimal_file_is_enough(load: Load, tmp_path: Path) -> None:
    """Everything but the node's identity and the cluster's has a default."""
    config = load()

    assert "n1" == config.id
    assert tmp_path / "data/n1" == config.data_dir
    assert "127.0.0.1:7101" == config.address
    assert "orders" == config.cluster
    assert {f"n{number}": f"127.0.0.1:710{number}" for number in (1, 2, 3)} == config.members
    assert (RaftSettings(), Limits(), SnapshotPolicy(), HttpSettings()) == (
        config.raft,
        config.limits,
        config.snapshots,
        config.http,
    )
    assert ["sqlite", "tcp", "kv", "directory"] == [
        choice.backend.name
        for choice in (config.log_store, config.transport, config.state_machine, config.snapshot_sink)
    ]
    assert () == config.observers


def test_the_defaults_are_backends_that_come_with_raftcore(tmp_path: Path) -> None:
    """A file that names no backend works with what is installed."""
    path = tmp_path / "node.toml"
    path.write_text('[node]\nid = "n1"\ndata_dir = "data"\naddress = "127.0.0.1:7101"\n[cluster]\nname = "orders"\n')

    config = Config.load(path, environ={})

    assert {"sqlite", "memory"} <= {backend.name for backend in config.registry.backends(config.log_store.kind)}
    assert "sqlite" == config.log_store.backend.name
    assert not (tmp_path / "data").exists()


def test_every_table_reaches_its_settings(load: Load) -> None:
    """The tables' values arrive where they are used."""
    config = load(
        """
        [raft]
        heartbeat_ms = 50
        election_timeout_ms = [500, 900]

        [limits]
        max_payload_bytes = 10

        [snapshots]
        every_entries = 7
        keep = 1

        [snapshots.options]
        path = "elsewhere"

        [state_machine]
        backend = "my_app:Counter"

        [[observers]]
        backend = "log"

        [[observers]]
        backend = "webhook"
        options = { size = 3 }

        [http]
        address = "[::1]:8080"
        max_key_bytes = 9
        """
    )

    assert RaftSettings(heartbeat_ms=50, election_timeout_ms=(500, 900)) == config.raft
    assert Limits(max_payload_bytes=10) == config.limits
    assert SnapshotPolicy(every_entries=7, keep=1) == config.snapshots
    assert "elsewhere" == config.snapshot_sink.options.path
    assert "Counter" == type(config.build(config.state_machine)).__name__
    assert ["log", "webhook"] == [choice.backend.name for choice in config.observers]
    assert 3 == config.observers[1].options.size
    assert HttpSettings(address="[::1]:8080", max_key_bytes=9) == config.http


def test_backends_are_built_with_the_context_of_the_node(load: Load, tmp_path: Path) -> None:
    """A backend learns who it is built for."""
    config = load()

    options, context = config.build(config.log_store)

    assert config.log_store.options == options
    assert BuildContext("n1", "orders", "127.0.0.1:7101", tmp_path / "data/n1") == context


def test_a_node_may_listen_elsewhere_than_its_peers_call(load: Load) -> None:
    """`node.address` counts before the address in the table of members."""
    config = load(overrides={"node.address": "0.0.0.0:7101"})

    assert "0.0.0.0:7101" == config.address
    assert "127.0.0.1:7101" == config.members["n1"]


def test_paths_count_from_the_directory_of_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    """Where the process was started makes no difference."""
    load()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = Config.load("../node.toml", environ={}, registry=registry)

    assert tmp_path / "data/n1" == config.data_dir.resolve()


def test_plugins_can_be_disabled(tmp_path: Path) -> None:
    """`[plugins] disable` decides which plugins the configuration's own registry loads."""
    path = tmp_path / "node.toml"
    path.write_text(
        '[node]\nid = "n1"\ndata_dir = "data"\naddress = "127.0.0.1:7101"\n[cluster]\nname = "orders"\n'
        '[plugins]\ndisable = ["acme"]\n'
    )

    config = Config.load(path, environ={})

    assert ("acme", "disabled") in {(row.name, row.status) for row in config.registry.rows()}


def test_the_environment_of_the_process_is_used_when_none_is_given(
    load: Load, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that says nothing gets the usual environment."""
    load()
    monkeypatch.setenv("RAFTCORE__RAFT__HEARTBEAT_MS", "77")

    assert 77 == Config.load("node.toml", registry=registry).raft.heartbeat_ms


# -- precedence ---------------------------------------------------------------------------------------------------


def test_the_command_line_counts_before_the_environment_before_the_file_before_the_default(load: Load) -> None:
    """Each source hides those below it."""
    text = "[raft]\nheartbeat_ms = 1\nmax_inflight_bytes = 1\ncache_bytes = 1\n"
    environ = {"RAFTCORE__RAFT__HEARTBEAT_MS": "2", "RAFTCORE__RAFT__MAX_INFLIGHT_BYTES": "2", "OTHER": "x"}

    config = load(text, environ=environ, overrides={"raft.heartbeat_ms": "3"})

    raft = config.raft
    assert (3, 2, 1, 64) == (
        raft.heartbeat_ms,
        raft.max_inflight_bytes,
        raft.cache_bytes,
        raft.max_inflight_messages,
    )
    assert ["command line", "environment RAFTCORE__RAFT__MAX_INFLIGHT_BYTES", "node.toml", "default"] == [
        source(config, f"raft.{name}")
        for name in ("heartbeat_ms", "max_inflight_bytes", "cache_bytes", "max_inflight_messages")
    ]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("path", "5", "5"),
        ("path", "/var/log", "/var/log"),
        ("sync", "false", False),
        ("size", "12", 12),
        ("ratio", "1", 1.0),
        ("mode", "delete", "delete"),
        ("limit", "3", 3),
        ("hosts", '["a", "b"]', ["a", "b"]),
        ("weights", "{ a = 1 }", {"a": 1}),
    ],
)
def test_a_text_is_read_as_its_field_wants_it(option: str, text: str, value: object, load: Load) -> None:
    """The environment holds texts only; the option's type says what one means."""
    config = load(environ={f"RAFTCORE__LOG_STORE__OPTIONS__{option.upper()}": text})

    assert value == getattr(config.log_store.options, option)
    assert f"environment RAFTCORE__LOG_STORE__OPTIONS__{option.upper()}" == source(
        config, "log_store.options.weights.a" if option == "weights" else f"log_store.options.{option}"
    )


def test_texts_reach_tables_inside_options(load: Load) -> None:
    """An option that is a table can be set piece by piece."""
    overrides = {"log_store.options.tls.certificate": "a.pem", "log_store.options.tls.verify": "false"}

    tls = load(overrides=overrides).log_store.options.tls

    assert ("a.pem", False) == (tls.certificate, tls.verify)


def test_a_list_of_tables_can_be_set_as_a_whole(load: Load) -> None:
    """What is no plain value is written as in the file."""
    config = load(environ={"RAFTCORE__OBSERVERS": '[{ backend = "webhook", options = { size = 2 } }]'})

    assert 2 == config.observers[0].options.size
    assert "environment RAFTCORE__OBSERVERS" == source(config, "observers[0].options.size")


def test_a_table_can_be_set_as_a_whole(load: Load) -> None:
    """A member whose id has capitals is out of reach of the name of a variable, but not of its value."""
    config = load(
        "[raft]\nheartbeat_ms = 1\n",
        environ={"RAFTCORE__CLUSTER__MEMBERS": '{ n1 = "127.0.0.1:1", N2 = "127.0.0.1:2" }'},
    )

    assert {"n1": "127.0.0.1:1", "N2": "127.0.0.1:2"} == config.members
    assert {"environment RAFTCORE__CLUSTER__MEMBERS"} == {
        source(config, f"cluster.members.{member}") for member in ("n1", "N2")
    }


def test_a_member_is_set_by_its_id(load: Load) -> None:
    """The rest of the table stays."""
    config = load(environ={"RAFTCORE__CLUSTER__MEMBERS__N2": "127.0.0.1:9"})

    assert ("127.0.0.1:7101", "127.0.0.1:9") == (config.members["n1"], config.members["n2"])


# -- showing ------------------------------------------------------------------------------------------------------


def test_settings_show_every_value_in_force(load: Load) -> None:
    """Values of the file, of backends' options and defaults stand there alike, each once."""
    config = load('[[observers]]\nbackend = "webhook"\n')

    assert {
        Setting("node.id", "n1", "node.toml"),
        Setting("cluster.members.n2", "127.0.0.1:7102", "node.toml"),
        Setting("raft.pre_vote", True, "default"),
        Setting("log_store.backend", "sqlite", "default"),
        Setting("log_store.options.path", "log", "default"),
        Setting("snapshots.keep", 3, "default"),
        Setting("observers[0].options.mode", "wal", "default"),
        Setting("http.address", None, "default"),
    } <= {setting for setting in config.settings if setting.value.__hash__}
    keys = [setting.key for setting in config.settings]
    assert len(keys) == len(set(keys))


def test_loading_imports_no_backend_that_was_not_chosen(tmp_path: Path) -> None:
    """Checking a configuration opens nothing and loads no driver."""
    path = tmp_path / "node.toml"
    path.write_text('[node]\nid = "n1"\ndata_dir = "data"\naddress = "127.0.0.1:7101"\n[cluster]\nname = "orders"\n')
    before = set(sys.modules)

    Config.load(path, environ={})

    assert set() == (set(sys.modules) - before) & {"sqlite3", "starlette", "uvicorn", "redis", "plyvel", "boto3"}

"""Every way to get a configuration wrong, and what is said to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from raftcore import ConfigError, PluginError
from raftcore.config import Config

Load = Callable[..., Config]

NODE = '[node]\nid = "n1"\ndata_dir = "data"\n'
CLUSTER = '[cluster]\nname = "orders"\n[cluster.members]\nn1 = "127.0.0.1:7101"\n'


def refusal(load: Load, text: str = "", error: type[Exception] = ConfigError, **arguments: object) -> str:
    """What is said to a configuration that is refused."""
    with pytest.raises(error) as caught:
        load(text, **arguments)
    return str(caught.value)


# -- the file itself ----------------------------------------------------------------------------------------------


def test_a_missing_file_is_named() -> None:
    """The path is shown as it was given."""
    message = r"^no/such\.toml: there is no such file; name the configuration file to use$"
    with pytest.raises(ConfigError, match=message):
        Config.load("no/such.toml", environ={})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """The system's reason is shown."""
    with pytest.raises(ConfigError, match=r": can't be read: Is a directory; name a file that this user may read$"):
        Config.load(tmp_path, environ={})


def test_broken_toml_is_shown_with_its_line(load: Load) -> None:
    """The line and the column of the mistake are there."""
    message = refusal(load, minimal="[node]\nid = n1\n")

    assert "node.toml: not valid TOML: Invalid value (at line 2, column 6)" == message


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    path = tmp_path / "node.toml"
    path.write_bytes(b'[node]\nid = "\xe4"\n')

    with pytest.raises(ConfigError, match=r"node\.toml: not UTF-8 text \(at byte 13\); save it as UTF-8$"):
        Config.load(path, environ={})


# -- keys and types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[raft]\nheartbeet_ms = 5",
            "node.toml: raft: unknown key 'heartbeet_ms'; did you mean 'heartbeat_ms'?",
        ),
        ("[log_stor]\n", "node.toml: unknown key 'log_stor'; did you mean 'log_store'?"),
        (
            "[plugins]\nzzz = 1",
            "node.toml: plugins: unknown key 'zzz'; the keys are disable",
        ),
        (
            '[log_store.options]\npth = "x"',
            "node.toml: log_store.options: unknown key 'pth'; did you mean 'path'?",
        ),
        (
            "[transport.options]\nport = 1",
            "node.toml: transport.options: unknown key 'port'; it takes no keys",
        ),
        (
            "[log_store.options.tls]\nverify = true",
            "node.toml: log_store.options.tls.certificate: missing; it has no default, so set it",
        ),
        ("[raft]\nheartbeat_ms = 'x'", "node.toml: raft.heartbeat_ms: expected an integer, got 'x'"),
        ("[raft]\nheartbeat_ms = true", "node.toml: raft.heartbeat_ms: expected an integer, got true"),
        ("[raft]\nheartbeat_ms = 0", "node.toml: raft.heartbeat_ms: expected an integer >= 1, got 0"),
        ("[raft]\nlease_ms = 'x'", "node.toml: raft.lease_ms: expected an integer, got 'x'"),
        ("[raft]\npre_vote = 1", "node.toml: raft.pre_vote: expected true or false, got 1"),
        (
            "[raft]\nelection_timeout_ms = [1]",
            "node.toml: raft.election_timeout_ms: expected an array of length 2, got [1]",
        ),
        (
            "[raft]\nelection_timeout_ms = [1, 'x']",
            "node.toml: raft.election_timeout_ms[1]: expected an integer, got 'x'",
        ),
        (
            "[raft]\nvote_order = 'nod'",
            "node.toml: raft.vote_order: expected 'standard' or 'node', got 'nod'; did you mean 'node'?",
        ),
        (
            "[raft]\nvote_order = 'zzz'",
            "node.toml: raft.vote_order: expected 'standard' or 'node', got 'zzz'",
        ),
        (
            "[raft]\nelection_timeout_ms = [20, 10]",
            ("node.toml: raft.election_timeout_ms: [20, 10] must be a range, the lower bound first; try [20, 40]"),
        ),
        ("[snapshots]\nkeep = 0", "node.toml: snapshots.keep: expected an integer >= 1, got 0"),
        (
            "[log_store.options]\nratio = 'x'",
            "node.toml: log_store.options.ratio: expected a number, got 'x'",
        ),
        (
            "[log_store.options]\nhosts = 'x'",
            "node.toml: log_store.options.hosts: expected an array, got 'x'",
        ),
        (
            "[log_store.options]\nweights = { a = 1, b = 'x' }",
            "node.toml: log_store.options.weights.b: expected an integer, got 'x'",
        ),
        (
            "[log_store.options]\npath = { a = 1 }",
            "node.toml: log_store.options.path: expected a string, got a table",
        ),
        (
            "[[observers]]\nbackend = 'webhook'\noptions = { mode = 'wall' }",
            ("node.toml: observers[0].options.mode: expected 'wal' or 'delete', got 'wall'; did you mean 'wal'?"),
        ),
        ("[[observers]]\n", "node.toml: observers[0].backend: missing; it has no default, so set it"),
        ("[observers]\n", "node.toml: observers: expected an array, got a table"),
    ],
)
def test_what_does_not_fit_is_named_with_its_key(text: str, message: str, load: Load) -> None:
    """The file, the dotted key, the value, what was expected, and what was probably meant."""
    assert message == refusal(load, text)


def test_a_table_that_is_missing_says_what_it_holds(load: Load) -> None:
    """A file without a necessary table tells which keys to write."""
    assert "node.toml: node: missing; add the table [node] with id, data_dir" == refusal(load, minimal=CLUSTER)
    assert "node.toml: cluster: missing; add the table [cluster] with name" == refusal(load, minimal=NODE)


def test_a_value_in_place_of_a_table_is_shown(load: Load) -> None:
    """`node = 5` is not `[node]`."""
    assert "node.toml: node: expected a table, got 5" == refusal(load, minimal=f"node = 5\n{CLUSTER}")


# -- ids and addresses --------------------------------------------------------------------------------------------


def test_a_node_without_an_address_names_both_places(load: Load) -> None:
    """It can stand in either of two tables."""
    assert ("node.toml: node.address: missing; set it, or add 'n4' with its address to cluster.members") == refusal(
        load, overrides={"node.id": "n4"}
    )


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":7101", "localhost:70000", "a b:1", "http://a:1", "::1:5"]
)
def test_an_address_must_look_like_one(address: str, load: Load) -> None:
    """Members, the node and HTTP all want host:port."""
    problem = f"'{address}' is not an address; write host:port, such as 127.0.0.1:7101"

    assert f"node.toml: cluster.members.n4: {problem}" == refusal(load, f"n4 = '{address}'")
    assert f"command line: node.address: {problem}" == refusal(load, overrides={"node.address": address})
    assert f"node.toml: http.address: {problem}" == refusal(load, f"[http]\naddress = '{address}'")


@pytest.mark.parametrize("address", ["localhost:7101", "node-1.example.org:1", "10.0.0.1:65535", "[fe80::1%eth0]:7101"])
def test_names_and_both_kinds_of_ip_addresses_are_addresses(address: str, load: Load) -> None:
    """Whatever can be listened on may be written."""
    assert address == load(f"n4 = '{address}'").members["n4"]


def test_two_members_cannot_share_an_address(load: Load) -> None:
    """The second one is named, and the first."""
    assert ("node.toml: cluster.members.n4: '127.0.0.1:7102' is the address of 'n2' too; give each its own") == refusal(
        load, "n4 = '127.0.0.1:7102'"
    )


def test_an_id_has_no_blanks(load: Load) -> None:
    """Ids end up in file names and keys."""
    problem = "is not a node id; use up to 64 letters, digits, '.', '_' and '-'"

    assert f"command line: node.id: '' {problem}" == refusal(load, overrides={"node.id": ""})
    assert f"node.toml: cluster.members.n 4: 'n 4' {problem}" == refusal(load, '"n 4" = "127.0.0.1:1"')


# -- the environment and the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"environ": {"RAFTCORE__RAFT__HEARTBEAT_MS": "soon"}},
            "environment RAFTCORE__RAFT__HEARTBEAT_MS: raft.heartbeat_ms: expected an integer, got 'soon'",
        ),
        (
            {"environ": {"RAFTCORE__RAFT__HEARTBEAT_MS": "0"}},
            "environment RAFTCORE__RAFT__HEARTBEAT_MS: raft.heartbeat_ms: expected an integer >= 1, got 0",
        ),
        (
            {"environ": {"RAFTCORE__RAFT__HEARTBEET_MS": "5"}},
            (
                "environment RAFTCORE__RAFT__HEARTBEET_MS: raft: unknown key 'heartbeet_ms'; "
                "did you mean 'heartbeat_ms'?"
            ),
        ),
        (
            {"overrides": {"log_store.options.pth": "x"}},
            "command line: log_store.options: unknown key 'pth'; did you mean 'path'?",
        ),
        (
            {"overrides": {"raft.vote_order": "nod"}},
            "command line: raft.vote_order: expected 'standard' or 'node', got 'nod'; did you mean 'node'?",
        ),
        (
            {"overrides": {"node.id.x": "y"}},
            "command line: node.id.x: 'node.id' is not a table; set 'node.id' as a whole",
        ),
        (
            {"environ": {"RAFTCORE__OBSERVERS": "[]"}, "overrides": {"observers.0.backend": "log"}},
            "command line: observers.0.backend: 'observers' is not a table; set 'observers' as a whole",
        ),
    ],
)
def test_an_error_names_the_source_of_the_value(arguments: dict[str, dict[str, str]], message: str, load: Load) -> None:
    """Nobody searches the file for what the environment says."""
    assert message == refusal(load, **arguments)


# -- backends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[log_store]\nbackend = 'sqlit'",
            "node.toml: log_store.backend: unknown backend 'sqlit' (available: memory, sqlite); did you mean 'sqlite'?",
        ),
        (
            "[snapshots]\nbackend = 'd'",
            (
                "node.toml: snapshots.backend: unknown backend 'd' (available: directory); "
                "see `raftcore plugins` for what is installed"
            ),
        ),
        (
            "[state_machine]\nbackend = 'my_app:Conter'",
            "node.toml: state_machine.backend: module 'my_app' has no 'Conter'; did you mean 'Counter'?",
        ),
        (
            "[[observers]]\nbackend = 'log'\n[[observers]]\nbackend = 'lgo'",
            ("node.toml: observers[1].backend: unknown backend 'lgo' (available: log, webhook); did you mean 'log'?"),
        ),
    ],
)
def test_an_unknown_backend_is_named_with_its_key(text: str, message: str, load: Load) -> None:
    """The registry's message, behind the file and the key."""
    assert message == refusal(load, text, PluginError)


def test_a_backend_from_the_environment_is_blamed_there(load: Load) -> None:
    """The variable that named the backend is named."""
    message = refusal(load, "", PluginError, environ={"RAFTCORE__LOG_STORE__BACKEND": "sqlit"})

    assert re.match(r"environment RAFTCORE__LOG_STORE__BACKEND: log_store\.backend: unknown backend 'sqlit'", message)

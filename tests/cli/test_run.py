from __future__ import annotations

import os
import re
import signal
import socket
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_node_says_in_one_line_that_it_is_ready(processes: Callable[..., list]) -> None:
    """Node, cluster, both addresses and the directory; nothing else on standard output."""
    (node,) = processes("n1")
    node.start()
    lines = [line for line in node.log.read_text().splitlines() if line.startswith("raftcore: ")]

    assert [
        f"raftcore: node n1 of cluster test is ready: raft {node.raft}, http://{node.http}, data in {node.data}"
    ] == lines


def test_sigterm_hands_leadership_over_and_ends_well(cluster: list, leader: Callable) -> None:
    """Exit code 0, and the others have a leader at once, without an election timeout."""
    old = leader(cluster)
    others = [process for process in cluster if process is not old]
    term = old.status()["term"]
    code = old.end(signal.SIGTERM)
    roles = [process.status()["role"] for process in others]  # at once: no election timeout has passed
    new = leader(others)

    assert 0 == code
    assert "leader" in roles
    assert term + 1 == new.status()["term"]
    assert "SIGTERM: stopping" in old.log.read_text()
    assert "leadership was not handed over" not in old.log.read_text()


def test_sigint_ends_well_too(processes: Callable[..., list]) -> None:
    """As from a terminal, without a traceback."""
    (node,) = processes("n1")
    node.start()

    assert 0 == node.end(signal.SIGINT)
    assert "Traceback" not in node.log.read_text()


def test_a_second_signal_ends_at_once(cluster: list, leader: Callable) -> None:
    """Exit code 1: a leader without the others would wait for one to hand over to."""
    old = leader(cluster)
    for process in cluster:
        if process is not old:
            assert -signal.SIGKILL == process.end(signal.SIGKILL)
    old.process.send_signal(signal.SIGTERM)
    old.until(lambda: "SIGTERM: stopping" in old.log.read_text(), "it is stopping")

    assert 1 == old.end(signal.SIGTERM)
    assert "raftcore: SIGTERM again: exiting at once" in old.log.read_text()


def test_what_was_acknowledged_survives_sigkill(cluster: list) -> None:
    """All three killed at once; all three come back with it."""
    cluster[0].ask("/kv/colour", "PUT", b"red")
    for process in cluster:
        process.process.kill()
    for process in cluster:
        process.process.wait(10)
        process.start(wait=False)
    for process in cluster:
        process.until(lambda process=process: b"is ready: " in process.log.read_bytes(), "it is ready")

        assert b"red" == process.ask("/kv/colour")


def test_settings_can_be_given_with_the_command(processes: Callable[..., list]) -> None:
    """`--set` counts before the file."""
    (node,) = processes("n1")
    node.start("--set", "http.max_key_bytes=3")
    with pytest.raises(urllib.error.HTTPError, match="414"):
        node.ask("/kv/four")

    assert "max_key_bytes" not in node.file.read_text()


def _port_in_use(node, _other) -> str:
    node.taken = socket.create_server(("127.0.0.1", int(node.raft.rpartition(":")[2])))
    return rf"can't listen on {node.raft}: .*; stop what uses it"


def _http_port_in_use(node, _other) -> str:
    node.taken = socket.create_server(("127.0.0.1", int(node.http.rpartition(":")[2])))
    return rf"http\.address: can't listen on {node.http}: .*; stop what uses it"


def _not_a_directory(node, _other) -> str:
    node.data.write_text("a file")
    return rf"node\.data_dir: {node.data} can't be written: .*; choose another directory"


def _another_node(node, other) -> str:
    other.data.rename(node.data)
    return rf"data directory {node.data} belongs to node 'n0', not to 'n1'"


def _another_cluster(node, other) -> str:
    node.configure({"n1": node.raft}, f'[log_store.options]\npath = "{other.data}/log.sqlite"')
    other.data.rename(node.data)
    identity = node.data / "identity.json"
    identity.write_text(identity.read_text().replace('"n0"', '"n1"').replace('"test"', '"elsewhere"'))
    return rf"data directory {node.data} belongs to cluster 'elsewhere', not to 'test'"


def _unknown_key(node, _other) -> str:
    node.file.write_text(node.file.read_text().replace("heartbeat_ms", "hartbeat_ms"))
    return rf"{node.file}: raft: unknown key 'hartbeat_ms'; did you mean 'heartbeat_ms'\?"


def _wrong_type(node, _other) -> str:
    node.file.write_text(node.file.read_text().replace("heartbeat_ms = 50", 'heartbeat_ms = "often"'))
    return rf"{node.file}: raft\.heartbeat_ms: .*integer.*often"


def _missing_plugin(node, _other) -> str:
    node.file.write_text(node.file.read_text() + '[log_store]\nbackend = "leveldb"\n')
    return rf"{node.file}: log_store\.backend: unknown backend 'leveldb' .*pip install (--upgrade )?raftcore-leveldb"


def _no_file(node, _other) -> str:
    node.file.unlink()
    return rf"{node.file}: there is no such file"


def _not_toml(node, _other) -> str:
    node.file.write_text("[node")
    return rf"{node.file}: not valid TOML"


@pytest.mark.parametrize(
    "spoil",
    [
        _port_in_use,
        _http_port_in_use,
        _not_a_directory,
        _another_node,
        _another_cluster,
        _unknown_key,
        _wrong_type,
        _missing_plugin,
        _no_file,
        _not_toml,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_a_bad_configuration_is_one_line_and_exit_code_2(
    processes: Callable[..., list], command: Callable, spoil: Callable
) -> None:
    """No traceback: the line names what is wrong and what to do."""
    (node,) = processes("n1")
    (other,) = processes("n0")
    if spoil in (_another_node, _another_cluster):
        other.start()
        other.end()
    pattern = spoil(node, other)
    try:
        done = command("run", node.file)
    finally:
        if hasattr(node, "taken"):
            node.taken.close()

    told = [line for line in done.err.splitlines() if line.startswith("raftcore: ")]
    assert (2, 1, "") == (done.code, len(told), done.out)
    assert re.search(pattern, told[0])
    assert "Traceback" not in done.err


def test_two_processes_on_one_directory_are_refused(processes: Callable[..., list], command: Callable) -> None:
    """Exit code 1: the second says whose it is, and the first goes on."""
    (node,) = processes("n1")
    node.start()
    raft, http = (f"127.0.0.1:{port}" for port in (1, 2))  # never bound: the directory comes first
    done = command("run", node.file, "--set", f"node.address={raft}", "--set", f"http.address={http}")

    assert 1 == done.code
    assert f"raftcore: data directory {node.data} is in use by another process; stop it" in done.err
    assert "Traceback" not in done.err
    assert "n1" == node.status()["node"]


def test_a_flipped_byte_in_the_log_stops_the_start(processes: Callable[..., list], command: Callable) -> None:
    """Exit code 1, and nothing is cut off: the message names the file and what to do."""
    (node,) = processes("n1")
    node.start()
    for number in range(50):
        node.ask(f"/kv/{number}", "PUT", b"value-to-be-damaged")
    node.end()
    file = node.data / "log.sqlite"
    data = bytearray(file.read_bytes())
    data[data.index(b"value-to-be-damaged", len(data) // 2)] ^= 1
    file.write_bytes(data)
    done = command("run", node.file)
    verified = command("log", "verify", node.data)

    assert (1, 1) == (done.code, verified.code)
    for told in (done.err, verified.err):
        assert re.search(rf"raftcore: {file}: damaged: .*join again as a new member", told)
        assert "Traceback" not in told
    assert bytes(data) == file.read_bytes()


def test_a_half_written_snapshot_is_swept_away(processes: Callable[..., list]) -> None:
    """It never existed: the node starts from what did."""
    (node,) = processes("n1")
    node.start()
    node.ask("/kv/colour", "PUT", b"red")
    node.ask("/snapshot", "POST")
    node.end()
    snapshots = node.data / "snapshots"
    (data,) = snapshots.glob("*.data")
    half = snapshots / f"{data.stem}9.1.tmp"
    half.write_bytes(data.read_bytes()[:10])
    orphan = snapshots / "00000000000000000099-0000000001-n1.data"
    orphan.write_bytes(b"half")
    node.start()

    assert b"red" == node.ask("/kv/colour")
    assert not half.exists()
    assert not orphan.exists()


def test_random_bytes_on_the_port_do_no_harm_and_are_counted(processes: Callable[..., list], command: Callable) -> None:
    """The connection is closed; the status shows that somebody sent garbage."""
    (node,) = processes("n1")
    node.start()
    host, _, port = node.raft.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        stranger.sendall(b"\x00\x00\x00\x10" + os.urandom(16))
        stranger.settimeout(10)
        while stranger.recv(4096):
            pass
    shown = command("status", node.url, "--json")

    assert 0 == shown.code
    assert 1 == shown.json[0]["transport"]["bad_frames"]
    assert b"red" == (node.ask("/kv/colour", "PUT", b"red") and node.ask("/kv/colour"))


def test_a_peer_of_another_cluster_is_refused_and_counted(processes: Callable[..., list], tmp_path: Path) -> None:
    """Both say why in their logs; each goes on by itself."""
    (node,) = processes("n1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (stranger,) = processes("n2", directory=elsewhere, cluster="other")
    stranger.configure({"n2": stranger.raft, "n1": node.raft}, cluster="other")
    node.start()
    stranger.start()
    node.until(lambda: node.status()["transport"]["refused"] > 0, "the stranger is refused")

    assert "belongs to cluster 'other'" in node.log.read_text()
    assert "test" in stranger.log.read_text()
    node.ask("/kv/colour", "PUT", b"red")

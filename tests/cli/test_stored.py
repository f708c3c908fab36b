from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def stopped(processes: Callable):
    """A node that has written three keys, taken a snapshot, written a fourth, and does not run any more."""
    (node,) = processes("n1", more="[snapshots]\ntrailing_entries = 1")
    node.start()
    for key in "abc":
        node.ask(f"/kv/{key}", "PUT", b"value of " + key.encode())
    node.ask("/snapshot", "POST")
    node.ask("/kv/d", "PUT", b"\xff" * 100)
    assert 0 == node.end()
    return node


def test_a_log_is_dumped_entry_by_entry(stopped, cli: Callable) -> None:
    """From a directory and from a configuration alike, in text and in JSON."""
    text = cli("log", "dump", stopped.data)
    lines = [json.loads(line) for line in cli("log", "dump", stopped.file, "--json").out.splitlines()]
    one = cli("log", "dump", stopped.file, "--start", lines[-1]["index"], "--limit", 1)

    assert 0 == text.code
    assert len(lines) == len(text.out.splitlines())
    assert [line["index"] for line in lines] == [int(line.split()[0]) for line in text.out.splitlines()]
    assert {"index", "term", "leader", "kind", "payload_base64"} == set(lines[0])
    assert text.out.splitlines()[-1] == one.out.splitlines()[0]
    assert "·" * 20 in one.out


def test_a_good_log_is_verified(stopped, cli: Callable) -> None:
    """With what it holds."""
    text, facts = cli("log", "verify", stopped.data), cli("log", "verify", stopped.file, "--json").json

    assert (0, f"{stopped.data}: good") == (text.code, text.out.splitlines()[0])
    assert facts["last"] - facts["purged"] == facts["entries"] > 0
    assert ("n1", True) == (facts["vote_node"], facts["vote_committed"])


def test_snapshots_are_listed_and_inspected(stopped, cli: Callable) -> None:
    """The newest without an id; each is read whole."""
    (listed,) = cli("snapshot", "list", stopped.data, "--json").json
    table = cli("snapshot", "list", stopped.file)
    newest = cli("snapshot", "inspect", stopped.file, "--json")
    text = cli("snapshot", "inspect", stopped.data, listed["id"])

    assert ["ID", "INDEX", "TERM", "BYTES"] == table.out.splitlines()[0].split()
    assert listed["id"] == table.out.splitlines()[1].split()[0]
    assert listed == newest.json
    assert [["n1"]] == listed["voters"]
    assert f"{listed['id']}: good" == text.out.splitlines()[-1]


def test_a_damaged_snapshot_is_found(stopped, cli: Callable) -> None:
    """Exit code 1, and the file is named."""
    (data,) = (stopped.data / "snapshots").glob("*.data")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    done = cli("snapshot", "inspect", stopped.data)

    assert 1 == done.code
    assert f"raftcore: {data}: damaged: " in done.err


def test_looking_changes_nothing(stopped, cli: Callable) -> None:
    """A half-written snapshot stays for whoever wants to know what happened."""
    half = stopped.data / "snapshots" / "half.1.tmp"
    half.write_bytes(b"half")
    cli("snapshot", "list", stopped.data)
    cli("snapshot", "inspect", stopped.data)

    assert half.exists()


@pytest.mark.parametrize(
    "arguments", [("log", "dump"), ("log", "verify"), ("snapshot", "list"), ("snapshot", "inspect")]
)
def test_the_data_of_a_running_node_is_left_alone(
    processes: Callable, cli: Callable, arguments: tuple[str, ...]
) -> None:
    """Exit code 1, with what to ask instead."""
    (node,) = processes("n1")
    node.start()
    for where in (node.data, node.file):
        done = cli(*arguments, where)

        assert 1 == done.code
        assert "is in use by another process" in done.err
        assert "`raftcore status`" in done.err


@pytest.mark.parametrize("arguments", [("log", "verify"), ("snapshot", "list")])
def test_a_directory_that_no_node_has_used_stays_so(tmp_path: Path, cli: Callable, arguments: tuple[str, ...]) -> None:
    """Looking creates nothing."""
    done = cli(*arguments, tmp_path)

    assert 1 == done.code
    assert f"raftcore: {tmp_path}: not the data directory of a node" in done.err
    assert [] == list(tmp_path.iterdir())


def test_a_log_that_is_missing_is_not_made(stopped, cli: Callable) -> None:
    """Without a watermark either there is nothing to verify; with one, it is damage."""
    for file in stopped.data.glob("log.sqlite*"):
        if not file.name.endswith("-acked"):
            file.unlink()
    damaged = cli("log", "verify", stopped.data)
    (stopped.data / "log.sqlite-acked").unlink()
    missing = cli("log", "verify", stopped.data)

    assert (1, 1) == (damaged.code, missing.code)
    assert "missing or empty, but" in damaged.err
    assert "there is no log" in missing.err
    assert [] == list(stopped.data.glob("log.sqlite*"))


def test_without_a_snapshot_there_is_none_to_show(processes: Callable, cli: Callable) -> None:
    """An empty list; inspecting fails, for the newest and for one that is named."""
    (node,) = processes("n1")
    node.start()
    node.end()

    assert "voters n1 learners none" in cli("log", "dump", node.data, "--limit", "2").out
    assert [] == cli("snapshot", "list", node.data, "--json").json
    assert "there is no snapshot;" in cli("snapshot", "inspect", node.data).err
    assert "there is no snapshot '7';" in cli("snapshot", "inspect", node.data, "7").err

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftcore.cli.chaos.disk import LogFiles
from raftcore.cli.chaos.faults import FAULTS
from raftcore.cli.program import run
from raftcore.sim.history import History

SEED = 39
"""Begins with the kill of a leader, a pause and a partition."""


def test_a_cluster_survives_what_it_must(start: Callable[..., Any]) -> None:
    """The whole command, short: faults take place, nothing contradicts itself, and no process is left."""
    command = start("--seconds", 7, "--seed", SEED, "--clients", 4, "--json")
    code = command.wait()
    assert 0 == code, command.err.read_text() + command.out.read_text()
    result = json.loads(command.out.read_text())
    history = History.load(Path(result["history"]))

    assert (7, SEED, 3, 4) == tuple(result[name] for name in ("seconds", "seed", "nodes", "clients"))
    assert (0, [], [], True) == tuple(result[name] for name in ("anomalies", "anomaly_texts", "problems", "converged"))
    assert {kind for kinds in FAULTS.values() for kind in kinds} == set(result["faults"])
    assert all(result["faults"][kind] > 0 for kind in ("leader_kills", "pauses", "partitions"))
    assert {"ok", "failed", "unknown", "timeouts"} == set(result["operations"])
    assert result["operations"]["ok"] > 50
    assert sum(result["operations"].values()) == len(history.operations)
    assert result["elections"] >= 2
    assert 0 < result["recovery_seconds"] < 30
    assert 1 == len({(member["applied"], member["digest"]) for member in result["members"]})
    assert {} == command.nodes()


def test_a_run_leaves_history_and_timeline(start: Callable[..., Any]) -> None:
    """Every file that the result names is there, and tells of the faults and of the operations."""
    command = start("--seconds", 3, "--seed", 1, "--faults", "kill", "--json")
    assert 0 == command.wait(), command.err.read_text()
    result = json.loads(command.out.read_text())
    events = [json.loads(line) for line in Path(result["events"]).read_text().splitlines()]
    kinds = {event["kind"] for event in events}

    assert {"phase", "role", "down", "up", "invoke", "complete"} <= kinds
    assert sorted(events, key=lambda event: event["at"]) == events
    assert "<html" in Path(result["timeline"]).read_text()
    assert Path(result["edn"]).read_text().startswith("[{")
    assert {"leader_kills", "kills"} == set(result["faults"])


def test_an_answer_that_contradicts_others_is_an_anomaly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One read gets another value than it had: exit code 1, and the text of what does not fit."""
    complete, doctored = History.complete, []

    def doctor(self: History, id: int, outcome: str, value: object = None, *, time: int, error: str = "") -> None:
        asked = self.operations[id]
        fresh = (asked.f, asked.consistency, outcome) == ("read", "linearizable", "ok")
        if fresh and asked.key.startswith("register") and not doctored:
            doctored.append(asked.key)
            value = -1
        complete(self, id, outcome, value, time=time, error=error)

    monkeypatch.setattr(History, "complete", doctor)
    code = run(["chaos", "--seconds", "2", "--faults", "reset", "--seed", "1", "--dir", str(tmp_path / "chaos")])
    said = capsys.readouterr()

    assert 1 == code
    assert re.search(r"^anomalies +1$", said.out, re.MULTILINE)
    assert doctored[0] in said.out
    assert "raftcore: the chaos run failed: see" in said.err


def test_a_node_that_starts_with_a_damaged_log_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is called damage and does not keep a node from starting."""
    monkeypatch.setattr(LogFiles, "damage", lambda *_: "nothing at all")
    monkeypatch.setattr(LogFiles, "tear", lambda *_: "nothing either")
    code = run(["chaos", "--seconds", "10", "--faults", "torn", "--seed", "1", "--dir", str(tmp_path / "chaos")])
    said = capsys.readouterr().out

    assert 1 == code
    assert re.search(r"node n\d \(process \d+\) started with a damaged log \(nothing at all\)", said)
    assert re.search(r"^problems +1$", said, re.MULTILINE)
    assert re.search(r"^same state +NO$", said, re.MULTILINE)


def test_a_node_that_ends_by_itself_is_a_problem(start: Callable[..., Any]) -> None:
    """The run ends at once, says which one it was, and shows the end of its log."""
    command = start("--seconds", 50, "--faults", "reset")
    command.wait_for("8 clients")
    os.kill(command.nodes()["n2"], signal.SIGTERM)
    assert 1 == command.wait(20)
    said = command.out.read_text()

    assert re.search(r"node n2 \(process \d+\) ended by itself with exit code 0; the end of .*n2\.log", said)
    assert "SIGTERM: stopping" in said
    assert {} == command.nodes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process(start: Callable[..., Any], number: int) -> None:
    """In the middle, with faults under way; it exits with 1, and the history so far is kept."""
    command = start("--seconds", 50)
    command.wait_for("8 clients")
    assert command.nodes()
    for _ in range(3):  # the impatient change nothing
        command.process.send_signal(number)
        time.sleep(0.05)

    assert 1 == command.wait(30)
    assert "raftcore: interrupted" == command.err.read_text().splitlines()[-1]
    assert {} == command.nodes()
    assert (command.directory / "history.jsonl").exists()


def test_a_fault_that_there_is_not_is_refused(start: Callable[..., Any]) -> None:
    """Before anything is started; the message lists those that there are."""
    command = start("--faults", "kill,clock")

    assert 2 == command.wait()
    assert (
        "--faults: 'clock' is not known; write some of kill,pause,torn,partition,delay,reset" in command.err.read_text()
    )
    assert not command.directory.exists()

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raftcore.sim import node_check
from raftcore.sim.history import History
from raftcore.sim.trace import load


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    """A rule that can't hold, so that there is something to find: nobody may lead."""

    def check(self, engine, leader):
        self._fail("nobody leads", f"{leader} does")

    monkeypatch.setattr(node_check.NodeCheck, "_check_election", check)


def test_many_seeds_are_run_and_counted(command: Callable) -> None:
    """On all cores; with --json, one object that says what happened, and exit code 0."""
    done = command("sim", "run", "--seeds", "0..15", "--steps", 60, "--json")

    found = json.loads(done.out)
    assert 0 == done.code
    assert (0, [], [0, 15]) == (found["violations"], found["failures"], found["seeds"])
    assert found["cluster_hours"] > 0
    assert found["messages"] > 1000
    assert found["elections"] > 0
    assert found["operations"]["write"] > 0
    assert "bit rot" in found["faults"]


def test_a_run_is_told_to_people(command: Callable) -> None:
    """Without --json, as columns."""
    done = command("sim", "run", "--seeds", "3", "--steps", 30, "--jobs", 1)

    assert 0 == done.code
    assert "violations           0" in done.out
    assert "leader crash" in done.out


def test_one_seed_is_replayed_with_everything_that_there_is_to_look_at(cli: Callable, tmp_path: Path) -> None:
    """The trace as text, its file, the history in both forms, and the page; the digest is the same each time."""
    page, trace, history = tmp_path / "run.html", tmp_path / "trace.jsonl", tmp_path / "history.jsonl"

    text = cli("sim", "replay", 5, "--steps", 40, "--html", page, "--trace", trace, "--history", history)
    first, again = (json.loads(cli("sim", "replay", 5, "--steps", 40, "--json").out) for _ in range(2))

    assert 0 == text.code
    assert len(load(trace)) == len(text.out.splitlines())
    assert History.load(history).operations
    assert history.with_suffix(".edn").read_text().startswith("[")
    HTMLParser().feed(page.read_text())
    assert first == again
    assert first["digest"] in text.err
    assert first["violation"] is None


def test_a_replay_can_be_narrowed_to_a_node(cli: Callable) -> None:
    """What it has no part in is left out."""
    whole, one = cli("sim", "replay", 5, "--steps", 40), cli("sim", "replay", 5, "--steps", 40, "--node", "n1")

    assert 0 < len(one.out.splitlines()) < len(whole.out.splitlines())


def test_a_broken_rule_is_found_replayed_and_made_shorter(broken, cli: Callable, tmp_path: Path) -> None:
    """Each exits with 1 and names the rule; the short plan's file can be replayed."""
    plan = tmp_path / "plan.json"

    replayed = cli("sim", "replay", 2, "--steps", 50)
    shrunk = cli("sim", "shrink", 2, "--steps", 50, "--out", plan)
    again = json.loads(cli("sim", "replay", plan, "--json").out)
    as_json = json.loads(cli("sim", "shrink", 2, "--steps", 50, "--json").out)

    assert (1, 1) == (replayed.code, shrunk.code)
    assert "nobody leads" in replayed.err
    assert "nobody leads" in shrunk.out
    assert "nobody leads" in again["violation"]
    assert 1 == again["steps"] == len(as_json["steps"])


def test_a_seed_that_breaks_nothing_has_nothing_to_be_made_shorter(cli: Callable) -> None:
    """It says so, and exits with 0."""
    text, as_json = cli("sim", "shrink", 4, "--steps", 10), cli("sim", "shrink", 4, "--steps", 10, "--json")

    assert (0, 0) == (text.code, as_json.code)
    assert "breaks no rule" in text.out
    assert json.loads(as_json.out)["violation"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--seeds", "9..3"), "'9..3' is no range of seeds; write the first and the last, such as 0..1999"),
        (("replay", "nothing.json"), "'nothing.json' is neither a seed nor a plan"),
        (("run", "--profile", "sunny"), "'sunny' is not one of"),
    ],
)
def test_bad_use_is_told_in_a_line(cli: Callable, arguments, message) -> None:
    """With exit code 2."""
    done = cli("sim", *arguments)

    assert 2 == done.code
    assert message in done.err
    assert 1 == len(done.err.splitlines())

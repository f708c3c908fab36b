from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftcore import Entries, EntryKind, LeaderId, Membership, SnapshotMeta

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("jobs", ROOT / "examples/embedded/jobs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "jobs", module)
    spec.loader.exec_module(module)
    return module


def run_of(*payloads: bytes) -> Entries:
    """Payloads as committed entries."""
    return Entries(LeaderId(1, "n1"), 1, EntryKind.NORMAL, list(payloads))


def test_the_embedded_application_prints_what_its_readme_says(
    page: Callable[[str], Any], run_here: Callable[..., str]
) -> None:
    """Whoever leads and goes away, every job is done once."""
    readme = page("examples/embedded/README.md")
    (expected,) = [block.text for block in readme.blocks if block.language == "text"]

    assert expected == run_here([sys.executable, str(ROOT / "examples/embedded/jobs.py")])


def test_its_state_machine_refuses_garbage_and_goes_on(jobs: types.ModuleType) -> None:
    """A payload that is no command is answered, so that it stops no node."""
    machine = jobs.Jobs()

    answers = machine.apply(run_of(b"\xff", jobs.encode(jobs.Add("sweep"))))

    assert [None, msgspec.msgpack.encode(1)] == answers


def test_its_state_machine_survives_a_snapshot(jobs: types.ModuleType) -> None:
    """A queue that was restored goes on where the other one was."""
    machine, restored = jobs.Jobs(), jobs.Jobs()
    machine.apply(run_of(*map(jobs.encode, (jobs.Add("sweep"), jobs.Add("cook"), jobs.Take("ann")))))

    run = run_of(jobs.encode(jobs.Take("bob")))
    meta = SnapshotMeta("s", run.last_id, Membership(voters=(("n1",),)), run.last_id)
    restored.restore(meta, machine.snapshot())

    assert machine.apply(run) == restored.apply(run)
    assert {"ann": (1, "sweep"), "bob": (2, "cook")} == restored.taken

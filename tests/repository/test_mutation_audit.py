"""The program of `make mutants`, on a small tree: what is killed, what survives, and what proves nothing."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CODE = """\
import time


def double(number):
    return number + number


def wait():
    time.sleep(0)
"""
FAST = """\
from raftcore.code import double


def test_three():
    assert 6 == double(3)
"""
SLOW = """\
from raftcore.code import double, wait


def test_two():
    wait()
    assert 4 == double(2)
"""
SETTINGS = '[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\nfilterwarnings = ["error"]\n'


LOWER = "tests/engine/test_fast.py::test_three"
UPPER = "tests/node/test_slow.py::test_two"
SUM, SLEEP = "    return number + number", "    time.sleep(0)"
CASES = {
    # name: what stands there, what is put there, `tests`, `hangs`; status, layer, test, note
    "seen at once": ((SUM, "    return number * 3", "", False), ("killed", "engine", LOWER, "")),
    "chosen by a word": ((SUM, "    raise KeyError(number)", "-k three", False), ("killed", "engine", LOWER, "")),
    "choice misses it": ((SUM, "    return number * number", UPPER, False), ("killed", "engine", LOWER, "")),
    "only above": ((SUM, "    return 6", "", False), ("killed", "node", UPPER, "its header says engine")),
    "not at all": ((SUM, "    return 2 * number", "", False), ("survives", "", "", "Bug\\.")),
    "hangs": ((SLEEP, "    time.sleep(60)", UPPER, False), ("unusable", "", UPPER, ".*does not say `hangs: yes`")),
    "may hang": ((SLEEP, "    time.sleep(60)", UPPER, True), ("killed", "node", UPPER, "by the time limit")),
    "misspelt": ((SUM, "    return numbr", "", False), ("unusable", "", LOWER, ".*: NameError: name 'numbr' .*")),
    "no import": (("import time", "import thyme", "", False), ("unusable", "", "", ".*No module named 'thyme'.*")),
    "no Python": ((SUM, "    return (number", "", False), ("unusable", "", "", "raftcore/code.py:5 is no Python .*")),
    "no place": (("import tame", "import time", "", False), ("unusable", "", "", "hunk 1 of 1 of .* does not apply")),
    "no change": ((SUM, SUM, "", False), ("unusable", "", "", "raftcore/code.py is not changed")),
    "no test": ((SUM, "    return 7", "-k nothing", False), ("unusable", "", "", "pytest ended with 5.*")),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with a package `raftcore`, a test of the layer `engine` and one of the layer `node`."""
    root = tmp_path_factory.mktemp("tree")
    files = {
        "pyproject.toml": SETTINGS,
        "raftcore/__init__.py": "",
        "raftcore/code.py": CODE,
        "tests/engine/test_fast.py": FAST,
        "tests/node/test_slow.py": SLOW,
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture(scope="module")
def mutant(patches: ModuleType) -> Callable[..., Any]:
    """Make a mutant that puts a line in the place of another one."""

    def make(name: str, old: str, new: str, tests: str = "", hangs: bool = False) -> Any:
        diff = f"--- a/raftcore/code.py\n+++ b/raftcore/code.py\n@@ -1,1 +1,1 @@\n-{old}\n+{new}\n"
        return patches.Mutant(f"{name}.patch", "B01", name, "Bug.", "here", "engine", tuple(tests.split()), hangs, diff)

    return make


@pytest.mark.timeout(300)  # some twenty runs of pytest
def test_a_mutant_is_killed_survives_or_proves_nothing(
    tree: Path, mutant: Any, mutation_audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first test that fails for what the code does kills it: of its own choice, its layer, or those above."""
    monkeypatch.setattr(importlib.import_module("bench"), "TEST_SECONDS", 2)
    mutants = [mutant(name, *what) for name, (what, _) in CASES.items()]
    verdicts = {verdict.name: verdict for verdict in mutation_audit.audit(mutants, tree, 2, 50)}
    found = {name: (verdict.status, verdict.layer, verdict.test) for name, verdict in verdicts.items()}

    assert {name: expected[:3] for name, (_, expected) in CASES.items()} == found
    for name, (_, expected) in CASES.items():
        assert re.fullmatch(expected[3], verdicts[name].note, re.DOTALL), verdicts[name]


def test_a_run_ends_at_the_limit(tree: Path, tmp_path: Path, mutation_audit: ModuleType) -> None:
    """And is reported as late, whatever it was doing."""
    bench = mutation_audit.Bench(tree, tmp_path, 0.01)
    run = bench.run(tree, ("tests",))

    assert ("late", "no end within 0.01 s") == (run.end, run.text)


@pytest.mark.parametrize("tests", [LOWER, ""])
def test_a_mutant_proves_nothing_when_the_tests_are_red_without_it(
    tests: str, tree: Path, tmp_path: Path, mutant: Any, mutation_audit: ModuleType
) -> None:
    """Whether they are its own choice or its layer's."""
    root = tmp_path / "red"
    shutil.copytree(tree, root)
    (root / "tests/engine/test_fast.py").write_text(FAST.replace("6 ==", "7 =="))

    with pytest.raises(
        mutation_audit.BaseRed,
        match=f"without any patch the tests do not pass: {LOWER} ",
    ):
        mutation_audit.audit([mutant("B01", SUM, "    return 0", tests=tests)], root, 1, 50)


@pytest.fixture
def program(
    tmp_path: Path, mutant: Any, mutation_audit: ModuleType, patches: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """The program, for one mutant with this verdict and one entry: its exit status, and the page that it wrote."""

    def run(words: list[str], *verdict: Any) -> tuple[int, str]:
        entry = patches.Entry("B02", "Other bug.", "pending", "the part | is not there")
        monkeypatch.setattr(mutation_audit, "ROOT", tmp_path)
        monkeypatch.setattr(mutation_audit, "PAGE", tmp_path / "page.md")
        monkeypatch.setattr(mutation_audit, "read_entries", lambda: (["B01", "B02"], [entry]))
        monkeypatch.setattr(mutation_audit, "read_mutants", lambda: [mutant("B01", SUM, "    return 7")])
        monkeypatch.setattr(mutation_audit, "audit", lambda *options: [mutation_audit.Verdict("B01", *verdict)])
        return mutation_audit.main(words), (tmp_path / "page.md").read_text()

    return run


def test_the_result_is_a_table_totals_and_a_page(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What killed each, after how many seconds, and why others are not there."""
    status, page = program(["--write-docs"], "killed", "engine", f"{LOWER}[a | b]", 12.3)
    killed, entry, totals = capsys.readouterr().out.splitlines()

    assert 0 == status
    assert f"B01   killed      12.3 s  engine    {LOWER}[a | b]" == killed
    assert "B02   pending   the part | is not there" == entry
    assert "killed 1, impossible 0, pending 1, surviving 0" == totals
    assert f"| B01 | Bug. | here | `{LOWER}` | 12 |" in page.splitlines()
    assert "| B02 | Other bug. | pending | the part \\| is not there |" in page.splitlines()


@pytest.mark.parametrize("bad", ["survives", "unusable"])
def test_a_mutant_that_was_not_killed_makes_the_program_fail(
    bad: str, program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page shows it, and so does the result as JSON."""
    status, page = program(["--write-docs", "--json"], bad)
    result = json.loads(capsys.readouterr().out)

    assert 1 == status
    assert [("B01", bad)] == [(verdict["name"], verdict["status"]) for verdict in result["mutants"]]
    assert f"| B01 | Bug. | here | **{bad}** |  |" in page.splitlines()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--only=B99"], "--only: there is no patch for B99"),
        (["--only=B01", "--write-docs"], "--write-docs needs all of them; leave --only out"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], complaint: str, program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs."""
    with pytest.raises(SystemExit):
        program(words, "killed")

    assert complaint in capsys.readouterr().err

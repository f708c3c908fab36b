"""Copies of the tree, with a bug put in or without, and runs of the tests in them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from patches import LAYERS, Mutant, PatchError, patched

COPIED = ("raftcore", "tests", "plugins", "pyproject.toml")
TEST_SECONDS = 30
_TIMEOUT = "Timeout (>"
_NOT_THE_BUG = re.compile(
    r"^(?:E +)?(?:\w+\.)*"
    r"((?:Import|ModuleNotFound|Syntax|Indentation|Name|UnboundLocal)Error: .*|AttributeError: (?!'NoneType').*)",
    re.MULTILINE,
)


class BaseRed(Exception):
    """The tests fail without any patch, so that nothing can be said about the mutants."""


@dataclass(frozen=True)
class Run:
    """How a run of pytest ended: `passed`, `failed`, `late` (a time limit) or `unusable`; after how many seconds.

    `test` is what failed first, `text` why.
    """

    end: str
    seconds: float
    test: str = ""
    text: str = ""


class Bench:
    """A place for trees, and the runs of pytest in them."""

    def __init__(self, root: Path, place: Path, limit: float) -> None:
        """Copy the tree at `root` as it is now: edits meanwhile change nothing. `limit`: seconds for one run."""
        self._place = place
        self._limit = limit
        self._base = place / "base"
        self._running: set[subprocess.Popen[str]] = set()
        self._layers: dict[str, Run] = {}
        self._lock = threading.Lock()
        for name in COPIED:
            source, target = root / name, self._base / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            elif source.is_file():
                shutil.copy2(source, target)

    def folders(self, layer: str) -> tuple[str, ...]:
        """Those of the layer's folders that hold tests."""
        return tuple(folder for folder in LAYERS[layer] if any((self._base / folder).glob("**/test_*.py")))

    def check_base(self, paths: tuple[str, ...]) -> None:
        """Without a patch these tests pass, and it is the copy that they test. Raises `BaseRed`."""
        code = "import raftcore; print(raftcore.__file__)"
        command = [sys.executable, "-c", code]
        environment = _environment(self._base)
        found = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout
        if found.strip() != str(self._base / "raftcore/__init__.py"):
            raise BaseRed(f"the tests would run against {found.strip()}")
        if paths:
            _insist(self.run(self._base, paths))

    def check_layer(self, layer: str) -> None:
        """Without a patch the layer's tests pass; they run when this is first asked. Raises `BaseRed`."""
        with self._lock:
            if layer not in self._layers:
                tree = self._copy(f"base-{layer}")
                self._layers[layer] = self.run(tree, self.folders(layer))
                shutil.rmtree(tree)
        _insist(self._layers[layer])

    def mutate(self, mutant: Mutant) -> Path:
        """A copy of the tree with the mutant's patch in it, which compiles. Raises `PatchError`."""
        changed = patched(mutant.diff, self._base)
        for path, text in changed.items():
            try:
                compile(text, path, "exec", dont_inherit=True)
            except SyntaxError as error:
                raise PatchError(f"{path}:{error.lineno} is no Python with it: {error.msg}") from None
        tree = self._copy(mutant.name)
        for path, text in changed.items():
            (tree / path).write_text(text, encoding="utf-8")
            # A stamp of whole seconds and a size tell an old cache from a new one: too little to rely on here.
            Path(importlib.util.cache_from_source(str(tree / path))).unlink(missing_ok=True)
        return tree

    def run(self, tree: Path, selection: tuple[str, ...], *options: str) -> Run:
        """Run pytest in a tree. Whatever it starts ends with it, or at the time limit."""
        report = self._place / f"{tree.name}.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
        started = time.monotonic()
        with subprocess.Popen(
            [*command, f"--junitxml={report}", *options, *selection],
            cwd=tree,
            env=_environment(tree),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            self._running.add(process)
            try:
                output, _ = process.communicate(timeout=self._limit)
            except subprocess.TimeoutExpired:
                return Run("late", time.monotonic() - started, text=f"no end within {self._limit:g} s")
            finally:
                _kill(process)
                self._running.discard(process)
        return _judge(process.returncode, output, report, tree, time.monotonic() - started)

    def end(self) -> None:
        """Stop what still runs."""
        for process in list(self._running):
            _kill(process)

    def _copy(self, name: str) -> Path:
        tree = self._place / name
        shutil.copytree(self._base, tree, ignore=shutil.ignore_patterns(".hypothesis"))
        return tree


def _environment(tree: Path) -> dict[str, str]:
    """That of a run: the tree's own packages come before whatever is installed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COVERAGE", "COV_"))}
    paths = [tree, *sorted(path.parent for path in tree.glob("plugins/*/pyproject.toml"))]
    return {**kept, "PYTHONPATH": os.pathsep.join(map(str, paths))}


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _insist(run: Run) -> None:
    if run.end != "passed":
        raise BaseRed(f"without any patch the tests do not pass: {run.test} {run.text}")


def _judge(status: int, output: str, report: Path, tree: Path, seconds: float) -> Run:
    if status == 0:
        return Run("passed", seconds)
    tail = "\n".join(output.strip().splitlines()[-15:])
    if status != 1 or not report.is_file():
        return Run("unusable", seconds, text=f"pytest ended with {status}:\n{tail}")
    for case in ET.parse(report).iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            message, text = failure.get("message", ""), failure.text or ""
            test = f"{_file(case.get('classname', ''), tree)}::{case.get('name')}"
            if message == "collection failure":
                return Run("unusable", seconds, test, f"it can't be collected:\n{text}")
            if strange := _NOT_THE_BUG.search(text):
                return Run("unusable", seconds, test, f"it fails for another reason: {strange[1]}")
            return Run("late" if _TIMEOUT in message else "failed", seconds, test, message.partition("\n")[0])
    return Run("unusable", seconds, text=f"pytest names no test that failed:\n{tail}")


def _file(dotted: str, tree: Path) -> str:
    """The path of a test module from its dotted name."""
    path = dotted.replace(".", "/") + ".py"
    return path if (tree / path).is_file() else dotted

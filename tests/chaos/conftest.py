"""Fixtures for the chaos command: the command as a process, and the nodes that it has started."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Command:
    """One chaos run as a process, in a directory of its own."""

    def __init__(self, directory: Path, *arguments: object) -> None:
        self.directory = directory
        self.out, self.err = directory.with_suffix(".out"), directory.with_suffix(".err")
        command = [sys.executable, "-m", "raftcore.cli", "chaos", "--dir", directory, *arguments]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=out, stderr=err)

    def wait(self, seconds: float = 55.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def wait_for(self, text: str, seconds: float = 20.0) -> None:
        """Wait until it has said this on standard error."""
        deadline = time.monotonic() + seconds
        while text not in self.err.read_text():
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.02)

    def nodes(self) -> dict[str, int]:
        """The ids of the processes of nodes that run in its directory."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_text().split("\0")
            except OSError:
                continue  # it has ended meanwhile
            for word in words:
                if word.startswith(f"{self.directory}/") and word.endswith(".toml"):
                    found[Path(word).stem] = int(process.name)
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Start a run with these arguments; whatever the test does, it is stopped in the end."""
    started: list[Command] = []

    def begin(*arguments: object) -> Command:
        started.append(Command(tmp_path / f"chaos{len(started)}", *arguments))
        return started[-1]

    yield begin
    for command in started:
        if command.process.poll() is None:
            command.process.terminate()  # it ends its nodes, as at an interrupt
            command.process.wait(30)

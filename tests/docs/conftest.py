"""Pages of documentation, read as what they promise: blocks of code, files, programs with their output, links."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# ([\w.-]+\.(?:toml|py))\n")
_PORT = re.compile(r"127\.0\.0\.1:(\d+)")


class Block(NamedTuple):
    """A fenced block. `name` is the file that its first line names, or ""."""

    language: str
    text: str
    name: str


class Page:
    """One page. A block that begins with ``# name.toml`` or ``# name.py`` is that file, whole. One that calls
    `asyncio.run` is a program; what it prints is in the first block of the language ``text`` behind it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.blocks = [
            Block(language, text, match[1] if (match := _NAME.match(text)) else "")
            for language, text in _FENCE.findall(self.text)
        ]

    @property
    def programs(self) -> dict[str, str]:
        """Name and expected output of every program, in order."""
        found: dict[str, str] = {}
        for position, block in enumerate(self.blocks):
            if block.name.endswith(".py") and "asyncio.run(" in block.text:
                rest = self.blocks[position + 1 :]
                found[block.name] = next((later.text for later in rest if later.language == "text"), "")
        return found

    def write_files(self, directory: Path) -> None:
        """Put the page's files there, on ports that are free."""
        ports: dict[str, int] = {}
        for block in self.blocks:
            if block.name:
                text = _PORT.sub(lambda match: f"127.0.0.1:{ports.setdefault(match[1], free_port())}", block.text)
                (directory / block.name).write_text(text, encoding="utf-8")

    def run(self, directory: Path) -> dict[str, str]:
        """What each of the page's programs prints, run one after the other in a directory that holds only its files."""
        self.write_files(directory)
        return {name: run([sys.executable, name], directory) for name in self.programs}


def free_port() -> int:
    """A port of the loopback that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run(command: list[str], directory: Path, **environment: str) -> str:
    """What a command prints on stdout; what it prints on stderr is shown when it fails."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def page() -> Callable[[str], Page]:
    """The page at a path from the top of the repository."""
    return lambda name: Page(ROOT / name)


@pytest.fixture
def run_here(tmp_path: Path) -> Callable[..., str]:
    """Run a command in the test's own directory; its standard output."""
    return lambda command, **environment: run(command, tmp_path, **environment)

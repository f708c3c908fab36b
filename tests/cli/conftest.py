"""Fixtures for the command line: configurations, real processes of nodes, and the command itself."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "raftcore.cli"]
READY_SECONDS = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, below those that the system gives to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(15_000, 32_000), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"no {count} ports are free")


class Process:
    """One node: its configuration, its addresses, and its process while there is one."""

    def __init__(self, name: str, directory: Path, raft: str, http: str) -> None:
        self.name = name
        self.file = directory / f"{name}.toml"
        self.data = directory / name
        self.raft = raft
        self.http = http
        self.url = f"http://{http}"
        self.log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, members: Mapping[str, str], more: str = "", cluster: str = "test") -> None:
        """Write the configuration."""
        listed = "\n".join(f'{member} = "{address}"' for member, address in members.items())
        self.file.write_text(
            f"""
[node]
id = "{self.name}"
data_dir = "{self.name}"
address = "{self.raft}"
[cluster]
name = "{cluster}"
[cluster.members]
{listed}
[raft]
heartbeat_ms = 50
election_timeout_ms = [300, 600]
[http]
address = "{self.http}"
{more}
"""
        )

    def start(self, *arguments: str, wait: bool = True) -> None:
        """Run it; with `wait`, until it has printed that it is ready."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "run", str(self.file), *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            self.until(lambda: b"is ready: " in self.log.read_bytes(), "it is ready")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
        """Wait for a condition while the process runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{self.name}: waited in vain until {what}:\n{self.log.read_text()}"
            time.sleep(0.02)

    def end(self, number: int = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Send a signal, wait, and give the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """One request; an answer that is an error raises."""
        request = urllib.request.Request(f"{self.url}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def status(self) -> dict[str, Any]:
        """What ``/status`` says."""
        return json.loads(self.ask("/status"))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., list[Process]]]:
    """`processes("n1", "n2")` configures nodes that begin a cluster together; whatever runs at the end is killed."""
    made: list[Process] = []

    def make(*names: str, directory: Path = tmp_path, cluster: str = "test", more: str = "") -> list[Process]:
        ports = [f"127.0.0.1:{port}" for port in free_ports(2 * len(names))]
        new = [
            Process(name, directory, raft, http)
            for name, raft, http in zip(names, ports[::2], ports[1::2], strict=True)
        ]
        members = {process.name: process.raft for process in new}
        for process in new:
            process.configure(members, more, cluster)
        made.extend(new)
        return new

    yield make
    for process in made:
        if process.process is not None and process.process.poll() is None:
            process.process.kill()
            process.process.wait(10)


class Done:
    """A command that has ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def command() -> Callable[..., Done]:
    """`command("check", file)` runs it as a process of its own, and waits."""

    def command(*arguments: object, seconds: float = 40.0, environ: Mapping[str, str] | None = None) -> Done:
        ended = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        return Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return command


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`cli("check", file)` runs the command in this process: quicker, for those that open no event loop."""
    from raftcore.cli.program import run

    def cli(*arguments: object) -> Done:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return cli


def leader_of(processes: Sequence[Process], seconds: float = READY_SECONDS) -> Process:
    """Who leads, once all of them say the same."""
    deadline = time.monotonic() + seconds
    while True:
        leaders = {process.status()["leader"] for process in processes}
        if len(leaders) == 1 and None not in leaders:
            (name,) = leaders
            return next(process for process in processes if process.name == name)
        assert time.monotonic() < deadline, f"no leader that all agree on: {leaders}"
        time.sleep(0.02)


@pytest.fixture
def leader() -> Callable[..., Process]:
    """`leader(processes)` waits until all agree on who leads."""
    return leader_of


@pytest.fixture
def cluster(processes: Callable[..., list[Process]]) -> list[Process]:
    """Three nodes that run and have a leader."""
    three = processes("n1", "n2", "n3")
    for process in three:
        process.start(wait=False)
    for process in three:
        process.until(lambda process=process: b"is ready: " in process.log.read_bytes(), "it is ready")
    leader_of(three)
    return three

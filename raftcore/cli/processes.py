"""Real nodes for commands that run a whole cluster: a process each, with a log file of its own, in one directory."""

from __future__ import annotations

import asyncio
import fcntl
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raftcore.cli.connection import REQUEST_SECONDS, Connection, NoAnswer
from raftcore.errors import ConfigError, RaftCoreError, StorageInUse

# Below those that systems give to outgoing connections, which may take a port between this and the node's start.
PORTS = range(15_000, 32_000)
READY_SECONDS = 30.0
STOP_SECONDS = 15.0
LOG_TAIL = 15
POLL_SECONDS = 0.05


class ClusterFailed(RaftCoreError):
    """The cluster could not go on; the message holds what a process said last."""


class Process:
    """One node as a process of its own. `raft` is where its peers reach it, `http` where its HTTP face is."""

    def __init__(self, node: str, directory: Path, raft: str, http: str) -> None:
        self.node = node
        self.raft = raft
        self.http = http
        self.file = directory / f"{node}.toml"
        self.log = directory / f"{node}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs, and before it is started."""
        return self._process.poll() if self._process is not None else None

    def connection(self, seconds: float = REQUEST_SECONDS) -> Connection:
        """A new connection to its HTTP face, whose requests may take so many seconds each."""
        host, _, port = self.http.rpartition(":")
        return Connection(host, int(port), seconds)

    async def start(self) -> None:
        """Start it, in a session of its own: an interrupt at the terminal is for the command, which then ends it."""
        starting = asyncio.create_task(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting  # or `stop` would not know of it
            raise

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raftcore.cli", "run", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def until_ready(self) -> None:
        """Wait until it knows a leader. Raises `ClusterFailed`, with the end of its log."""
        await self._until("/readyz", "ready")

    async def until_live(self) -> None:
        """Wait until it answers, with or without a leader. Raises `ClusterFailed`, with the end of its log."""
        await self._until("/livez", "live")

    async def _until(self, path: str, what: str) -> None:
        connection = self.connection()
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    if self._process is None or self._process.poll() is not None:
                        raise await self.failed("ended instead of starting")
                    with suppress(NoAnswer):
                        if (await connection.ask("GET", path)).status == 200:
                            return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise await self.failed(f"was not {what} within {READY_SECONDS:g} s") from None
        finally:
            connection.close()

    def pause(self) -> None:
        """SIGSTOP: it does nothing any more, its connections stay, and time goes on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help in time."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        self.resume()  # one that is paused would not notice
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def failed(self, what: str) -> ClusterFailed:
        """An error about this process, with the end of its log."""
        tail = "\n".join((await asyncio.to_thread(self.said))[-LOG_TAIL:])
        return ClusterFailed(f"node {self.node} (process {self.pid}) {what}; the end of {self.log}:\n{tail}")

    def said(self) -> list[str]:
        """The lines of its log so far."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []


def make_room(directory: Path, kind: str, nodes: Sequence[str]) -> None:
    """Make the directory ready for these nodes: what an earlier run of this kind (a word) left is removed.

    Raises `ConfigError` when there is something in it that no such run made, `StorageInUse` when one still runs in it.
    """
    mark = directory / f".raftcore-{kind}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()) and not mark.exists():
            raise ConfigError(f"{directory} is not empty, and no {kind} made it; name another directory with --dir")
        _refuse_running(directory, kind, nodes)
        for node in nodes:
            shutil.rmtree(directory / node, ignore_errors=True)
            (directory / f"{node}.log").unlink(missing_ok=True)
        mark.touch()
    except OSError as error:
        raise ConfigError(f"{directory} can't be used: {error.strerror}; name another directory with --dir") from error


def _refuse_running(directory: Path, kind: str, nodes: Sequence[str]) -> None:
    for node in nodes:
        with suppress(FileNotFoundError), (directory / node / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageInUse(
                    f"{directory}: the cluster of an earlier {kind} still runs (node {node}); stop it, or name another "
                    "directory with --dir"
                ) from None


def configuration(command: str, process: Process, members: Mapping[str, str], more: str) -> str:
    """The text of a node's configuration: everything in its directory, `more` as further tables."""
    listed = "\n".join(f'{node} = "{address}"' for node, address in members.items())
    return f"""\
# Written by `raftcore {command}`.
[node]
id = "{process.node}"
data_dir = "{process.node}"

[cluster]
name = "{command}"
[cluster.members]
{listed}

[log_store]
backend = "sqlite"

[transport]
backend = "tcp"

[http]
address = "{process.http}"
{more}"""


def free_addresses(count: int) -> list[str]:
    """Addresses on this machine that nobody uses at this moment. Raises `ConfigError` when there are too few."""
    found: list[str] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(f"127.0.0.1:{port}")
        if len(found) == count:
            return found
    raise ConfigError(f"127.0.0.1 has no {count} free ports from {PORTS[0]} to {PORTS[-1]}; stop what uses them")

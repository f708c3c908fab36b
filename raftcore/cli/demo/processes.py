"""The demo's directory and its three processes, each a real ``raftcore run`` with a log file of its own."""

from __future__ import annotations

import asyncio
import fcntl
import random
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from raftcore.cli.demo.connection import Connection, NoAnswer
from raftcore.errors import ConfigError, RaftCoreError, StorageInUse

NODES = ("n1", "n2", "n3")
MARK = ".raftcore-demo"
# Below those that systems give to outgoing connections, which may take a port between this and the node's start.
PORTS = range(15_000, 32_000)
READY_SECONDS = 30.0
STOP_SECONDS = 15.0
LOG_TAIL = 15
POLL_SECONDS = 0.05


class DemoFailed(RaftCoreError):
    """The demo could not go on; the message holds what a process said last."""


class Process:
    """One node as a process of its own."""

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

    def connection(self) -> Connection:
        """A new connection to its HTTP face."""
        host, _, port = self.http.rpartition(":")
        return Connection(host, int(port))

    async def start(self) -> None:
        """Start it, in a session of its own: an interrupt at the terminal is for the demo, which then ends it."""
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
        """Wait until it knows a leader. Raises `DemoFailed`, with the end of its log."""
        connection = self.connection()
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    if self._process is None or self._process.poll() is not None:
                        raise await self.failed("ended instead of starting")
                    with suppress(NoAnswer):
                        if (await connection.ask("GET", "/readyz"))[0] == 200:
                            return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise await self.failed(f"was not ready within {READY_SECONDS:g} s") from None
        finally:
            connection.close()

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
        try:
            await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def failed(self, what: str) -> DemoFailed:
        """An error about this process, with the end of its log."""
        tail = "\n".join((await asyncio.to_thread(self._logged))[-LOG_TAIL:])
        return DemoFailed(f"node {self.node} (process {self.pid}) {what}; the end of {self.log}:\n{tail}")

    def _logged(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []


def prepare(directory: Path, every_entries: int) -> list[Process]:
    """Make the directory anew, with a configuration for each node; nothing runs yet.

    Raises `ConfigError` when there is something in it that no demo made, `StorageInUse` when one still runs in it.
    """
    mark = directory / MARK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()) and not mark.exists():
            raise ConfigError(f"{directory} is not empty, and no demo made it; name another directory with --dir")
        _refuse_running(directory)
        for node in NODES:
            shutil.rmtree(directory / node, ignore_errors=True)
            (directory / f"{node}.log").unlink(missing_ok=True)
        mark.touch()
    except OSError as error:
        raise ConfigError(f"{directory} can't be used: {error.strerror}; name another directory with --dir") from error
    ports = _free_ports(2 * len(NODES))
    addresses = [f"127.0.0.1:{port}" for port in ports]
    processes = [
        Process(node, directory, raft, http)
        for node, raft, http in zip(NODES, addresses[::2], addresses[1::2], strict=True)
    ]
    for process in processes:
        process.file.write_text(_configuration(process, processes, every_entries), encoding="utf-8")
    return processes


def _configuration(process: Process, processes: list[Process], every_entries: int) -> str:
    members = "\n".join(f'{other.node} = "{other.raft}"' for other in processes)
    return f"""\
# Written by `raftcore demo`.
[node]
id = "{process.node}"
data_dir = "{process.node}"

[cluster]
name = "demo"
[cluster.members]
{members}

[log_store]
backend = "sqlite"

[transport]
backend = "tcp"

[snapshots]
backend = "directory"
every_entries = {every_entries}
trailing_entries = {every_entries // 4}

[http]
address = "{process.http}"
"""


def _refuse_running(directory: Path) -> None:
    for node in NODES:
        with suppress(FileNotFoundError), (directory / node / "lock").open("rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageInUse(
                    f"{directory}: the cluster of an earlier demo still runs (node {node}); stop it, or name another "
                    "directory with --dir"
                ) from None


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses at this moment. Raises `ConfigError` when there are too few."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(f"127.0.0.1 has no {count} free ports from {PORTS[0]} to {PORTS[-1]}; stop what uses them")

"""The demo's directory and its three processes, each a real ``raftcore run`` with a log file of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from raftcore.cli.demo.connection import Connection, NoAnswer
from raftcore.errors import ConfigError, RaftCoreError, StorageInUse

NODES = ("n1", "n2", "n3")
MARK = ".raftcore-demo"
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

    def start(self) -> None:
        """Start it. In a session of its own, so that an interrupt at the terminal is for the demo, which then ends it."""
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
                        raise self.failed("ended instead of starting")
                    try:
                        await connection.get("/readyz?json")
                    except (NoAnswer, ValueError):
                        await asyncio.sleep(POLL_SECONDS)
                    else:
                        return
        except TimeoutError:
            raise self.failed(f"was not ready within {READY_SECONDS:g} s") from None
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

    def let_go(self) -> None:
        """It is to outlive the demo."""
        if self._process is not None:
            self._process.returncode = 0  # or the interpreter warns at its end of a process that runs on
            self._process = None

    def failed(self, what: str) -> DemoFailed:
        """An error about this process, with the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL:] if self.log.exists() else []
        return DemoFailed(f"node {self.node} (process {self.pid}) {what}; the end of {self.log}:\n" + "\n".join(lines))

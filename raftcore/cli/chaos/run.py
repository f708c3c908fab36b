"""A chaos run from its beginning to its end, and what it leaves behind."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from raftcore.cli.agreement import State, agreed, are_equal
from raftcore.cli.chaos.clients import Record
from raftcore.cli.chaos.cluster import prepare
from raftcore.cli.chaos.nemesis import Nemesis
from raftcore.cli.chaos.workload import Workload
from raftcore.cli.processes import ClusterFailed
from raftcore.cli.tasks import ending_on_signals, first_of
from raftcore.sim import checkers
from raftcore.sim.timeline import render
from raftcore.sim.trace import Trace

MAX_EVENTS: Final = 1_000_000
"""What the timeline keeps: the newest so many events, of about 200 bytes each."""

PROGRESS_SECONDS: Final = 0.5


@dataclass
class Result:
    """What a run found; with ``--json``, the object that it prints."""

    seconds: int
    seed: int
    nodes: int
    clients: int
    operations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    elections: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    anomalies: int = 0
    anomaly_texts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    converged: bool = False
    recovery_seconds: float | None = None
    members: list[State] = field(default_factory=list)
    directory: str = ""
    history: str = ""
    edn: str = ""
    timeline: str = ""
    events: str = ""

    @property
    def good(self) -> bool:
        """Nothing contradicts itself, the members agree, and every process did what it was meant to."""
        return self.converged and not self.anomalies and not self.problems


class Run:
    """One run. Nothing is started before `run`. Raises as `make_room`."""

    def __init__(
        self, directory: Path, seconds: int, nodes: int, seed: int, clients: int, faults: Collection[str]
    ) -> None:
        self._directory = directory
        self._loop: asyncio.AbstractEventLoop
        self._started = 0.0
        self._trace = Trace(self._now, MAX_EVENTS)
        self._cluster = prepare(directory, nodes, self._trace)
        self._record = Record(self._cluster, self._now)
        self._workload = Workload(self._record, seed, clients)
        self._nemesis = Nemesis(self._cluster, seed, faults)
        self._result = Result(seconds, seed, nodes, clients, directory=str(directory))

    def _now(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._started

    async def run(self) -> None:
        """Whatever happens, no process outlives this. What goes wrong with the cluster is in the result."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        problems = self._cluster.problems
        with ending_on_signals():
            try:
                await self._run()
            except ClusterFailed as failure:
                problems.append(str(failure))
            finally:
                self._phase("the end")
                await self._cluster.stop()
        if not problems:
            for member in self._cluster.members.values():
                if member.exit_code:
                    problems.append(str(await member.failed(f"was told to stop and exited with {member.exit_code}")))

    async def _run(self) -> None:
        self._phase(f"{self._result.nodes} nodes start")
        await self._cluster.start()
        over = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._cluster.watch())
                progress = group.create_task(self._show_progress())
                load = group.create_task(self._workload.run(over))
                self._phase(f"{self._result.clients} clients, and faults for {self._result.seconds} s")
                await self._nemesis.run(self._result.seconds)
                await self._recover()
                over.set()
                await load
                self._phase("the clients have ended; the members must agree")
                self._result.members = await agreed(list(self._cluster.members.values()))
                self._result.converged = are_equal(self._result.members)
                watch.cancel()
                progress.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _recover(self) -> None:
        self._phase("all faults have ended; every member must serve")
        healed = self._now()
        await self._workload.prove()
        self._result.recovery_seconds = round(self._now() - healed, 3)

    # -- telling ------------------------------------------------------------------------------------------------------

    def _phase(self, text: str) -> None:
        self._trace.add("phase", text=text)
        click.echo(f"\r{text:<100}" if sys.stderr.isatty() else text, err=True)

    async def _show_progress(self) -> None:
        while sys.stderr.isatty():
            counts, faults = self._record.outcomes, self._nemesis.counts.total()
            click.echo(
                f"\r{self._now():5.0f} s  {counts['ok']} ok, {counts['failed']} failed, "
                f"{counts['unknown'] + counts['timeouts']} unknown, {faults} faults, "
                f"{len(self._cluster.leaders)} elections ",
                err=True,
                nl=False,
            )
            await asyncio.sleep(PROGRESS_SECONDS)

    # -- what is left -------------------------------------------------------------------------------------------------

    def save_history(self) -> None:
        """Write what clients asked and were told."""
        self._result.history, self._result.edn = self._path("history.jsonl"), self._path("history.edn")
        self._record.history.save(Path(self._result.history))
        Path(self._result.edn).write_text(self._record.history.edn(), encoding="utf-8")

    def judge(self) -> Result:
        """Check the history, put everything together, and write the timeline."""
        result, cluster = self._result, self._cluster
        found = checkers.check(self._record.history)
        result.anomaly_texts = [f"{anomaly.key}: {anomaly.text} ({anomaly.checker})" for anomaly in found]
        result.anomalies = len(result.anomaly_texts)
        result.problems = cluster.problems
        result.operations = dict(self._record.outcomes)
        result.faults = dict(self._nemesis.counts)
        result.elections = len(cluster.leaders)
        result.snapshots = {name: cluster.logged(f"snapshot_{name}") for name in ("saved", "installed")}
        for text in result.anomaly_texts:
            self._trace.add("violation", invariant="consistency", text=text)
        result.events, result.timeline = self._path("timeline.jsonl"), self._path("timeline.html")
        self._trace.save(Path(result.events))
        title = f"raftcore chaos, seed {result.seed}"
        summary = {"seconds": result.seconds, "nodes": result.nodes, **result.operations, **result.faults}
        page = render(self._trace.events, title, {name.replace("_", " "): value for name, value in summary.items()})
        Path(result.timeline).write_text(page, encoding="utf-8")
        return result

    def _path(self, name: str) -> str:
        return str(self._directory / name)

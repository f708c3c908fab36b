"""The demo from its beginning to its end, and what it prints."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from raftcore.cli.agreement import State, agreed, are_equal
from raftcore.cli.demo import pairs as pair_files
from raftcore.cli.demo.load import Load
from raftcore.cli.demo.processes import prepare
from raftcore.cli.demo.reading import SAMPLE, leader, missing
from raftcore.cli.output import as_json, print_fields, print_json, print_table
from raftcore.cli.processes import Process
from raftcore.cli.tasks import ending_on_signals, first_of

DEFAULT_KEYS = 10_000
BAR = 40


@dataclass
class Result:
    """What the demo found; with ``--json``, the object that it prints."""

    directory: str
    keys: int
    acknowledged: int = 0
    lost: int = 0
    retried: int = 0
    clients: int = 0
    load_seconds: float = 0.0
    writes_per_second: float = 0.0
    killed: str = ""
    failover_seconds: float | None = None
    snapshot_taken: bool = False
    digests_equal: bool = False
    read_back: str = ""
    members: list[State] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Everything was acknowledged, nothing of it was lost, and the members agree."""
        return self.acknowledged == self.keys and self.lost == 0 and self.digests_equal


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("raftcore-demo"),
    show_default=True,
    help="Where the nodes live. It must be empty, or made by an earlier demo, which is then removed.",
)
@click.option(
    "--keys",
    type=click.IntRange(min=20),
    help=f"How many pairs to write. Default: {DEFAULT_KEYS}, or all of the input.",
)
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='The pairs: a JSON object a line, {"key": ..., "value": ...}. Default: made up.',
)
@click.option("--keep", is_flag=True, help="Leave the cluster running, and say how to talk to it.")
@as_json
@click.pass_context
def demo(
    context: click.Context, directory: Path, keys: int | None, source: Path | None, keep: bool, json: bool
) -> None:
    """Start three nodes, kill the leader with SIGKILL while 64 clients write, restart it, and read everything back.

    Exits with 0 only when nothing that was acknowledged is lost and all members hold the same state.
    """
    pairs = pair_files.read(source, keys) if source is not None else None
    count = len(pairs) if pairs is not None else keys or DEFAULT_KEYS
    processes = prepare(directory, every_entries=max(10, count // 5))
    if pairs is None:
        generated = directory / "pairs.jsonl"
        pair_files.generate(generated, count)
        pairs = pair_files.read(generated, None)
    try:
        result = asyncio.run(_Demo(directory, processes, pairs).run(keep))
    except asyncio.CancelledError:  # by `ending_on_signals`
        raise click.Abort from None
    if json:
        print_json(asdict(result))
    else:
        _print(result)
    if keep:
        _say_how_to_talk_to_it(directory, result)
    if not result.good:
        click.echo("raftcore: the demo failed: see above", err=True)
        context.exit(1)


class _Demo:
    """One run."""

    def __init__(self, directory: Path, processes: list[Process], pairs: dict[str, bytes]) -> None:
        self._processes = processes
        self._pairs = pairs
        self._load = Load(pairs, processes)
        self._result = Result(
            str(directory),
            len(pairs),
            clients=self._load.clients,
            urls={process.node: f"http://{process.http}" for process in processes},
        )

    async def run(self, keep: bool) -> Result:
        """Whatever happens, no process outlives this, but with `keep` when it went well so far."""
        kept = False
        with ending_on_signals():
            try:
                await self._start()
                await self._write()
                await self._read_back()
                kept = keep
            finally:
                if not kept:
                    await asyncio.gather(*(process.stop() for process in self._processes))
        self._result.pids = {process.node: process.pid for process in self._processes} if kept else {}
        return self._result

    async def _start(self) -> None:
        for process in self._processes:
            await process.start()
        await asyncio.gather(*(process.until_ready() for process in self._processes))
        _say("three nodes run: " + ", ".join(f"{p.node} at http://{p.http} (process {p.pid})" for p in self._processes))

    async def _write(self) -> None:
        load, result = self._load, self._result
        _say(f"{load.clients} clients write {len(self._pairs)} pairs to all three")
        bar = asyncio.create_task(self._show_progress()) if sys.stderr.isatty() else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                group.create_task(self._disturb())
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        finally:
            if bar is not None:
                bar.cancel()
                click.echo(err=True)
        result.acknowledged = len(load.acknowledged)
        result.retried = load.retried
        result.load_seconds = round(load.seconds, 3)
        result.writes_per_second = round(len(load.acknowledged) / load.seconds, 1)
        if load.failover_seconds is not None:
            result.failover_seconds = round(load.failover_seconds, 3)

    async def _disturb(self) -> None:
        """Kill the leader in the middle of the load, and bring it back before its end."""
        await self._load.reached(0.5)
        victim = await leader(self._processes)
        self._result.killed = victim.node
        await self._load.kill(victim)
        _say(f"killed the leader, {victim.node}, after {len(self._load.acknowledged)} acknowledged writes")
        await self._load.reached(0.75)
        await victim.start()
        await victim.until_ready()
        _say(f"{victim.node} is back")

    async def _show_progress(self) -> None:
        while True:
            share = len(self._load.acknowledged) / len(self._pairs)
            filled = int(share * BAR)
            click.echo(f"\r[{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%} ", err=True, nl=False)
            await asyncio.sleep(0.1)

    async def _read_back(self) -> None:
        result = self._result
        result.members = await agreed(self._processes)
        result.digests_equal = are_equal(result.members)
        result.snapshot_taken = any(member.snapshot for member in result.members)
        acknowledged = self._load.acknowledged
        found = await asyncio.gather(*(missing(process, self._pairs, acknowledged) for process in self._processes))
        result.lost = len(set[str]().union(*found))
        result.read_back = (
            f"each of the {len(acknowledged)} acknowledged keys and its value, on each of the {len(self._processes)} "
            "members, from the member's own state (stale listing, after applied index and digest of all were equal); "
            f"and {min(SAMPLE, len(acknowledged))} of them once more on each member, with linearizable reads"
        )


def _say(text: str) -> None:
    """What happens, on stderr; over the progress bar, when there is one."""
    click.echo(f"\r{text}" + " " * BAR if sys.stderr.isatty() else text, err=True)


def _print(result: Result) -> None:
    failover = "not measured" if result.failover_seconds is None else f"{result.failover_seconds:.2f} s"
    print_fields(
        {
            "acknowledged": f"{result.acknowledged} of {result.keys} writes, {result.retried} times tried again",
            "writes per second": f"{result.writes_per_second:.0f} ({result.clients} clients, fail-over included)",
            "fail-over": f"{failover} from the kill of {result.killed} to the first write acknowledged after it",
            "lost": result.lost,
            "snapshot taken": "yes" if result.snapshot_taken else "no",
            "same state": "yes" if result.digests_equal else "NO",
            "read back": result.read_back,
        }
    )
    click.echo()
    _print_members(result.members)


def _print_members(members: Sequence[State]) -> None:
    rows = [(member.node, member.applied, member.snapshot, member.digest[:16]) for member in members]
    print_table(("MEMBER", "APPLIED", "SNAPSHOT AT", "STATE (SHA-256)"), rows)


def _say_how_to_talk_to_it(directory: Path, result: Result) -> None:
    first, *_ = urls = list(result.urls.values())
    for line in (
        "",
        f"the cluster runs on; its configurations and logs are in {directory}",
        f"  curl {first}/status",
        f"  curl -X PUT --data-binary red {first}/kv/colour",
        f"  curl {urls[-1]}/kv/colour",
        f"  raftcore status {' '.join(urls)}",
        f"stop it: kill {' '.join(map(str, result.pids.values()))}",
    ):
        click.echo(line, err=True)

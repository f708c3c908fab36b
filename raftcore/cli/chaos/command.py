"""``raftcore chaos``: what can be asked for, and what is printed."""

from __future__ import annotations

import asyncio
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftcore.cli.chaos.faults import FAULTS
from raftcore.cli.output import as_json, print_fields, print_json

if TYPE_CHECKING:
    from raftcore.cli.chaos.run import Result

SHOWN = 20
"""Anomalies that are printed; the object of ``--json`` holds all."""


def _chosen(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if name not in FAULTS:
            raise click.UsageError(f"--faults: '{name}' is not known; write some of {','.join(FAULTS)}")
    return names


@click.command()
@click.option("--seconds", type=click.IntRange(min=1), default=60, show_default=True, help="How long faults go on.")
@click.option("--nodes", type=click.Choice(["3", "5"]), default="3", show_default=True, help="How many nodes.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Decides which faults there are. Default: another one each time."
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("raftcore-chaos"),
    show_default=True,
    help="Where the nodes live, and what the run leaves. It must be empty, or made by an earlier run, which is then "
    "removed.",
)
@click.option("--clients", type=click.IntRange(min=1, max=100), default=8, show_default=True, help="How many clients.")
@click.option(
    "--faults",
    default=",".join(FAULTS),
    show_default=True,
    callback=_chosen,
    help="Which kinds of faults, with commas between them.",
)
@as_json
@click.pass_context
def chaos(
    context: click.Context,
    seconds: int,
    nodes: str,
    seed: int | None,
    directory: Path,
    clients: int,
    faults: tuple[str, ...],
    json: bool,
) -> None:
    """Run a real cluster, break it again and again while clients use it, and check what they were told.

    Processes are killed and paused, the network between them is cut and delayed, logs are torn. Then all faults end,
    and the cluster must serve and agree again. Exits with 0 only when no answer contradicts another, all members hold
    the same state, and no node ended or came back in a way that it must not.
    """
    from raftcore.cli.chaos.run import Run  # the checkers and the simulator's trace: no other command needs them

    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    run = Run(directory, seconds, int(nodes), seed, clients, faults)
    try:
        asyncio.run(run.run())
    except asyncio.CancelledError:  # by `ending_on_signals`
        raise click.Abort from None
    finally:
        run.save_history()
    result = run.judge()
    if json:
        print_json(asdict(result))
    else:
        _print(result)
    if not result.good:
        click.echo(f"raftcore: the chaos run failed: see {directory}; the same faults again: --seed {seed}", err=True)
        context.exit(1)


def _print(result: Result) -> None:
    recovery = "never" if result.recovery_seconds is None else f"{result.recovery_seconds:.1f} s after the last fault"
    print_fields(
        {
            "run": f"{result.seconds} s, {result.nodes} nodes, {result.clients} clients, seed {result.seed}",
            "operations": _counted(result.operations),
            "faults": _counted(result.faults),
            "elections": result.elections,
            "snapshots": _counted(result.snapshots),
            "all served again": recovery,
            "same state": "yes" if result.converged else "NO",
            "anomalies": result.anomalies,
            "problems": len(result.problems),
            "history": f"{result.history}, {result.edn}",
            "timeline": f"{result.timeline}, {result.events}",
        }
    )
    for text in [*result.problems, *result.anomaly_texts[:SHOWN]]:
        click.echo(f"\n{text}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"

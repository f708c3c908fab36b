"""``raftcore sim``: many seeds, one seed again, and a failing seed made shorter."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import click
import msgspec

from raftcore.cli.output import as_json, print_fields, print_json, print_table
from raftcore.errors import ConfigError
from raftcore.sim import runner
from raftcore.sim.plan import DEFAULT_STEPS, PROFILES, Plan, draw
from raftcore.sim.runner import Report
from raftcore.sim.timeline import render
from raftcore.sim.trace import Trace, lines, select
from raftcore.sim.world import World

BAR = 40
SHOWN_FAILURES = 20

_File = click.Path(dir_okay=False, path_type=Path)
_steps = click.option(
    "--steps", type=click.IntRange(min=1), default=DEFAULT_STEPS, show_default=True, help="Steps a run."
)
_profile = click.option(
    "--profile",
    type=click.Choice(sorted(PROFILES)),
    default="all",
    show_default=True,
    help="Which faults come, and how often.",
)


class Seeds(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """``A..B``, both included, or one number."""

    name = "A..B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """The seeds as a range."""
        if isinstance(value, range):
            return value
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value))
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            self.fail(f"{value!r} is no range of seeds; write the first and the last, such as 0..1999", param, ctx)
        return range(int(found[1]), int(found[2] or found[1]) + 1)


@click.group()
@click.pass_context
def sim(context: click.Context) -> None:
    """Run whole clusters in simulation: virtual time, a seeded network, disks that forget, clocks that drift.

    Every invariant of Raft is checked after every step. A failure is one number that shows it again.
    """
    logger = logging.getLogger("raftcore")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # nodes that die on purpose are no news here
    context.call_on_close(lambda: logger.setLevel(before))


@sim.command("run")
@click.option("--seeds", type=Seeds(), default="0..99", show_default=True, help="The first and the last seed.")
@_steps
@_profile
@click.option("--jobs", type=click.IntRange(min=1), help="Processes at a time. Default: one a core.")
@as_json
@click.pass_context
def run(context: click.Context, seeds: range, steps: int, profile: str, jobs: int | None, json: bool) -> None:
    """Run many seeds on all cores. Exits with 0 only when no rule was broken."""
    progress = _Progress(len(seeds))
    report, seconds = runner.run_seeds(seeds, steps=steps, profile=profile, jobs=jobs, progress=progress.show)
    progress.end()
    found = _summary(report, seeds, steps, profile, seconds)
    if json:
        print_json(found)
    else:
        _print(report, found)
    if report.failures:
        context.exit(1)


@sim.command()
@click.argument("run", metavar="SEED|PLAN")
@_steps
@_profile
@click.option("--node", "nodes", multiple=True, help="Only what this node, or client, has a part in. May be repeated.")
@click.option("--html", type=_File, help="Write the timeline to this file, for a browser.")
@click.option("--trace", type=_File, help="Write the whole trace to this file, as JSON lines.")
@click.option(
    "--history", type=_File, help="Write the clients' history to this file, as JSON lines, and as EDN beside it."
)
@as_json
@click.pass_context
def replay(
    context: click.Context,
    run: str,
    steps: int,
    profile: str,
    nodes: tuple[str, ...],
    html: Path | None,
    trace: Path | None,
    history: Path | None,
    json: bool,
) -> None:
    """Run one seed again, or the PLAN that `raftcore sim shrink` wrote, and print what happened in the order of time.

    With --json, print what it amounts to and the SHA-256 of its trace. Exits with 1 when a rule was broken.
    """
    world = World(_plan(run, steps, profile), traced=True)
    violation = world.run()
    recorded: Trace = world.trace  # type: ignore[assignment]  # it was asked for
    found = {
        "seed": world.plan.seed,
        "steps": len(world.plan.steps),
        "profile": world.plan.profile,
        "violation": str(violation) if violation is not None else None,
        "virtual_seconds": round(world.loop.now, 6),
        "events": world.loop.steps,
        "digest": recorded.digest(),
    }
    events = recorded.events
    if html is not None:
        html.write_text(render(events, f"raftcore: seed {world.plan.seed}", found), encoding="utf-8")
    if trace is not None:
        recorded.save(trace)
    if history is not None:
        world.clients.history.save(history)
        history.with_suffix(".edn").write_text(world.clients.history.edn(), encoding="utf-8")
    if json:
        print_json(found)
    else:
        for line in lines(select(events, nodes=nodes), of=events):
            click.echo(line)
        click.echo(f"{violation or 'no rule was broken'}; digest {found['digest']}", err=True)
    if violation is not None:
        context.exit(1)


@sim.command()
@click.argument("run", metavar="SEED|PLAN")
@_steps
@_profile
@click.option("--out", type=_File, help="Write the short plan to this file, for `raftcore sim replay`.")
@as_json
@click.pass_context
def shrink(context: click.Context, run: str, steps: int, profile: str, out: Path | None, json: bool) -> None:
    """Find fewer steps that break the same rule as SEED does, and print them.

    Exits with 1 when there is a rule that is broken, with 0 when SEED breaks none.
    """
    plan = runner.shrink(_plan(run, steps, profile), progress=_show_left)
    if plan is None:
        if json:
            print_json({"violation": None, "steps": []})
        else:
            click.echo(f"{run} breaks no rule: there is nothing to make shorter")
        return
    violation = World(plan).run()
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2))
    if json:
        print_json({"violation": str(violation), "steps": plan.steps})
    else:
        click.echo(str(violation))
        print_table(
            ("after", "action", "details"), [(f"{gap:.3f} s", action, seed) for gap, action, seed in plan.steps]
        )
    context.exit(1)


def _plan(run: str, steps: int, profile: str) -> Plan:
    """A seed's plan, or the one in a file. Raises `ConfigError`."""
    if run.isdecimal():
        return draw(int(run), steps, profile)
    try:
        return msgspec.json.decode(Path(run).read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{run!r} is neither a seed nor a plan ({error}); give a number, or a file that "
            "`raftcore sim shrink --out` wrote"
        ) from None


def _show_left(steps: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{steps} steps left ", nl=False, err=True)


class _Progress:
    """How far it is, on a terminal."""

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def show(self, report: Report) -> None:
        if sys.stderr.isatty():
            done = report.runs * BAR // self._runs
            click.echo(
                f"\r[{'#' * done}{'.' * (BAR - done)}] {report.runs} of {self._runs} seeds, "
                f"{len(report.failures)} violations ",
                nl=False,
                err=True,
            )

    def end(self) -> None:
        if sys.stderr.isatty():
            click.echo(err=True)


def _summary(report: Report, seeds: range, steps: int, profile: str, seconds: float) -> dict[str, object]:
    return {
        "seeds": [seeds[0], seeds[-1]],
        "steps": steps,
        "profile": profile,
        "seconds": round(seconds, 1),
        "violations": len(report.failures),
        "failures": report.failures[:SHOWN_FAILURES],
        "cluster_hours": round(report.cluster_seconds / 3600, 2),
        "events": report.events,
        "messages": report.network.get("sent", 0),
        "elections": report.counts.get("elections", 0),
        "snapshots_saved": report.counts.get("snapshots saved", 0),
        "snapshots_installed": report.counts.get("snapshots installed", 0),
        "answers": report.answers,
        "operations": report.operations,
        "faults": report.faults,
        "network": report.network,
        "disks": report.disks,
    }


def _print(report: Report, found: dict[str, object]) -> None:
    print_fields({name: value for name, value in found.items() if not isinstance(value, (dict, list))})
    click.echo()
    print_table(
        ("what happened", "times"),
        [*report.operations.items(), *report.faults.items()],
    )
    for failure in report.failures[:SHOWN_FAILURES]:
        click.echo(f"\nseed {failure.seed}: {failure.invariant}: {failure.node} {failure.text}")
    if report.failures:
        click.echo(f"\nlook at one with: raftcore sim replay {report.failures[0].seed} --html run.html")

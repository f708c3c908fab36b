"""``check``, ``config`` and ``plugins``: what a configuration says, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from raftcore.cli.output import as_json, print_fields, print_json, print_table
from raftcore.config import Config, schema
from raftcore.plugins import Registry

F = TypeVar("F", bound=Callable[..., Any])


def _parsed(_context: click.Context, _parameter: click.Parameter, settings: Iterable[str]) -> dict[str, str]:
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--set {setting}: write key=value, such as --set raft.heartbeat_ms=50")
        overrides[key] = value
    return overrides


def configured(command: F) -> F:
    """Give a command the argument `file` and the option `--set` (as `overrides`)."""
    option = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_parsed,
        help="Use another value for a dotted key. May be repeated.",
    )
    return click.argument("file", type=click.Path(path_type=Path))(option(command))


@click.command()
@configured
@as_json
def check(file: Path, overrides: dict[str, str], json: bool) -> None:
    """Check the configuration FILE, and that its backends can be built. Opens no data and no port."""
    config = Config.load(file, overrides=overrides)
    config.make_node()
    facts = {
        "node": config.id,
        "cluster": config.cluster,
        "address": config.address,
        "http": config.http.address,
        "data_dir": str(config.data_dir),
        "log_store": config.log_store.backend.name,
        "transport": config.transport.backend.name,
        "state_machine": config.state_machine.backend.name,
        "snapshots": config.snapshot_sink.backend.name,
    }
    if json:
        print_json(facts)
    else:
        click.echo(f"{file}: good")
        print_fields({name: value if value is not None else "none" for name, value in facts.items()})


@click.group(no_args_is_help=False)
def config() -> None:
    """Show settings and their schema."""


@config.command()
@configured
@as_json
def show(file: Path, overrides: dict[str, str], json: bool) -> None:
    """Every setting in force with FILE, and where it comes from. Secrets stay hidden."""
    settings = Config.load(file, overrides=overrides).settings
    if json:
        print_json([{"key": line.key, "value": line.value, "source": line.source} for line in settings])
    else:
        print_table(("KEY", "VALUE", "SOURCE"), [(line.key, line.value, line.source) for line in settings])


@config.command("schema")
def show_schema() -> None:
    """The JSON schema of a configuration, with the options of every backend that is installed."""
    print_json(schema(Registry()))


@click.command()
@as_json
def plugins(json: bool) -> None:
    """Every backend that can be chosen, and every plugin that can't be used, with the reason."""
    rows = Registry().rows()
    if json:
        fields = ("name", "kind", "distribution", "version", "status", "detail")
        print_json([{field: getattr(row, field) for field in fields} for row in rows])
        return
    print_table(
        ("NAME", "KIND", "DISTRIBUTION", "VERSION", "STATUS", "DETAIL"),
        [
            (row.name, row.kind or "-", row.distribution or "-", row.version or "-", row.status, row.detail)
            for row in rows
        ],
    )

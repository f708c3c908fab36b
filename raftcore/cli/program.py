"""The commands together, and what becomes of their errors: one line, and an exit code."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence

import click

from raftcore.cli import cluster, configuration, keys, log, snapshots
from raftcore.cli.chaos import command as chaos
from raftcore.cli.demo import command as demo
from raftcore.cli.output import as_json, print_fields, print_json
from raftcore.cli.run import run as run_command
from raftcore.cli.sim import sim
from raftcore.errors import ConfigError, IdentityError, PluginError, RaftCoreError
from raftcore.plugins import Registry

FAILED = 1
BAD_USAGE = 2


def program() -> click.Group:
    """The group ``raftcore`` with the commands that come with raftcore."""
    group = click.Group(
        "raftcore",
        help="Raft consensus: run a node, look after a cluster, look into what a node has stored.",
        no_args_is_help=False,  # an error is one line; --help shows the commands
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for command in (
        run_command,
        demo.demo,
        chaos.chaos,
        configuration.check,
        configuration.config,
        configuration.plugins,
        cluster.status,
        cluster.member,
        cluster.leader,
        keys.kv,
        log.log,
        snapshots.snapshot,
        sim,
        version,
    ):
        group.add_command(command)
    return group


@click.command()
@as_json
def version(json: bool) -> None:
    """The versions of raftcore and of what it runs on."""
    versions = {name: _installed(name) for name in ("raftcore", "msgspec", "pluggy", "uvloop", "uvicorn", "httptools")}
    found = {"python": platform.python_version(), **versions}
    if json:
        print_json(found)
    else:
        print_fields({name: found[name] or "not installed" for name in ("raftcore", "python", *list(versions)[1:])})


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Errors that are the user's to mend are one line on stderr."""
    group = program()
    Registry().add_commands(group)
    try:
        code = group.main(list(arguments), prog_name="raftcore", standalone_mode=False)
    except click.Abort:
        return _fail("interrupted", FAILED)
    except click.ClickException as error:
        return _fail(_one_line(error), error.exit_code)
    except (ConfigError, IdentityError, PluginError) as error:
        return _fail(str(error), BAD_USAGE)
    except (RaftCoreError, OSError) as error:
        return _fail(str(error), FAILED)
    return code if isinstance(code, int) else 0


def _one_line(error: click.ClickException) -> str:
    message = error.format_message().replace("\n", " ")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.rstrip('.')}; try `{error.ctx.command_path} --help`"
    return message[:1].lower() + message[1:]


def _fail(message: str, code: int) -> int:
    click.echo(f"raftcore: {message}", err=True)
    return code


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

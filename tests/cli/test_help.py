from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from raftcore.cli.program import program

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def _walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _walk(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_walk(program()))


def _sections() -> dict[str, str]:
    """The page's sections about commands, by what stands in their headings."""
    _, *sections = re.split(r"^## (?=`raftcore )", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {section.split("`")[1]: section for section in sections}


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("`", "")).strip()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Callable, path: tuple[str, ...]) -> None:
    """`--help` and `-h`, with a sentence for the command and for each option."""
    long, short = cli(*path, "--help"), cli(*path, "-h")

    assert (0, 0, long.out) == (long.code, short.code, short.out)
    assert f"Usage: raftcore {' '.join(path)}" in long.out
    assert COMMANDS[path].help
    assert all(option.help for option in COMMANDS[path].params if isinstance(option, click.Option))


def test_the_page_lists_every_command_and_no_other() -> None:
    """A section each, in the order of the help."""
    assert [f"raftcore {' '.join(path)}" for path in COMMANDS] == list(_sections())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_page_says_what_the_help_says(path: tuple[str, ...]) -> None:
    """The usage, the text, and every option with its sentence."""
    command, section = COMMANDS[path], _plain(_sections()[f"raftcore {' '.join(path)}"])
    context = click.Context(command, info_name=f"raftcore {' '.join(path)}")

    assert _plain(command.get_usage(context).removeprefix("Usage: ")) in section
    assert _plain(command.help or "") in section
    for option in command.params:
        if isinstance(option, click.Option):
            assert all(name in section for name in option.opts)
            assert _plain(option.help or "") in section

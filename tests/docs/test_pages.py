from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from raftcore import Config
from raftcore.cli.program import program

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
GetPage = Callable[[str], Any]

MINIMAL = """
node = { id = "n1", data_dir = "data" }
cluster = { name = "c", members = { n1 = "127.0.0.1:1" } }
"""


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/how-to/")])
def test_programs_print_what_their_page_says(name: str, page: GetPage, tmp_path: Path) -> None:
    """In a directory that holds only the page's files each of its programs runs, and prints what the page says."""
    found = page(name)

    assert found.programs == found.run(tmp_path)


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_python_that_is_no_program_is_python(name: str, page: GetPage) -> None:
    """A fragment can be compiled, and what it imports of raftcore exists."""
    for block in page(name).blocks:
        if block.language == "python":
            tree = ast.parse(block.text)
            compile(tree, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            own = [node for node in imports if "raftcore" in ast.unparse(node)]
            exec(compile(ast.Module(own, []), name, "exec"), {})


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_toml_is_a_configuration(name: str, page: GetPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key that a page shows is one that raftcore takes, but for files of others: they begin with ``# of``."""
    found = page(name)
    found.write_files(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # for state machines and backends of the page's own
    for block in found.blocks:
        if block.language != "toml" or block.text.startswith("# of "):
            continue
        whole = "node" in tomllib.loads(block.text)
        file = tmp_path / "node.toml"
        file.write_text(block.text if whole else MINIMAL + block.text)
        config = Config.load(file, environ={})
        sys.modules.pop(config.state_machine.backend.name.partition(":")[0], None)


def commands(text: str) -> Iterator[list[str]]:
    """The words behind ``raftcore`` in the lines of a block and in inline code."""
    lines = [
        line
        for block in re.findall(r"^```(?:console|sh)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    lines += re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        match = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*raftcore ((?:[a-z]\S*|--).*)", line.strip())
        if match:
            yield match[1].split()


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_every_command_exists(name: str) -> None:
    """A page names no command and no option of `raftcore` that there is not."""
    for words in commands((ROOT / name).read_text(encoding="utf-8")):
        command: click.Command = program()
        rest = list(words)
        while isinstance(command, click.Group) and rest:
            found = command.commands.get(rest.pop(0))
            assert found is not None, f"raftcore {' '.join(words)}"
            command = found
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert set() == {word for word in rest if word.startswith("--")} - options, f"raftcore {' '.join(words)}"


def test_every_message_of_a_refused_start_exists() -> None:
    """The messages that an operator looks up are in the code as they are in the table."""
    text = (ROOT / "docs/how-to/operate.md").read_text(encoding="utf-8").partition("## What a refused start means")[2]
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "raftcore").rglob("*.py"))
    joined = re.sub(r'"\s*f?"', "", code)

    missing = [words for cell in cells for words in re.findall(r"`([^`]+)`", cell) if words not in joined]
    assert len(cells) > 10
    assert [] == missing

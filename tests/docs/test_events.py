from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/events.md").read_text(encoding="utf-8")


def told() -> dict[str, set[str]]:
    """Name and keys of every event in the code: the calls of `notify` with a name and a dictionary."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "raftcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("notify", "_notify")):
                continue
            match node.args:
                case [ast.Constant(value=str(name)), ast.Dict(keys=keys)]:
                    found[name] = {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    return found


def test_every_event_and_its_detail_is_on_the_page() -> None:
    """The page lists the events that nodes tell of, each with its keys, and no others."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, re.MULTILINE)

    assert told()
    assert told() == {name: set(re.findall(r"`(\w+)`", detail)) for name, detail in rows}

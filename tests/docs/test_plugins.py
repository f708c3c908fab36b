from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from raftcore.contracts import log_store, observer, snapshot_sink, state_machine, transport
from raftcore.plugins import API, KINDS, backend, hookspecs

PAGE = (Path(__file__).parents[2] / "docs/reference/plugins.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def signature(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function's first line."""
    kind = "async def" if isinstance(function, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{kind} {function.name}({ast.unparse(function.args)}){returns}"


def members(node: ast.ClassDef) -> Iterator[str]:
    """The signatures and attributes of a class, in order."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield signature(statement)
        elif isinstance(statement, ast.AnnAssign):
            yield ast.unparse(statement)


def classes(tree: ast.Module, ending: str = "") -> dict[str, list[str]]:
    """Every class whose first base is `ending`, with what it holds."""
    return {
        node.name: list(members(node))
        for node in tree.body
        if isinstance(node, ast.ClassDef) and (not ending or ending in map(ast.unparse, node.bases))
    }


def source(module: ModuleType) -> ast.Module:
    """A module's syntax."""
    return ast.parse(inspect.getsource(module))


def test_every_method_of_every_contract_is_on_the_page() -> None:
    """The page repeats the contracts with their exact signatures: none is missing, and none is left over."""
    modules = (log_store, state_machine, transport, snapshot_sink, observer)
    contracts = {name: held for module in modules for name, held in classes(source(module), "Protocol").items()}

    on_the_page = classes(ast.parse(BLOCKS), "Protocol")

    assert len(contracts) == 7
    assert contracts == on_the_page


def test_every_hook_is_on_the_page() -> None:
    """The page lists the hooks with their exact arguments."""
    hooks = [
        signature(node)
        for node in source(hookspecs).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("raftcore_")
    ]

    assert len(hooks) == len(KINDS) + 1
    assert hooks == [signature(node) for node in ast.parse(BLOCKS).body if isinstance(node, ast.FunctionDef)]


def test_what_a_hook_hands_over_is_on_the_page() -> None:
    """The page shows the fields of `Backend` and `BuildContext`, and the version of the contracts."""
    told = classes(ast.parse(BLOCKS))
    real = classes(source(backend))

    assert {name: real[name] for name in ("Backend", "BuildContext")} == {
        name: told[name] for name in ("Backend", "BuildContext")
    }
    assert f"this release has version {API}" in PAGE

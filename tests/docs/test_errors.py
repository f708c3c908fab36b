from __future__ import annotations

import inspect
import re
from pathlib import Path

import raftcore.errors
from raftcore.errors import RaftCoreError
from raftcore.http.answers import failure_of

PAGE = (Path(__file__).parents[2] / "docs/reference/errors.md").read_text(encoding="utf-8")


def every_error() -> list[type[RaftCoreError]]:
    """All of them, in the order of the tree."""
    return [
        value for value in vars(raftcore.errors).values() if inspect.isclass(value) and issubclass(value, RaftCoreError)
    ]


def test_the_tree_is_the_one_in_the_code() -> None:
    """Each line of the tree is an exception, indented below what it derives from."""
    lines = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert lines is not None
    found, parents = {}, {}
    for line in lines[1].splitlines():
        name = line.split()[-1]
        depth = line.index(name) // 4
        parents[depth] = name
        found[name] = parents[depth - 1] if depth else "Exception"

    assert {error.__name__: error.__base__.__name__ for error in every_error()} == found


def test_outcome_and_status_are_those_of_the_code() -> None:
    """The table names the outcome of every exception, and its answer over HTTP."""
    table = []
    for error in every_error():
        failure = failure_of(error("why"))
        table.append((error.__name__, getattr(error, "outcome", ""), f"{failure.status} `{failure.body['error']}`"))

    rows = re.findall(r"^\| `(\w+)` \| (\w*) ?\| (.+?) \|$", PAGE, re.MULTILINE)

    assert table == rows


def test_every_error_has_a_text() -> None:
    """Below the table each exception has a part of its own, in the order of the tree."""
    names = [error.__name__ for error in every_error() if error is not RaftCoreError]

    assert names == re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from raftcore.backends.tcp_options import TcpOptions
from raftcore.config.document import HttpSettings
from raftcore.engine import RaftSettings
from raftcore.node import Limits, SnapshotPolicy

if TYPE_CHECKING:
    import msgspec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
LIMITS = PAGE.partition("## Limits")[2].partition("## ")[0]
RULES = PAGE.partition("## Rules that are easy to break")[2].partition("## ")[0]
NO_LIMITS = {"vote_order", "pre_vote", "check_quorum", "bind", "tls", "address"}


@pytest.mark.parametrize(
    ("table", "record"),
    [
        ("raft", RaftSettings),
        ("limits", Limits),
        ("snapshots", SnapshotPolicy),
        ("transport.options", TcpOptions),
        ("http", HttpSettings),
    ],
)
def test_every_setting_that_bounds_something_is_in_the_table(table: str, record: type[msgspec.Struct]) -> None:
    """The table of limits leaves no setting out that is one."""
    keys = [f"{table}.{name}" for name in record.__struct_fields__ if name not in NO_LIMITS]

    assert [] == [key for key in keys if f"`{key}`" not in LIMITS]


def test_every_constant_in_the_table_exists() -> None:
    """Limits that are no settings are named as they are in the code."""
    constants = re.findall(r"`((?:\w+\.)+)([A-Z_]+)`", LIMITS)

    assert constants
    for module, name in constants:
        assert isinstance(getattr(importlib.import_module(f"raftcore.{module.rstrip('.')}"), name), int | float)


def test_every_rule_has_a_module_and_a_test() -> None:
    """Twelve rules; what keeps and what guards each of them exists."""
    rows = re.findall(r"^\| (\d+) \| .* \| (.*) \| (.*) \|$", RULES, re.MULTILINE)
    tests = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert [str(number) for number in range(1, 13)] == [number for number, _, _ in rows]
    for _, keepers, guards in rows:
        modules, names = re.findall(r"`(\w+/\w+\.py)`", keepers), re.findall(r"`(test_\w+)`", guards)
        assert modules
        assert names
        assert [] == [module for module in modules if not (ROOT / "raftcore" / module).is_file()]
        assert [] == [name for name in names if f"def {name}(" not in tests]


def test_every_path_exists() -> None:
    """Files that the page names are there."""
    paths = re.findall(r"`((?:raftcore|tests)/[\w/.]+)`", PAGE)

    assert paths
    assert [] == [path for path in paths if not (ROOT / path).exists()]

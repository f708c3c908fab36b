from __future__ import annotations

import importlib.util
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftcore.config.document import Document
from raftcore.plugins.options import inner_type

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> types.ModuleType:
    """The script that makes the page."""
    spec = importlib.util.spec_from_file_location("generate_settings", ROOT / "docs/generate_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def records(kind: Any) -> list[type[msgspec.Struct]]:
    """The record in a type, if there is one."""
    inner = inner_type(kind, 0) if getattr(kind, "__origin__", None) is list else kind
    return [inner] if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else []


def test_the_page_is_what_the_script_makes(generator: types.ModuleType) -> None:
    """No key, default or text has changed since `python docs/generate_settings.py` was last run."""
    assert generator.render() == PAGE, "run `python docs/generate_settings.py`"


def test_every_key_of_the_configuration_is_on_the_page() -> None:
    """Walking the records that check a file finds no table and no key that the page leaves out."""
    wanted = []
    for table in msgspec.structs.fields(Document):
        (record,) = records(table.type)
        wanted += [f"### `{table.name}.{field.encode_name}`\n" for field in msgspec.structs.fields(record)]

    assert len(wanted) > 40
    assert [] == [heading for heading in wanted if heading not in PAGE]


def test_every_key_has_a_text_of_its_own(generator: types.ModuleType) -> None:
    """Nothing on the page is only a name and a type."""
    bare = [
        f"{name}.{field.name}"
        for name, record, _ in generator.TABLES
        for field in msgspec.structs.fields(record)
        if field.name not in generator.docstrings(record) and field.name not in generator.CHOSEN
    ]

    assert [] == bare

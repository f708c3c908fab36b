"""Writes `docs/reference/settings.md` from the records that check a configuration, and the texts beside their fields.

    python docs/generate_settings.py

A test compares the page with what this makes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from raftcore.config.document import (
    ClusterTable,
    HttpSettings,
    LogStoreTable,
    NodeTable,
    ObserverTable,
    PluginsTable,
    SnapshotsTable,
    StateMachineTable,
    TransportTable,
)
from raftcore.engine import RaftSettings
from raftcore.node import Limits
from raftcore.plugins import LOG_STORE, OBSERVER, SNAPSHOT_SINK, STATE_MACHINE, TRANSPORT, Kind, Registry, Secret

PAGE = Path(__file__).parent / "reference" / "settings.md"

TABLES: tuple[tuple[str, type[msgspec.Struct], Kind[Any] | None], ...] = (
    ("node", NodeTable, None),
    ("cluster", ClusterTable, None),
    ("raft", RaftSettings, None),
    ("limits", Limits, None),
    ("log_store", LogStoreTable, LOG_STORE),
    ("transport", TransportTable, TRANSPORT),
    ("state_machine", StateMachineTable, STATE_MACHINE),
    ("snapshots", SnapshotsTable, SNAPSHOT_SINK),
    ("observers", ObserverTable, OBSERVER),
    ("plugins", PluginsTable, None),
    ("http", HttpSettings, None),
)
ARRAYS = frozenset({"observers"})
UNITS = {"_ms": "milliseconds", "_bytes": "bytes", "_entries": "entries"}
WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", Secret: "secret", Any: "any value"}
CHOSEN = {
    "backend": "The name of the backend, or an import string such as `my_package.module:NAME`.",
    "options": "What the backend takes; an unknown key is refused.",
}
WIDTH = 120

INTRODUCTION = """\
# Settings

Every table and key of the configuration file, made from the records that check it (`python docs/generate_settings.py`).
[Configure](../how-to/configure.md) says how a file is written, what the environment and the command line change, and
how secrets are named. A file must say `node.id`, `node.data_dir` and `cluster.name`, and the node's address, in
`node.address` or among `cluster.members`. Unknown keys and values of a wrong type are refused before anything is
opened.
"""


def render() -> str:
    """The page."""
    parts = [INTRODUCTION]
    for name, table, kind in TABLES:
        heading = f"[[{name}]]" if name in ARRAYS else f"[{name}]"
        parts.append(f"## `{heading}`\n")
        parts += keys(name, table)
        if kind is not None:
            parts += backends(name, kind)
    return "\n".join(parts)


def keys(place: str, record: type[msgspec.Struct]) -> Iterator[str]:
    """One entry for each field of a record, with those of records inside it behind it."""
    texts = docstrings(record)
    for field in msgspec.structs.fields(record):
        key = f"{place}.{field.encode_name}"
        unit = next((unit for ending, unit in UNITS.items() if key.endswith(ending)), None)
        facts = [type_of(field.type), *([unit] if unit else []), default_of(field)]
        text = texts.get(field.name) or CHOSEN[field.name]
        yield f"### `{key}`\n\n{'; '.join(facts)}\n\n{wrapped(text)}\n"
        for inner in alternatives(field.type):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                yield from keys(key, inner)


def backends(name: str, kind: Kind[Any]) -> Iterator[str]:
    """The built-in backends of a kind, and their options."""
    found = [backend for backend in Registry().backends(kind) if backend.build.__module__.startswith("raftcore.")]
    yield "Built in:\n\n" + "\n".join(f"- `{backend.name}`: {backend.summary}" for backend in found) + "\n"
    for backend in found:
        if backend.options.__struct_fields__:
            yield f"With the backend `{backend.name}`:\n"
            yield from keys(f"{name}.options", backend.options)


@cache
def docstrings(record: type[msgspec.Struct]) -> dict[str, str]:
    """The texts below the fields of a record and of those that it is made of."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__[:-2]):
        if base.__module__.startswith("msgspec"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                found[statement.target.id] = inspect.cleandoc(str(following.value.value)).replace("``", "`")
    return found


def alternatives(kind: Any) -> list[Any]:
    """The members of a union; a type that is none stands alone."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        return [option for member in get_args(kind) for option in alternatives(member)]
    return [kind]


def type_of(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        least = next((meta.ge for meta in arguments[1:] if isinstance(meta, msgspec.Meta)), None)
        return type_of(arguments[0]) + (f" ≥ {least}" if least is not None else "")
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in arguments)
    if origin is list:
        return f"list: {type_of(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {type_of(arguments[0])}"
    if origin is dict:
        return f"table: {type_of(arguments[1])}"
    if arguments:
        return " or ".join(type_of(member) for member in arguments if member is not type(None))
    return "table" if issubclass_of_struct(kind) else WORDS[kind]


def issubclass_of_struct(kind: Any) -> bool:
    """Whether a type is a record."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A field's default, as TOML writes it."""
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None:
        return "not set"
    shown = msgspec.json.encode(value).decode()
    return f"default `{shown}`"


def wrapped(text: str) -> str:
    """Text with lines of this page's width."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

"""The configuration as a JSON schema, for editors and for checks outside raftcore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from raftcore.config.document import (
    Document,
    LogStoreTable,
    ObserverTable,
    SnapshotsTable,
    StateMachineTable,
    TransportTable,
)
from raftcore.plugins import (
    LOG_STORE,
    OBSERVER,
    SNAPSHOT_SINK,
    STATE_MACHINE,
    TRANSPORT,
    Backend,
    Kind,
    Registry,
    Secret,
)

_TABLES: tuple[tuple[type[msgspec.Struct], Kind[object]], ...] = (
    (LogStoreTable, LOG_STORE),
    (TransportTable, TRANSPORT),
    (StateMachineTable, STATE_MACHINE),
    (SnapshotsTable, SNAPSHOT_SINK),
    (ObserverTable, OBSERVER),
)
_SECRET = {
    "oneOf": [
        {
            "type": "object",
            "properties": {source: {"type": "string"}},
            "required": [source],
            "additionalProperties": False,
        }
        for source in ("env", "file")
    ]
}


def schema(registry: Registry) -> dict[str, Any]:
    """The JSON schema of the whole document, with the options of every backend in `registry`."""
    offers = [(table, backend) for table, kind in _TABLES for backend in registry.backends(kind)]
    (document, *references), definitions = msgspec.json.schema_components(
        [Document, *(backend.options for _, backend in offers)], schema_hook=_custom, ref_template="#/$defs/{name}"
    )
    for table, _ in _TABLES:
        chosen = [
            (backend, reference)
            for (owner, backend), reference in zip(offers, references, strict=True)
            if owner is table
        ]
        definitions[table.__name__]["allOf"] = _options_by_backend(table, chosen)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document, "$defs": definitions}


def _options_by_backend(
    table: type[msgspec.Struct], chosen: Sequence[tuple[Backend[Any, object], dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One rule for each backend: where it is chosen, `options` looks like this."""
    default = next(field.default for field in msgspec.structs.fields(table) if field.name == "backend")
    return [
        {
            "if": {
                "properties": {"backend": {"const": backend.name}},
                # A table that names no backend has chosen the default one.
                "required": [] if backend.name == default else ["backend"],
            },
            "then": {"properties": {"options": reference}},
        }
        for backend, reference in chosen
    ]


def _custom(kind: type) -> dict[str, Any]:
    if kind is Secret:
        return _SECRET
    raise NotImplementedError(f"an option can't be a {kind.__name__}")

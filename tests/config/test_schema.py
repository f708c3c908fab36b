"""The configuration as a JSON schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raftcore.config import schema
from raftcore.plugins import Registry


def rules(document: dict[str, Any], table: str) -> dict[str, Any]:
    """For each backend of a table: is its name required, and the definition of its options."""
    found = {}
    for rule in document["$defs"][table]["allOf"]:
        name = rule["if"]["properties"]["backend"]["const"]
        reference = rule["then"]["properties"]["options"]["$ref"]
        found[name] = (rule["if"]["required"], document["$defs"][reference.removeprefix("#/$defs/")])
    return found


def test_the_schema_describes_every_table(registry: Registry) -> None:
    """The tables of the file, closed against unknown keys."""
    document = schema(registry)

    top = document["$defs"]["Document"]
    assert "#/$defs/Document" == document["$ref"]
    assert ["node", "cluster"] == top["required"]
    assert top["additionalProperties"] is False
    assert {
        "raft",
        "limits",
        "log_store",
        "transport",
        "state_machine",
        "snapshots",
        "observers",
        "plugins",
        "http",
    } < set(top["properties"])


def test_the_options_depend_on_the_backend(registry: Registry) -> None:
    """Each backend's options are described where that backend is chosen; the default one also where none is named."""
    found = rules(schema(registry), "LogStoreTable")

    assert {"sqlite", "memory"} == set(found)
    assert [] == found["sqlite"][0]
    assert ["backend"] == found["memory"][0]
    assert {"path", "size", "key"} < set(found["sqlite"][1]["properties"])
    assert {} == found["memory"][1]["properties"]


@pytest.mark.parametrize("table", ["TransportTable", "StateMachineTable", "SnapshotsTable", "ObserverTable"])
def test_every_kind_of_backend_has_its_rules(table: str, registry: Registry) -> None:
    """No kind is left out."""
    assert {} != rules(schema(registry), table)


def test_a_secret_is_described_by_where_it_may_be(registry: Registry) -> None:
    """A secret is a table with `env` or with `file`."""
    key = rules(schema(registry), "LogStoreTable")["sqlite"][1]["properties"]["key"]

    assert [["env"], ["file"]] == [place["required"] for place in key["anyOf"][0]["oneOf"]]


def test_the_schema_of_what_is_installed_is_json() -> None:
    """The backends that come with raftcore can all be described."""
    document = json.loads(json.dumps(schema(Registry())))

    assert {"sqlite", "memory"} <= set(rules(document, "LogStoreTable"))

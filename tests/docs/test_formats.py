from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from raftcore import messages, types, wire
from raftcore.backends import directory, kv, sqlite_format, tcp_connection
from raftcore.node.identity import Identity

PAGE = (Path(__file__).parents[2] / "docs/reference/formats.md").read_text(encoding="utf-8")


def test_the_versions_are_those_of_the_code() -> None:
    """The first table names the version that this release writes of each format."""
    versions = re.findall(r"^\| .* \| (\d+) \| .* \|$", PAGE.partition("## ")[0], re.MULTILINE)
    written = [
        wire.VERSIONS[1],
        wire.RUN_FORMAT,
        msgspec.msgpack.decode(wire.encode_membership(types.NO_MEMBERSHIP))[0],
        Identity("c", "n", "i").format,
        sqlite_format.FORMAT,
        directory.FORMAT,
        kv.SNAPSHOT_FORMAT,
    ]

    assert [str(version) for version in written] == versions


def test_every_message_is_on_the_page() -> None:
    """Tag, name and fields of every message, in the order in which they are sent."""
    wanted = [
        (str(kind.__struct_config__.tag), kind.__name__, ", ".join(kind.__struct_fields__))
        for kind in get_args(messages.Message)
    ]

    assert wanted == re.findall(r"^\| (\d) \| `(\w+)` \| ([\w, ]+) \|$", PAGE, re.MULTILINE)


def test_records_have_the_fields_of_the_page() -> None:
    """The handshake and the small records, in the order in which they are stored and sent."""
    assert f"`[{', '.join(messages.Hello.__struct_fields__)}]`" in PAGE
    assert f"| snapshot meta | {', '.join(types.SnapshotMeta.__struct_fields__)} |" in PAGE
    assert f"| node info | {', '.join(types.NodeInfo.__struct_fields__)} |" in PAGE
    assert f"| vote | {', '.join(types.Vote._fields)} |" in PAGE
    assert f"| log id | {', '.join(types.LogId._fields)} |" in PAGE
    assert f"| leader | {', '.join(types.LeaderId._fields)} |" in PAGE
    assert f"`[{', '.join(sqlite_format.Meta.__struct_fields__)}]`" in PAGE


def test_the_tables_of_sqlite_are_those_of_the_code() -> None:
    """The page shows the schema as it is made."""
    block = re.search(r"```sql\n(.*?)```", PAGE, re.DOTALL)

    assert block is not None
    assert [sqlite_format.META_TABLE, sqlite_format.RUNS_TABLE] == block[1].splitlines()
    assert f"({sqlite_format.APPLICATION})" in PAGE


def test_the_limits_of_the_handshake_are_those_of_the_code() -> None:
    """The page names how long the first two frames of a connection may be."""
    assert f'"{tcp_connection.MAGIC.decode()}" | handshake' in PAGE
    assert f"at most {tcp_connection.HANDSHAKE_BYTES} bytes" in PAGE
    assert f"at most {tcp_connection._REASON_BYTES} bytes" in PAGE

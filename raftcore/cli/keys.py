"""``kv``: the built-in key-value state machine, through the HTTP face of any member."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from typing import Any, get_args
from urllib.parse import quote

import click

from raftcore.cli.client import Member, url_option
from raftcore.cli.output import as_json, print_json, print_table
from raftcore.node.reading import Consistency

PAGE = 1000

_consistency = click.option(
    "--consistency",
    type=click.Choice(get_args(Consistency)),
    default="linearizable",
    show_default=True,
    help="How fresh it must be: confirmed by a quorum, by the leader's lease, or whatever the member has.",
)


@click.group(no_args_is_help=False)
def kv() -> None:
    """Read and write keys."""


@kv.command()
@click.argument("key")
@url_option
@_consistency
@as_json
def get(key: str, url: str, consistency: str, json: bool) -> None:
    """Print the value of KEY, byte for byte (on a terminal, with a line's end)."""
    answer = Member(url).ask("GET", _path(key), query={"consistency": consistency})
    if json:
        print_json({"key": key, **_value(answer.body), "version": int(answer.headers["etag"].strip('"'))})
        return
    sys.stdout.buffer.write(answer.body)
    if sys.stdout.isatty():
        click.echo()


@kv.command()
@click.argument("key")
@click.argument("value")
@url_option
def put(key: str, value: str, url: str) -> None:
    """Set KEY to VALUE; to what standard input holds, when VALUE is "-"."""
    body = sys.stdin.buffer.read() if value == "-" else value.encode()
    answer = Member(url).ask("PUT", _path(key), body=body)
    click.echo(f"version {answer.json()['version']}")


@kv.command()
@click.argument("key")
@url_option
def delete(key: str, url: str) -> None:
    """Remove KEY."""
    version = Member(url).ask("DELETE", _path(key)).json()["version"]
    click.echo(f"removed version {version}" if version else "there was no such key")


@kv.command("list")
@click.option("--prefix", default="", help="Only keys that begin with this.")
@click.option("--after", help="Only keys behind this one.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@url_option
@_consistency
@as_json
def list_keys(prefix: str, after: str | None, limit: int, url: str, consistency: str, json: bool) -> None:
    """Keys in order, with their values."""
    items = list(_items(Member(url), prefix, after, limit, consistency))
    if json:
        print_json(items)
    else:
        rows = [(item["key"], item["version"], _shown(item)) for item in items]
        print_table(("KEY", "VERSION", "VALUE"), rows)


def _items(member: Member, prefix: str, after: str | None, limit: int, consistency: str) -> Iterator[dict[str, Any]]:
    """Page by page, as few pages as will do."""
    while limit > 0:
        page = member.get("/kv", prefix=prefix, after=after, limit=min(limit, PAGE), consistency=consistency)
        yield from page["items"]
        limit -= len(page["items"])
        after = page["next"]
        if after is None:
            return


def _path(key: str) -> str:
    if not key:
        raise click.UsageError("the key is empty; name one")
    return f"/kv/{quote(key, safe='')}"


def _value(data: bytes) -> dict[str, str]:
    try:
        return {"value": data.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(data).decode()}


def _shown(item: dict[str, Any]) -> str:
    """A value on one line."""
    text = item.get("value")
    if text is None:
        return f"base64:{item['value_base64']}"
    return str(text) if text.isprintable() else repr(text)

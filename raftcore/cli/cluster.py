"""``status``, ``member`` and ``leader``: a cluster that runs, through the HTTP face of its members."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from raftcore.cli.client import Member, url_option
from raftcore.cli.output import as_json, print_json, print_table

_COLUMNS = ("NODE", "ROLE", "TERM", "LEADER", "LAST", "COMMIT", "APPLIED", "SNAPSHOT", "BAD FRAMES", "REFUSED", "URL")


@click.command()
@click.argument("urls", metavar="URL...", nargs=-1, required=True)
@as_json
@click.pass_context
def status(context: click.Context, urls: tuple[str, ...], json: bool) -> None:
    """Ask each member at its HTTP address how it is. Exits with 1 when one does not answer."""
    found: dict[str, dict[str, Any]] = {}
    for url in urls:
        member = Member(url)
        try:
            found[url] = member.get("/status")
        except click.ClickException as error:
            found[url] = {"error": error.message.removeprefix(f"{url}: ")}
    if json:
        print_json([{"url": url, **status} for url, status in found.items()])
    else:
        print_table(_COLUMNS, [_row(url, status) for url, status in found.items()])
        _print_members(found)
    if any("error" in status for status in found.values()):
        context.exit(1)


def _row(url: str, status: dict[str, Any]) -> tuple[object, ...]:
    if "error" in status:
        return ("-", status["error"], *("-" for _ in _COLUMNS[3:]), url)
    transport = status["transport"]
    return (
        *(status[name] for name in ("node", "role", "term")),
        status["leader"] or "none",
        *(status[name] for name in ("last_index", "commit", "applied", "snapshot")),
        transport.get("bad_frames", 0),
        transport.get("refused", 0),
        url,
    )


def _print_members(found: dict[str, dict[str, Any]]) -> None:
    """Who the members are, as the one that knows most says."""
    answered = [status for status in found.values() if "error" not in status]
    if answered:
        newest = max(answered, key=lambda status: (status["commit"], status["role"] == "leader"))
        voters = " and ".join(", ".join(group) for group in newest["voters"])
        click.echo(f"cluster {newest['cluster']}: voters {voters}; learners {', '.join(newest['learners']) or 'none'}")


@click.group(no_args_is_help=False)
def member() -> None:
    """List, add, promote and remove members."""


@member.command("list")
@url_option
@as_json
def list_members(url: str, json: bool) -> None:
    """Who is in the cluster."""
    answer = Member(url).get("/members")
    if json:
        print_json(answer["members"])
    else:
        _print(answer)


@member.command()
@click.argument("id")
@click.argument("address")
@url_option
def add(id: str, address: str, url: str) -> None:
    """Add the node ID, which others reach at ADDRESS (host:port), as a learner.

    Promote it when `raftcore status` shows that it has caught up.
    """
    _print(Member(url).ask("POST", "/members", content={"id": id, "address": address}).json())


@member.command()
@click.argument("id")
@url_option
def promote(id: str, url: str) -> None:
    """Make the learner ID a voter."""
    _print(Member(url).ask("POST", "/members/promote", content={"id": id}).json())


@member.command()
@click.argument("id")
@url_option
def remove(id: str, url: str) -> None:
    """Take the member ID out of the cluster. Its process goes on; stop it afterwards."""
    _print(Member(url).ask("DELETE", f"/members/{quote(id, safe='')}").json())


@click.command()
@click.argument("target", required=False)
@url_option
def leader(target: str | None, url: str) -> None:
    """Hand leadership to the member TARGET, or to whom the leader chooses."""
    answer = Member(url).ask("POST", "/leader", content={"target": target}).json()
    click.echo(f"{answer['leader'] or 'nobody yet'} leads")


def _print(answer: dict[str, Any]) -> None:
    rows = [
        (member["id"], member["role"], "yes" if member["leader"] else "", member["address"])
        for member in answer["members"]
    ]
    print_table(("ID", "ROLE", "LEADER", "ADDRESS"), rows)
    if answer["joint"]:
        click.echo("a change of voters is under way")

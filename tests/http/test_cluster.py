from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

Serve = Callable[..., None]


def _roles(body: dict) -> dict[str, str]:
    return {member["id"]: member["role"] for member in body["members"]}


def test_a_member_comes_and_another_goes_through_any_member(serve: Serve) -> None:
    """A learner, then a voter; the leader itself may leave. Each answer shows the members after it."""

    async def check(cluster) -> None:
        leader, client = await cluster.leader(), cluster.clients[await cluster.follower()]
        await cluster.add("n4", {}).start()
        await client.put("/kv/x", content=b"1")
        added = (await client.post("/members", json={"id": "n4", "address": "n4.example:7101"})).json()
        promoted = (await client.post("/members/promote", json={"id": "n4"})).json()
        removed = (await client.delete(f"/members/{leader}")).json()

        assert {"n1": "voter", "n2": "voter", "n3": "voter", "n4": "learner"} == _roles(added)
        assert {"n1": "voter", "n2": "voter", "n3": "voter", "n4": "voter"} == _roles(promoted)
        assert {name: "voter" for name in ("n1", "n2", "n3", "n4") if name != leader} == _roles(removed)
        assert b"1" == (await cluster.clients["n4"].get("/kv/x")).content

    serve(check)


def test_a_member_with_an_old_list_leaves_nobody_out(serve: Serve) -> None:
    """It was away while n4 joined; asked to remove another one, it first learns who the members are."""

    async def check(cluster) -> None:
        leader, away = await cluster.leader(), await cluster.follower()
        (third,) = {"n1", "n2", "n3"} - {leader, away}
        await cluster.add("n4", {}).start()
        cluster.isolate(away)
        await cluster.nodes[away].wait_for(lambda status: status.leader is None)
        await cluster.clients[leader].post("/members", json={"id": "n4", "address": "n4.example:7101"})
        await cluster.clients[leader].post("/members/promote", json={"id": "n4"})
        removing = asyncio.ensure_future(cluster.clients[away].delete(f"/members/{third}"))
        await asyncio.sleep(0.05)  # in which it could take up its old list
        cluster.hub.heal()
        removed = await removing

        assert 200 == removed.status_code
        assert sorted([leader, away, "n4"]) == sorted(_roles(removed.json()))

    serve(check)


def test_the_list_of_members_shows_who_leads_and_where_each_is(serve: Serve) -> None:
    """One object a member."""

    async def check(cluster) -> None:
        leader = await cluster.leader()
        answer = (await cluster.clients["n2"].get("/members")).json()

        assert not answer["joint"]
        assert [
            {"id": name, "address": f"{name}.example:7101", "role": "voter", "leader": name == leader}
            for name in ("n1", "n2", "n3")
        ] == answer["members"]

    serve(check)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "message"),
    [
        ("POST", "/members", b'{"id": "n2", "address": "a:1"}', 409, "membership_refused", "'n2' is a member already"),
        ("POST", "/members", b'{"id": "n4"}', 400, "bad_request", "missing required field `address`"),
        ("POST", "/members", b'{"id": "n 4", "address": "a:1"}', 400, "bad_request", "$.id"),
        ("POST", "/members", b'{"id": "n4", "address": "a"}', 400, "bad_request", "$.address"),
        ("POST", "/members", b"", 400, "bad_request", "id, address"),
        ("POST", "/members/promote", b'{"id": "n1"}', 409, "membership_refused", "'n1' is a voter already"),
        ("POST", "/members/promote", b'{"id": "n9"}', 404, "no_such_member", "the members are n1, n2, n3"),
        ("DELETE", "/members/n9", b"", 404, "no_such_member", "'n9' is not a member"),
        ("POST", "/leader", b'{"target": "n9"}', 409, "membership_refused", "'n9' is not another voter"),
        ("POST", "/leader", b'{"to": "n2"}', 400, "bad_request", "send a JSON object with: target"),
    ],
)
def test_a_bad_command_is_refused_with_a_reason(
    serve: Serve, method: str, path: str, body: bytes, status: int, error: str, message: str
) -> None:
    """By whatever member it was asked of; nothing changes."""

    async def check(cluster) -> None:
        client = cluster.clients[await cluster.follower()]
        answer = await client.request(method, path, content=body)

        assert (status, error) == (answer.status_code, answer.json()["error"])
        assert message in answer.json()["message"]
        assert ["n1", "n2", "n3"] == [member["id"] for member in (await client.get("/members")).json()["members"]]

    serve(check)


@pytest.mark.parametrize("named", [True, False])
def test_leadership_is_handed_over(serve: Serve, named: bool) -> None:
    """To whom was named, or to whom the leader chooses; the answer says who leads now."""

    async def check(cluster) -> None:
        leader, follower = await cluster.leader(), await cluster.follower()
        answer = await cluster.clients[follower].post("/leader", json={"target": follower} if named else None)

        assert 200 == answer.status_code
        assert leader != answer.json()["leader"]
        assert not named or follower == answer.json()["leader"]

    serve(check)


def test_a_snapshot_is_taken_on_the_member_that_is_asked(serve: Serve) -> None:
    """The answer names it; the member's status shows its index."""

    async def check(cluster) -> None:
        client = cluster.clients["n2"]
        await client.put("/kv/x", content=b"1")
        answer = (await client.post("/snapshot")).json()

        assert answer["id"].endswith("-n2")
        assert answer["bytes"] > 0
        assert answer["index"] == (await client.get("/status")).json()["snapshot"]
        assert 0 == (await cluster.clients["n1"].get("/status")).json()["snapshot"]

    serve(check)

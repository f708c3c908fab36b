from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from raftcore.backends.kv import KeyValue
from raftcore.config import HttpSettings
from raftcore.http import make_app
from raftcore.node import Limits

Serve = Callable[..., None]


class Other:
    blocking = False

    def __init__(self) -> None:
        self._inner = KeyValue()

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_what_one_member_takes_every_member_gives(serve: Serve) -> None:
    """A linearizable read on any member sees an acknowledged write, raw, with its version as the ETag."""

    async def check(cluster) -> None:
        version = (await cluster.clients[await cluster.follower()].put("/kv/colour", content=b"r\x00\xffd")).json()[
            "version"
        ]

        for client in cluster.clients.values():
            answer = await client.get("/kv/colour")
            assert (200, b"r\x00\xffd", f'"{version}"') == (answer.status_code, answer.content, answer.headers["etag"])
            assert "application/octet-stream" == answer.headers["content-type"]

    serve(check)


@pytest.mark.parametrize("consistency", ["linearizable", "lease", "stale"])
def test_a_read_has_the_consistency_that_is_asked_for(serve: Serve, consistency: str) -> None:
    """On the member that wrote it, all three give the value."""

    async def check(cluster) -> None:
        client = cluster.clients[await cluster.leader()]
        await client.put("/kv/colour", content=b"red")

        assert b"red" == (await client.get(f"/kv/colour?consistency={consistency}")).content

    serve(check)


def test_a_stale_read_needs_no_quorum_and_a_linearizable_one_does(serve: Serve) -> None:
    """A member that is cut off still tells what it has, when that is asked for."""

    async def check(cluster) -> None:
        name = await cluster.leader()
        client = cluster.clients[name]
        await client.put("/kv/colour", content=b"red")
        cluster.isolate(name)
        stale, fresh = await client.get("/kv/colour?consistency=stale"), await client.get("/kv/colour")

        assert b"red" == stale.content
        assert (503, "read_unavailable") == (fresh.status_code, fresh.json()["error"])
        assert "1" == fresh.headers["retry-after"]
        assert "outcome" not in fresh.json()

    serve(check, limits=Limits(read_timeout_ms=300))


@pytest.mark.parametrize("key", ["a/b", "a/cas", "50%", "a b", "ключ", "?x=1", "#"])
def test_any_text_can_be_a_key(serve: Serve, key: str) -> None:
    """A key comes back from the list as it was written, percent-encoded in the path."""

    async def check(cluster) -> None:
        from urllib.parse import quote

        client = cluster.clients["n1"]
        path = f"/kv/{quote(key, safe='')}"
        assert 200 == (await client.put(path, content=b"1")).status_code

        assert b"1" == (await client.get(path)).content
        assert [key] == [item["key"] for item in (await client.get("/kv")).json()["items"]]

    serve(check)


def test_deleting_answers_what_version_was_there(serve: Serve) -> None:
    """The second time there is nothing, which is no error: a delete may be sent again."""

    async def check(cluster) -> None:
        client = cluster.clients["n1"]
        version = (await client.put("/kv/colour", content=b"")).json()["version"]

        assert {"version": version} == (await client.delete("/kv/colour")).json()
        assert {"version": 0} == (await client.delete("/kv/colour")).json()
        assert 404 == (await client.get("/kv/colour")).status_code

    serve(check)


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "message"),
    [
        ("GET", "/kv/none", 404, "no_such_key", "key 'none' does not exist"),
        ("GET", "/kv/x?consistency=fresh", 400, "bad_request", "'fresh' is not known; use one of linearizable, lease"),
        ("GET", "/kv/", 400, "bad_key", "the key is empty"),
        ("PUT", "/kv/%ff", 400, "bad_key", "not UTF-8"),
        ("PUT", f"/kv/{'k' * 33}", 414, "key_too_long", "33 bytes, more than 32"),
        ("PUT", f"/kv/{'%C3%A9' * 17}", 414, "key_too_long", "34 bytes, more than 32"),
        ("GET", "/kv?limit=0", 400, "bad_request", "limit '0' is not a number from 1 to 1000"),
        ("GET", "/kv?limit=many", 400, "bad_request", "limit 'many'"),
        ("GET", "/kv?limit=1001", 400, "bad_request", "limit '1001'"),
        ("POST", "/kv/x", 405, "method_not_allowed", "/kv/x does not take POST"),
        ("PUT", "/kv", 405, "method_not_allowed", "/kv does not take PUT"),
        ("GET", "/nothing", 404, "not_found", "there is nothing at /nothing"),
    ],
)
def test_a_bad_request_is_refused_with_a_reason(
    serve: Serve, method: str, path: str, status: int, error: str, message: str
) -> None:
    """Each has its status, a word and a sentence, in JSON."""

    async def check(cluster) -> None:
        answer = await cluster.clients["n1"].request(method, path)

        assert (status, error) == (answer.status_code, answer.json()["error"])
        assert message in answer.json()["message"]

    serve(check, settings=HttpSettings(max_key_bytes=32))


@pytest.mark.parametrize("has_length", [True, False])
def test_a_body_over_the_limit_is_refused_while_it_is_read(serve: Serve, has_length: bool) -> None:
    """With a length and without one; the largest that is allowed is taken."""
    sent = []

    async def parts(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 100):
            sent.append(100)
            yield bytes(100)

    async def check(cluster) -> None:
        client = cluster.clients["n1"]
        allowed = await client.put("/kv/x", content=bytes(1000) if has_length else parts(1000))
        sent.clear()
        answer = await client.put("/kv/x", content=bytes(1001) if has_length else parts(100_000))

        assert 200 == allowed.status_code
        assert (413, "too_large", "not_appended") == (answer.status_code, *_word_and_outcome(answer))
        assert "at most 1000 bytes" in answer.json()["message"]
        assert sum(sent) <= 1200

    serve(check, settings=HttpSettings(max_body_bytes=1000))


def test_a_body_that_does_not_arrive_is_given_up(serve: Serve) -> None:
    """The request's time runs while its body is read."""

    async def stuck() -> AsyncIterator[bytes]:
        yield b"beginning"
        await asyncio.Event().wait()

    async def check(cluster) -> None:
        answer = await cluster.clients["n1"].put("/kv/x", content=stuck())

        assert (408, "timeout", "not_appended") == (answer.status_code, *_word_and_outcome(answer))

    serve(check, settings=HttpSettings(request_timeout_ms=200))


def test_a_value_over_the_limit_of_the_node_is_refused(serve: Serve) -> None:
    """`limits.max_payload_bytes` counts too, on whatever member it is."""

    async def check(cluster) -> None:
        answer = await cluster.clients["n1"].put("/kv/x", content=bytes(1000))

        assert (413, "too_large", "not_appended") == (answer.status_code, *_word_and_outcome(answer))
        assert "limits.max_payload_bytes" in answer.json()["message"]

    serve(check, limits=Limits(max_payload_bytes=500))


def test_a_listing_goes_page_by_page(serve: Serve) -> None:
    """`next` of a page is `after` of the next; the last has none. The prefix chooses."""

    async def check(cluster) -> None:
        client = cluster.clients["n1"]
        for number in range(5):
            await client.put(f"/kv/a{number}", content=b"v")
        await client.put("/kv/b", content=b"\xff")
        pages, after = [], {}
        while True:
            page = (await client.get("/kv", params={"prefix": "a", "limit": 2, **after})).json()
            pages.append([item["key"] for item in page["items"]])
            if page["next"] is None:
                break
            after = {"after": page["next"]}

        assert [["a0", "a1"], ["a2", "a3"], ["a4"]] == pages
        (other,) = (await client.get("/kv", params={"prefix": "b"})).json()["items"]
        assert ("b", b"\xff") == (other["key"], base64.b64decode(other["value_base64"]))

    serve(check)


def test_a_page_ends_when_its_values_are_large(serve: Serve) -> None:
    """At least one item, at most `max_body_bytes` of values."""

    async def check(cluster) -> None:
        client = cluster.clients["n1"]
        for number in range(3):
            await client.put(f"/kv/{number}", content=bytes(900))
        page = (await client.get("/kv")).json()

        assert (["0"], "0") == ([item["key"] for item in page["items"]], page["next"])

    serve(check, settings=HttpSettings(max_body_bytes=1000))


def test_compare_and_set_changes_only_what_is_expected(serve: Serve) -> None:
    """By version 0 (not there), by value, by version; a lost race is 409 and shows what is there."""

    async def check(cluster) -> None:
        client = cluster.clients["n1"]

        async def cas(**body: object) -> httpx.Response:
            return await client.post("/kv/lock/cas", json=body)

        first = await cas(value="me", expect_version=0)
        lost = await cas(value="you", expect_version=0)
        second = await cas(value_base64=base64.b64encode(b"\xff").decode(), expect_value="me")
        third = await cas(value="end", expect_value_base64=base64.b64encode(b"\xff").decode())
        fourth = await cas(value="again", expect_version=third.json()["version"])

        assert [200, 409, 200, 200, 200] == [answer.status_code for answer in (first, lost, second, third, fourth)]
        assert ("mismatch", "me", first.json()["version"]) == tuple(
            lost.json()[name] for name in ("error", "value", "version")
        )
        assert b"again" == (await client.get("/kv/lock")).content

    serve(check)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not what /kv/x/cas takes"),
        (b'{"value": "a"}', "0 given where one is needed: expect_version"),
        (b'{"expect_version": 1}', "0 given where one is needed: value or value_base64"),
        (b'{"value": "a", "value_base64": "", "expect_version": 1}', "2 given where one is needed"),
        (b'{"value_base64": "?", "expect_version": 1}', "value_base64 is not base64"),
        (b'{"value": "a", "expect_version": -1}', "expect_version"),
        (b'{"value": "a", "expect_version": 9223372036854775808}', "expect_version"),
        (b'{"value": "a", "expected": 1}', "unknown field `expected`"),
        (b'{"value": "\xff", "expect_version": 1}', "not what /kv/x/cas takes"),
    ],
)
def test_a_bad_comparison_is_refused(serve: Serve, body: bytes, message: str) -> None:
    """Nothing is proposed, and the answer says what to send."""

    async def check(cluster) -> None:
        answer = await cluster.clients["n1"].post("/kv/x/cas", content=body)

        assert (400, "bad_request", "not_appended") == (answer.status_code, *_word_and_outcome(answer))
        assert message in answer.json()["message"]

    serve(check)


def test_members_with_the_same_entries_have_the_same_digest(serve: Serve) -> None:
    """And another state has another one."""

    async def check(cluster) -> None:
        client = cluster.clients["n1"]
        before = (await client.get("/digest")).json()["digest"]
        await client.put("/kv/x", content=b"1")
        for each in cluster.clients.values():
            await each.get("/kv/x")
        digests = [(await each.get("/digest")).json() for each in cluster.clients.values()]

        assert 1 == len({(answer["applied"], answer["digest"]) for answer in digests})
        assert before != digests[0]["digest"]
        assert ["n1", "n2", "n3"] == [answer["node"] for answer in digests]

    serve(check)


@pytest.mark.parametrize(("method", "path"), [("GET", "/kv/x"), ("PUT", "/kv/x"), ("GET", "/kv"), ("GET", "/digest")])
def test_another_state_machine_has_no_keys(serve: Serve, method: str, path: str) -> None:
    """The key paths are for the built-in state machine; nothing is proposed to another one."""

    async def check(cluster) -> None:
        answer = await cluster.clients["n1"].request(method, path)

        assert (501, "no_key_value") == (answer.status_code, answer.json()["error"])
        assert "the state machine is Other" in answer.json()["message"]

    serve(check, machine=Other)


def test_the_application_mounts_in_another_one(serve: Serve) -> None:
    """Below a prefix everything is as at the root, errors too."""

    async def check(cluster) -> None:
        outer = Starlette(routes=[Mount("/raft", make_app(cluster.nodes["n1"]))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test") as client:
            assert 200 == (await client.put("/raft/kv/a%2Fb", content=b"1")).status_code

            assert b"1" == (await client.get("/raft/kv/a/b")).content
            assert "no_such_key" == (await client.get("/raft/kv/none")).json()["error"]

    serve(check)


def _word_and_outcome(answer: httpx.Response) -> tuple[str, str]:
    return answer.json()["error"], answer.json()["outcome"]

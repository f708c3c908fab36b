from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest


def test_the_status_of_all_members_is_one_table(cluster: list, cli: Callable, leader: Callable) -> None:
    """A line each, and who the members are."""
    first = leader(cluster)
    done = cli("status", *(process.url for process in cluster))
    lines = done.out.splitlines()

    assert 0 == done.code
    assert ["NODE", "ROLE", "TERM", "LEADER"] == lines[0].split()[:4]
    assert [[process.name, "leader" if process is first else "follower", first.name] for process in cluster] == [
        [line.split()[column] for column in (0, 1, 3)] for line in lines[1:4]
    ]
    assert "cluster test: voters n1, n2, n3; learners none" == lines[4]


def test_a_member_that_does_not_answer_is_shown_as_such(processes: Callable, cli: Callable) -> None:
    """Exit code 1; the others are shown all the same."""
    node, gone = processes("n1", "n2")
    node.configure({"n1": node.raft})
    node.start()
    text, json = cli("status", node.url, gone.url), cli("status", node.url, gone.url, "--json")

    assert (1, 1) == (text.code, json.code)
    assert "n1" == json.json[0]["node"]
    assert "no answer" in json.json[1]["error"]
    assert "no answer" in text.out.splitlines()[2]


def test_keys_are_written_and_read_through_any_member(cluster: list, cli: Callable) -> None:
    """Put, get, list and delete; each reading command in JSON too."""
    urls = [process.url for process in cluster]
    put = cli("kv", "put", "a/b", "välue", "--url", urls[0])
    got = cli("kv", "get", "a/b", "--url", urls[1])
    cli("kv", "put", "c", "x", "--url", urls[1])
    listed = cli("kv", "list", "--url", urls[2], "--limit", "1", "--json")
    rest = cli("kv", "list", "--url", urls[2], "--after", "a/b")
    gone, again = (cli("kv", "delete", "a/b", "--url", urls[2]) for _ in range(2))
    missing = cli("kv", "get", "a/b", "--url", urls[0])

    version = int(put.out.removeprefix("version "))
    assert "välue" == got.out
    assert [{"key": "a/b", "value": "välue", "version": version}] == listed.json
    assert ["KEY", "c"] == [line.split()[0] for line in rest.out.splitlines()]
    assert (f"removed version {version}\n", "there was no such key\n") == (gone.out, again.out)
    assert (1, f"raftcore: {urls[0]}: key 'a/b' does not exist\n") == (missing.code, missing.err)


def test_a_value_may_come_from_standard_input(cluster: list, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte; and so it is printed."""
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00\n")))
    cli("kv", "put", "raw", "-", "--url", cluster[0].url)
    shown = cli("kv", "get", "raw", "--url", cluster[0].url, "--json", "--consistency", "lease")

    assert b"\xff\x00\n" == cluster[0].ask("/kv/raw")
    assert "/wAK" == shown.json["value_base64"]
    assert "base64:/wAK" in cli("kv", "list", "--url", cluster[0].url).out


def test_leadership_is_handed_over(cluster: list, cli: Callable, leader: Callable) -> None:
    """To the member that is named."""
    old = leader(cluster)
    target = next(process for process in cluster if process is not old)
    done = cli("leader", target.name, "--url", old.url)

    assert (0, f"{target.name} leads\n") == (done.code, done.out)
    assert target is leader(cluster)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("kv", "get", "x", "--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1: no answer: "),
        (("kv", "get", "x", "--url", "ftp://127.0.0.1:1"), 2, "'ftp://127.0.0.1:1' is not a member's address"),
        (("kv", "get", "x", "--url", "127.0.0.1:many"), 2, "'127.0.0.1:many' is not a member's address"),
        (("kv", "get", "", "--url", "http://127.0.0.1:1"), 2, "the key is empty"),
        (("kv", "get", "x"), 2, "missing option '--url'"),
        (("kv", "get", "x", "--url", "a:1", "--consistency", "fresh"), 2, "'fresh' is not one of"),
        (("nothing",), 2, "no such command 'nothing'"),
        ((), 2, "missing command; try `raftcore --help`"),
    ],
)
def test_a_bad_use_is_one_line(cli: Callable, arguments: Sequence[str], code: int, message: str) -> None:
    """Exit code 2; 1 when it was right and failed."""
    done = cli(*arguments)

    assert code == done.code
    assert 1 == len(done.err.splitlines())
    assert done.err.startswith("raftcore: ")
    assert message in done.err


def test_an_answer_that_is_not_ours_is_no_traceback(cli: Callable) -> None:
    """Another server at that address."""
    import http.server

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "kv" in self.path else 200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        listed, got = cli("member", "list", "--url", url), cli("kv", "get", "x", "--url", url)
        server.shutdown()
        thread.join(10)

    assert (1, 1) == (listed.code, got.code)
    assert f"raftcore: {url}: the answer is not a raftcore node's; correct the address\n" == listed.err
    assert "status 404, and not in the words of a raftcore node" in got.err


class Writer(threading.Thread):
    """Writes keys one after the other to some members in turn, each until it is acknowledged."""

    def __init__(self, members: Sequence) -> None:
        super().__init__()
        self.acknowledged: list[str] = []
        self.members = members
        self.ending = threading.Event()

    def run(self) -> None:
        turn = 0
        while not self.ending.is_set():
            key = str(len(self.acknowledged))
            turn += 1
            try:
                self.members[turn % len(self.members)].ask(f"/kv/{key}", "PUT", key.encode())
            except OSError:
                continue  # the same value may be written twice
            self.acknowledged.append(key)

    def more(self, count: int) -> None:
        """Wait for so many more writes."""
        goal = len(self.acknowledged) + count
        for member in self.members:
            member.until(lambda: len(self.acknowledged) >= goal, f"{goal} writes are acknowledged")


def test_members_come_and_go_under_load(cluster: list, processes: Callable, cli: Callable, leader: Callable) -> None:
    """3 → 4 → 3 real processes; the leader leaves, and every acknowledged write is on all that stay."""
    (fourth,) = processes("n4")
    fourth.configure({})
    fourth.start()
    old = leader(cluster)
    staying = [process for process in cluster if process is not old]
    url, writer, done = staying[0].url, Writer(staying), []
    writer.start()
    try:
        for arguments in (("add", "n4", fourth.raft), ("promote", "n4"), ("remove", old.name)):
            writer.more(50)
            done.append(cli("member", *arguments, "--url", url))
        writer.more(50)
    finally:
        writer.ending.set()
        writer.join(30)
    members = [*staying, fourth]
    listed = cli("member", "list", "--url", fourth.url, "--json").json

    assert [0, 0, 0] == [ended.code for ended in done]
    assert ["n4", "learner"] == done[0].out.splitlines()[-1].split()[:2]
    assert {(process.name, "voter") for process in members} == {(member["id"], member["role"]) for member in listed}
    assert leader(members) in members
    for process in members:
        held = cli("kv", "list", "--limit", "100000", "--json", "--url", process.url).json
        assert set(writer.acknowledged) == {item["key"] for item in held if item["key"] == item["value"]}


def test_a_refused_change_of_members_says_why(cluster: list, cli: Callable) -> None:
    """In the words of the cluster."""
    url = cluster[0].url
    known = cli("member", "add", "n2", "127.0.0.1:1", "--url", url)
    unknown = cli("member", "remove", "n9", "--url", url)
    shown = cli("member", "list", "--url", url)

    assert (1, 1) == (known.code, unknown.code)
    assert "'n2' is a member already" in known.err
    assert "'n9' is not a member" in unknown.err
    assert ["ID", "n1", "n2", "n3"] == [line.split()[0] for line in shown.out.splitlines()]

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftcore.cli.demo import pairs
from raftcore.cli.demo.processes import DemoFailed, Process, prepare
from raftcore.cli.demo.reading import State, are_equal, missing
from raftcore.errors import ConfigError

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "raftcore.cli", "demo"]


def _demo(*arguments: object, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )


def _pids(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"process (\d+)", text)]


def _runs(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[dict]:
    """What the demo printed that left its cluster running, with pairs of all kinds; stopped at the end."""
    source = tmp_path / "mine.jsonl"
    lines = [{"key": f"k/{number} é", "value": {"number": number}} for number in range(60)]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = _demo("--json", "--keep", "--input", source, "--dir", tmp_path / "demo")
    assert 0 == done.returncode, done.stderr
    result = json.loads(done.stdout)
    try:
        yield {**result, "said": done.stderr}
    finally:
        for pid in result["pids"].values():
            os.kill(pid, signal.SIGTERM)
        assert _wait_until(lambda: not any(_runs(pid) for pid in result["pids"].values()))


def test_a_leader_dies_and_nothing_is_lost(tmp_path: Path) -> None:
    """The whole demo, small: every acknowledged write is on every member, and no process is left."""
    done = _demo("--json", "--keys", 500, "--dir", tmp_path / "demo")
    assert 0 == done.returncode, done.stderr
    result = json.loads(done.stdout)

    assert (500, 500, 0, True) == tuple(result[key] for key in ("keys", "acknowledged", "lost", "digests_equal"))
    assert 0 < result["failover_seconds"] < 20
    assert result["writes_per_second"] > 0
    assert result["snapshot_taken"]
    assert ["n1", "n2", "n3"] == [member["node"] for member in result["members"]]
    assert f"killed the leader, {result['killed']}, after " in done.stderr
    assert 3 == len(_pids(done.stderr))
    assert not any(_runs(pid) for pid in _pids(done.stderr))


def test_a_cluster_that_is_kept_answers_and_is_not_run_over(kept: dict) -> None:
    """It says how to talk to it; another demo in its directory is refused as long as it runs."""
    urls = list(kept["urls"].values())
    with urllib.request.urlopen(f"{urls[0]}/kv/k%2F7%20%C3%A9", timeout=10) as answer:
        value = json.loads(answer.read())
    again = _demo("--dir", kept["directory"])

    assert {"number": 7} == value
    assert f"raftcore status {' '.join(urls)}" in kept["said"]
    assert f"stop it: kill {' '.join(map(str, kept['pids'].values()))}" in kept["said"]
    assert 1 == again.returncode
    assert "the cluster of an earlier demo still runs (node n1)" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path, number: int) -> None:
    """In the middle of the load; it exits with 1 and says one line."""
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        running = subprocess.Popen(
            [*COMMAND, "--keys", "100000", "--dir", tmp_path / "demo"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        assert _wait_until(lambda: "clients write" in said.read_text())
        for _ in range(3):  # the impatient change nothing
            running.send_signal(number)
            time.sleep(0.05)
        code = running.wait(20)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    pids = _pids(said.read_text())

    assert 1 == code
    assert 3 == len(pids)
    assert not any(_runs(pid) for pid in pids)
    assert "raftcore: interrupted" == said.read_text().splitlines()[-1]


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    """Exit code 2, and nothing is touched."""
    (tmp_path / "mine").write_text("precious")
    done = _demo("--dir", tmp_path)

    assert (2, "") == (done.returncode, done.stdout)
    assert f"raftcore: {tmp_path} is not empty, and no demo made it; name another directory with --dir" in done.stderr
    assert ["mine"] == [path.name for path in tmp_path.iterdir()]


def test_a_node_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    """The error holds what the process said last."""

    first, *_ = prepare(tmp_path, 10)
    first.file.write_text("[node]\nid = 1\n")

    async def check() -> None:
        await first.start()
        with pytest.raises(DemoFailed, match=r"node n1 \(process \d+\) ended instead of starting(.|\n)*node\.id"):
            await first.until_ready()

    asyncio.run(check())


def test_an_earlier_demo_makes_room_for_the_next(tmp_path: Path) -> None:
    """What it left is removed; what else lies there stays."""
    prepare(tmp_path, 10)
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1" / "old").touch()
    (tmp_path / "notes").touch()
    prepare(tmp_path, 10)

    assert not (tmp_path / "n1").exists()
    assert (tmp_path / "notes").exists()


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    """A key that is not there and one with another value are lost; a good one is not."""

    first, *_ = prepare(tmp_path, 10)
    alone = [line for line in first.file.read_text().splitlines() if not line.startswith(("n2", "n3"))]
    first.file.write_text("\n".join(alone))

    async def check() -> set[str]:
        await first.start()
        try:
            await first.until_ready()
            connection = first.connection()
            await connection.ask("PUT", "/kv/good", b"1")
            await connection.ask("PUT", "/kv/changed", b"2")
            connection.close()
            return await missing(first, {"good": b"1", "changed": b"1", "gone": b"1"}, {"good", "changed", "gone"})
        finally:
            await first.stop()

    assert {"changed", "gone"} == asyncio.run(check())


def test_members_agree_only_with_the_same_entries_and_the_same_state() -> None:
    """Both count; snapshots do not."""
    state = State("n1", 7, "abc", 0)

    assert are_equal([state, State("n2", 7, "abc", 5)])
    assert not are_equal([state, State("n2", 7, "abd", 0)])
    assert not are_equal([state, State("n2", 8, "abc", 0)])


def test_made_up_pairs_are_the_same_every_time(tmp_path: Path) -> None:
    """As many as were asked for, each key once."""
    for name in ("a", "b"):
        pairs.generate(tmp_path / name, 50)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert 50 == len(pairs.read(tmp_path / "a", None))
    assert 20 == len(pairs.read(tmp_path / "a", 20))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ('{"key": "b"}', "line 2: not a JSON object"),
        ('{"key": 1, "value": ""}', "line 2: not a JSON object"),
        ("[]", "line 2: not a JSON object"),
        ('{"key": "", "value": ""}', "line 2: a key of 0 bytes"),
        ('{"key": "a", "value": ""}', "line 2: the key 'a' has occurred before"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    """Before anything is started."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(f'{{"key": "a", "value": "1"}}\n{line}\n')

    with pytest.raises(ConfigError, match=re.escape(message)):
        pairs.read(file, None)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """There is nothing to write."""
    (tmp_path / "pairs.jsonl").touch()

    with pytest.raises(ConfigError, match="there are no pairs"):
        pairs.read(tmp_path / "pairs.jsonl", None)


def test_a_process_that_is_not_started_can_be_stopped(tmp_path: Path) -> None:
    """The way out must work from everywhere."""
    asyncio.run(Process("n1", tmp_path, "127.0.0.1:1", "127.0.0.1:2").stop())

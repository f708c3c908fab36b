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
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftcore.cli.agreement import State, are_equal
from raftcore.cli.demo import pairs, reading
from raftcore.cli.demo.processes import prepare
from raftcore.cli.demo.reading import missing
from raftcore.cli.processes import ClusterFailed, Process
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


@dataclass
class Kept:
    directory: Path
    out: str
    err: str
    urls: list[str]
    pids: list[int]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """What the demo printed that left its cluster running, with pairs of a file; stopped as it says."""
    tmp_path = tmp_path_factory.mktemp("kept")
    source = tmp_path / "mine.jsonl"
    lines = [{"key": f"k/{number} é", "value": {"number": number}} for number in range(60)]
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    done = _demo("--keep", "--input", source, "--dir", tmp_path / "demo")
    assert 0 == done.returncode, done.stderr
    urls = re.search(r"raftcore status (.*)", done.stderr)[1].split()
    pids = list(map(int, re.search(r"stop it: kill (.*)", done.stderr)[1].split()))
    try:
        yield Kept(tmp_path / "demo", done.stdout, done.stderr, urls, pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        assert _wait_until(lambda: not any(map(_runs, pids)))


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


def test_a_cluster_that_is_kept_answers_and_is_not_run_over(kept: Kept) -> None:
    """It says how to talk to it; another demo in its directory is refused as long as it runs."""
    with urllib.request.urlopen(f"{kept.urls[0]}/kv/k%2F7%20%C3%A9", timeout=10) as answer:
        value = json.loads(answer.read())
    again = _demo("--dir", kept.directory)

    assert {"number": 7} == value
    assert 3 == len(kept.urls) == len(kept.pids)
    assert f"curl {kept.urls[0]}/status" in kept.err
    assert 1 == again.returncode
    assert "the cluster of an earlier demo still runs (node n1)" in again.stderr


def test_the_result_is_a_short_table(kept: Kept) -> None:
    """What was written, how long it took, what was lost and how that was found out; and a line for each member."""
    lines = kept.out.splitlines()
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in lines[: lines.index("")])
    members = [line.split() for line in lines[lines.index("") + 2 :]]

    assert facts["acknowledged"].startswith("60 of 60 writes")
    assert ("0", "yes", "yes") == (facts["lost"], facts["snapshot taken"], facts["same state"])
    assert re.match(r"\d+\.\d\d s from the kill of n\d", facts["fail-over"])
    assert facts["read back"].startswith("each of the 60 acknowledged keys and its value, on each of the 3 members")
    assert ["n1", "n2", "n3"] == [member[0] for member in members]
    assert 1 == len({(applied, digest) for _, applied, _, digest in members})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
        with pytest.raises(ClusterFailed, match=r"node n1 \(process \d+\) ended instead of starting(.|\n)*node\.id"):
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


@pytest.mark.parametrize("sample", [0, 100])
def test_what_is_missing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: int) -> None:
    """A key that is not there and one with another value are lost; a good one is not. The listing alone finds it."""
    monkeypatch.setattr(reading, "SAMPLE", sample)
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

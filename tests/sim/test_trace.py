from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from raftcore.errors import WireError
from raftcore.messages import (
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Message,
    RequestVote,
    SnapshotChunk,
    SnapshotReply,
    SnapshotStatus,
    TimeoutNow,
    VoteReply,
)
from raftcore.sim.trace import Trace, describe, lines, load, select
from raftcore.types import NO_MEMBERSHIP, Entries, EntryKind, LeaderId, LogId, SnapshotMeta, Vote

N1, N2 = LeaderId(3, "n1"), LeaderId(2, "n2")
VOTE = Vote(N1, True)
AT_17 = LogId(N2, 17)
RUN = Entries(N1, 18, EntryKind.NORMAL, [b"a", b"b", b"c"])
META = SnapshotMeta("3-17", AT_17, NO_MEMBERSHIP, AT_17)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """Shows 0 until it is set."""
    return Clock()


@pytest.fixture
def trace(clock):
    """An empty one."""
    return Trace(clock)


# -- recording --------------------------------------------------------------------------------------------------------


def test_an_event_has_its_time_kind_and_fields(clock, trace):
    """`add` stamps the event with the clock."""
    clock.now = 1.25
    trace.add("commit", node="n1", index=7)

    assert [{"at": 1.25, "kind": "commit", "node": "n1", "index": 7}] == trace.events


def test_an_event_may_have_a_field_named_like_an_argument(trace):
    """`kind` is positional, so `self` and others stay free as names of fields."""
    trace.add("phase", self=1, text="warm-up")

    assert trace.events[0]["self"] == 1


def test_what_is_recorded_does_not_change_later(trace):
    """A list that goes on changing after the event is not changed in the trace."""
    value = [1]
    trace.add("complete", id=1, outcome="ok", value=value)
    value.append(2)

    assert [1] == trace.events[0]["value"]


def test_only_the_newest_events_are_kept(clock):
    """Beyond the limit the oldest go, and their number stands in front."""
    trace = Trace(clock, limit=2)
    for index in range(5):
        clock.now = float(index)
        trace.add("commit", node="n1", index=index)

    assert trace.dropped == 3
    assert {"at": 3.0, "kind": "dropped", "count": 3} == trace.events[0]
    assert [3, 4] == [event["index"] for event in trace.events[1:]]


def test_a_field_that_json_has_no_word_for_is_refused(trace):
    """Nothing is written as its `repr`, which could hold an address in memory."""
    with pytest.raises(TypeError, match="Entries is unsupported"):
        trace.add("write", node="n1", text=RUN)

    assert [] == trace.events


# -- digest, save, load -----------------------------------------------------------------------------------------------


def test_the_order_of_fields_does_not_matter_to_the_digest(clock):
    """Fields have one order."""
    one, other = Trace(clock), Trace(clock)
    one.add("commit", node="n1", index=7)
    other.add("commit", index=7, node="n1")

    assert one.digest() == other.digest()


@pytest.mark.parametrize("fields", [{"index": 8}, {"index": 7.0}, {"index": "7"}, {"index": 7, "more": None}])
def test_any_difference_changes_the_digest(clock, trace, fields):
    """Another value, type or field is another trace."""
    other = Trace(clock)
    trace.add("commit", index=7)
    other.add("commit", **fields)

    assert trace.digest() != other.digest()


def test_the_smallest_difference_of_time_changes_the_digest(clock):
    """Times are exact."""
    one, other = Trace(clock), Trace(lambda: 0.1 + 0.2)
    clock.now = 0.3
    one.add("up", node="n1")
    other.add("up", node="n1")

    assert one.digest() != other.digest()


def test_dropped_events_count_in_the_digest(clock):
    """A limit does not hide a difference."""
    one, other = Trace(clock, limit=1), Trace(clock, limit=1)
    one.add("commit", index=1)
    other.add("commit", index=2)
    for trace in (one, other):
        trace.add("commit", index=3)

    assert one.digest() != other.digest()


PROGRAM = """
from raftcore.sim.trace import Trace
trace = Trace(lambda: 0.1)
trace.add("membership", node="n1", voters={"n1", "n2", "n3", "n4"}, learners={"n5": 1, "n6": 2})
print(trace.digest())
"""


def test_the_digest_is_the_same_in_every_process():
    """Not even a set's order, which depends on PYTHONHASHSEED, shows."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("0", "1", "2")
    }

    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def test_a_saved_trace_loads_as_it_was(clock, trace, tmp_path):
    """One line an event, and `sha256sum` of the file is the digest."""
    for at in (0.1, 1 / 3, 12345.678901234567):
        clock.now = at
        trace.add("invoke", client="c1", id=1, node="n1", f="write", key="k", value=[1, "é", None])
    path = tmp_path / "run.jsonl"
    trace.save(path)

    assert trace.events == load(path)
    assert [0.1, 1 / 3, 12345.678901234567] == [event["at"] for event in load(path)]
    assert trace.digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_saved_trace_says_how_much_was_dropped(clock, tmp_path):
    """Who reads the file sees that it is not all."""
    trace = Trace(clock, limit=1)
    trace.add("up", node="n1")
    trace.add("up", node="n2")
    trace.save(tmp_path / "run.jsonl")

    assert ["dropped", "up"] == [event["kind"] for event in load(tmp_path / "run.jsonl")]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"at":1.0,"ki', r"line 2: .*save the trace again"),
        ("[1]", r"line 2: .*save the trace again"),
        ('{"at":1.0}', r'line 2: an event has "at" and "kind"; is the file a trace\?'),
        ('{"at":"1","kind":"up"}', r'line 2: an event has "at" and "kind"'),
    ],
)
def test_a_file_that_is_not_a_trace_is_refused(tmp_path, line, text):
    """The error names the line."""
    path = tmp_path / "run.jsonl"
    path.write_text('{"at":0.0,"kind":"up","node":"n1"}\n' + line)

    with pytest.raises(WireError, match=text):
        load(path)


# -- select -----------------------------------------------------------------------------------------------------------

RUN_OF_EVENTS = [
    {"at": 0.0, "kind": "phase", "text": "warm-up"},
    {"at": 1.0, "kind": "send", "node": "n1", "to": "n2", "id": 1, "message": "TimeoutNow", "text": "term 3 round 1"},
    {"at": 1.5, "kind": "deliver", "node": "n2", "sender": "n1", "id": 1, "message": "TimeoutNow"},
    {"at": 2.0, "kind": "invoke", "client": "c1", "id": 1, "node": "n3", "f": "write", "key": "x", "value": 5},
    {"at": 2.5, "kind": "complete", "id": 1, "outcome": "ok", "value": 5},
    {"at": 3.0, "kind": "commit", "node": "n3", "index": 9},
]


def at(events):
    """When they happened."""
    return [event["at"] for event in events]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0.0, 1.0, 1.5, 2.0, 2.5, 3.0]),
        ({"nodes": ["n1"]}, [0.0, 1.0, 1.5]),
        ({"nodes": ["n2"]}, [0.0, 1.0, 1.5]),
        ({"nodes": ["n3"]}, [0.0, 2.0, 2.5, 3.0]),
        ({"nodes": ["c1"]}, [0.0, 2.0, 2.5]),
        ({"kinds": ["complete", "commit"]}, [2.5, 3.0]),
        ({"start": 1.5, "end": 2.5}, [1.5, 2.0, 2.5]),
        ({"nodes": ["n3"], "kinds": ["commit", "send"], "start": 1.0}, [3.0]),
    ],
)
def test_events_are_selected_by_node_kind_and_time(filters, expected):
    """Both sides of a message belong to it; what names no node is every node's."""
    assert expected == at(select(RUN_OF_EVENTS, **filters))


def test_a_selection_still_knows_what_its_messages_said():
    """The text of a delivery stands in its `send`, which the selection may lack."""
    deliveries = select(RUN_OF_EVENTS, kinds=["deliver"])

    assert ["1.500000  n2  ← n1  TimeoutNow term 3 round 1"] == lines(deliveries, of=RUN_OF_EVENTS)
    assert ["1.500000  n2  ← n1  TimeoutNow"] == lines(deliveries)


# -- lines ------------------------------------------------------------------------------------------------------------

SEND = {"kind": "send", "node": "n1", "to": "n2", "id": 1, "message": "AppendEntries", "text": "term 3 commit 17"}
INVOKE = {"kind": "invoke", "client": "c1", "id": 1, "node": "n3", "f": "cas", "key": "x", "value": [1, 2]}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"kind": "role", "node": "n1", "role": "leader", "term": 3, "leader": "n1"}, "n1    leader in term 3"),
        (
            {"kind": "role", "node": "n2", "role": "follower", "term": 3, "leader": "n1"},
            "n2    follower in term 3 of n1",
        ),
        ({"kind": "role", "node": "n2", "role": "candidate", "term": 4, "leader": None}, "n2    candidate in term 4"),
        (SEND, "n1  → n2  AppendEntries term 3 commit 17"),
        (
            {"kind": "deliver", "node": "n2", "sender": "n1", "id": 1, "message": "AppendEntries"},
            "n2  ← n1  AppendEntries term 3 commit 17",
        ),
        (
            {"kind": "lost", "node": "n1", "to": "n2", "id": 1, "reason": "partition"},
            "n1  ✗ n2  lost (partition): AppendEntries term 3 commit 17",
        ),
        ({"kind": "fault", "fault": "partition", "text": "n1 | n2 n3"}, "    fault: partition n1 | n2 n3"),
        ({"kind": "fault", "fault": "bit rot", "node": "n2", "text": ""}, "n2    fault: bit rot"),
        ({"kind": "down", "node": "n1", "reason": "killed"}, "n1    down: killed"),
        ({"kind": "up", "node": "n1"}, "n1    up"),
        ({"kind": "pause", "node": "n1"}, "n1    paused"),
        ({"kind": "resume", "node": "n1"}, "n1    resumed"),
        (INVOKE, "c1  → n3  cas x [1,2]"),
        (
            {"kind": "invoke", "client": 4, "id": 2, "node": "n3", "f": "read", "key": "x", "value": None},
            "client 4  → n3  read x",
        ),
        ({"kind": "complete", "id": 1, "outcome": "ok", "value": [1, 2]}, "c1  ← n3  ok cas x [1,2]"),
        (
            {"kind": "complete", "id": 1, "outcome": "info", "value": None, "text": "no answer"},
            "c1  ← n3  info cas x: no answer",
        ),
        ({"kind": "write", "node": "n1", "text": "entries 18..20"}, "n1    writes entries 18..20"),
        ({"kind": "durable", "node": "n1", "index": 20}, "n1    durable up to 20"),
        ({"kind": "commit", "node": "n1", "index": 20}, "n1    commit 20"),
        ({"kind": "apply", "node": "n1", "first": 18, "last": 20}, "n1    applied 18..20"),
        ({"kind": "snapshot", "node": "n1", "what": "saved", "index": 20}, "n1    snapshot saved, last 20"),
        (
            {"kind": "membership", "node": "n1", "voters": ["n1", "n2"], "learners": ["n3"]},
            "n1    voters n1 n2, learners n3",
        ),
        (
            {"kind": "membership", "node": "n1", "voters": [["n1", "n2"], ["n2", "n3"]], "learners": []},
            "n1    voters n1 n2 and n2 n3",
        ),
        ({"kind": "phase", "text": "recovery"}, "    == recovery =="),
        (
            {"kind": "violation", "invariant": "log matching", "node": "n2", "text": "n1 has x at 4"},
            "n2    VIOLATION of log matching: n1 has x at 4",
        ),
        ({"kind": "dropped", "count": 12}, "    12 earlier events were dropped"),
        ({"kind": "tea", "node": "n1", "cups": 2, "milk": True}, "n1    tea cups 2 milk true"),
        ({"kind": "down", "node": "n1"}, "n1    down: ?"),
    ],
)
def test_every_kind_of_event_reads_as_one_line(event, expected):
    """Who, towards whom, and what; a kind or a lack that nobody foresaw shows too."""
    known = [{"at": 1.0, **SEND}, {"at": 1.0, **INVOKE}]
    event = {"at": 12.03142, **event}

    assert [f"12.031420  {expected}"] == lines([event], of=[*known, event])


def test_columns_are_aligned_and_times_in_order():
    """Everything begins below what it belongs to."""
    events = [
        {"at": 112.5, **SEND, "node": "node-10"},
        {"at": 2.25, "kind": "up", "node": "n1"},
        {"at": 12.0, **SEND},
    ]

    expected = [
        "  2.250000  n1             up",
        " 12.000000  n1       → n2  AppendEntries term 3 commit 17",
        "112.500000  node-10  → n2  AppendEntries term 3 commit 17",
    ]
    assert expected == lines(events)


def test_a_line_is_cut_to_the_width():
    """What is cut ends in an ellipsis; what fits is whole."""
    assert ["0.000000  n1  → n2  Appen…"] == lines([{"at": 0.0, **SEND}], width=26)
    assert ["0.000000  n1    up"] == lines([{"at": 0.0, "kind": "up", "node": "n1"}], width=18)


def test_control_characters_do_not_reach_the_terminal():
    """A value can't add a line, nor colour the screen."""
    assert ["0.000000      == a b [31mc =="] == lines([{"at": 0.0, "kind": "phase", "text": "a\nb\x1b[31mc"}])


# -- describe ---------------------------------------------------------------------------------------------------------


DESCRIPTIONS = [
    (RequestVote(VOTE, AT_17), "term 3 last 2.17"),
    (RequestVote(VOTE, AT_17, pre=True), "term 3 last 2.17 pre-vote"),
    (RequestVote(VOTE, AT_17, transfer=True), "term 3 last 2.17 for a transfer"),
    (VoteReply(VOTE, Vote(N1, False), granted=True), "term 3 granted to n1 in term 3"),
    (VoteReply(VOTE, Vote(N2, False), granted=False), "term 3 refused to n2 in term 2"),
    (VoteReply(VOTE, Vote(N2, False), granted=True, pre=True), "term 3 pre-vote granted to n2 in term 2"),
    (AppendEntries(VOTE, 5, AT_17, 17), "term 3 prev 2.17 heartbeat commit 17"),
    (AppendEntries(VOTE, 5, AT_17, 17, (RUN,)), "term 3 prev 2.17 entries 18..20 commit 17"),
    (
        AppendEntries(VOTE, 5, AT_17, 17, (Entries(N1, 18, EntryKind.MEMBERSHIP, [b"m"]),)),
        "term 3 prev 2.17 entries 18..18 membership commit 17",
    ),
    (AppendReply(VOTE, 5, 20), "term 3 match 20"),
    (AppendReply(VOTE, 5, 12, rejected=17), "term 3 match 12 rejected 17"),
    (AppendReply(VOTE, 5, 12, rejected=18, hint=AT_17), "term 3 match 12 rejected 18 hint 2.17"),
    (SnapshotChunk(VOTE, 5, META, 0, b"1234", False), "term 3 snapshot 3-17 last 2.17 offset 0 4 B"),
    (SnapshotChunk(VOTE, 5, META, 4, b"56", True), "term 3 snapshot 3-17 last 2.17 offset 4 2 B done"),
    (SnapshotReply(VOTE, 5, "3-17", SnapshotStatus.WANT, 4), "term 3 snapshot 3-17 wants 4"),
    (SnapshotReply(VOTE, 5, "3-17", SnapshotStatus.INSTALLED, 6, 17), "term 3 snapshot 3-17 installed match 17"),
    (SnapshotReply(VOTE, 5, "3-17", SnapshotStatus.FAILED, 0), "term 3 snapshot 3-17 failed"),
    (TimeoutNow(VOTE, 5), "term 3 round 5"),
    (Forward(VOTE, 8, "propose", [b"abc", b"d"]), "term 3 propose 2 × 4 B request 8"),
    (ForwardReply(VOTE, 8, [b"x", None]), "term 3 2 results request 8"),
    (ForwardReply(VOTE, 8, [], ("NotLeader", "ask n2")), "term 3 NotLeader: ask n2 request 8"),
]


@pytest.mark.parametrize(("message", "expected"), DESCRIPTIONS)
def test_a_message_is_described_in_the_papers_words(message, expected):
    """Term first, then what the message says."""
    assert expected == describe(message)


def test_no_type_of_message_is_left_out():
    """A new one needs its words, and its line in the list above."""
    assert set(Message.__args__) == {type(message) for message, _ in DESCRIPTIONS}

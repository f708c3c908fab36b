from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcore.errors import WireError
from raftcore.sim.history import History


def sample():
    """A write that is ok, a cas whose outcome is unknown, a read that failed and one that is still open."""
    history = History()
    write = history.invoke("a", "write", "register/1", 5, time=10, node="n1")
    cas = history.invoke("b", "cas", "register/1", [5, 6], time=20, node="n2", life=3)
    history.complete(write, "ok", time=30)
    read = history.invoke("a", "read", "register/1", None, time=40, node="n1", consistency="lease")
    history.complete(cas, "info", time=50, error="the connection was lost")
    history.complete(read, "ok", 6, time=60)
    failed = history.invoke("a", "read", "list/x", None, time=70, node="n3")
    history.complete(failed, "fail", time=80, error="no leader")
    history.invoke("a", "append", "list/x", "e", time=90, node="n3")
    return history


def saved(tmp_path, text):
    """A file with this text."""
    path = tmp_path / "history.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


# -- recording --------------------------------------------------------------------------------------------------------


def test_an_operation_knows_what_was_asked_and_what_became_of_it():
    """Both halves of an operation are in one record of it."""
    read = sample().operations[2]

    assert ("a", "read", "register/1", None, "n1", "lease") == (
        read.process,
        read.f,
        read.key,
        read.value,
        read.node,
        read.consistency,
    )
    assert ("ok", 6, 3, 5, 40, 60) == (
        read.outcome,
        read.result,
        read.invoked,
        read.completed,
        read.invoked_at,
        read.completed_at,
    )


def test_an_operation_without_completion_has_an_unknown_outcome():
    """It counts as info, and ends never."""
    last = sample().operations[-1]

    assert ("info", None, float("inf")) == (last.outcome, last.completed, last.ends)


@pytest.mark.parametrize(("outcome", "ends"), [("ok", 1), ("fail", float("inf")), ("info", float("inf"))])
def test_only_an_operation_that_is_ok_has_taken_effect_by_its_completion(outcome, ends):
    """An unknown one may take effect later."""
    history = History()
    history.complete(history.invoke(1, "add", "counter/1", 1, time=0, node="n1"), outcome, time=0)

    assert ends == history.operations[0].ends


def test_an_operation_in_words_names_who_where_when_and_the_outcome():
    """The words that anomalies are told in."""
    told = [str(operation) for operation in sample().operations]

    assert "the cas by b on n2 (operation 1, records 1..4, info)" == told[1]
    assert "the append by a on n3 (operation 4, record 8, info)" == told[4]


def test_what_later_changes_to_a_value_do_is_not_recorded():
    """A state machine may hand out the list that it goes on appending to."""
    history, page = History(), [1]
    history.complete(history.invoke("a", "read", "list/x", None, time=0, node="n1"), "ok", page, time=1)
    page.append(2)

    assert [1] == history.operations[0].result


def test_a_tuple_is_recorded_as_the_list_that_a_file_would_give_back():
    """So that a loaded history equals the one that was saved."""
    history = History()
    history.invoke("a", "cas", "register/1", (None, (1, 2)), time=0, node="n1")

    assert [None, [1, 2]] == history.operations[0].value


def test_a_process_with_an_open_operation_may_not_invoke_another():
    """A process does one thing at a time."""
    history = sample()

    with pytest.raises(
        ValueError, match=r"process 'a' can't invoke read of k: the append by a .* is not completed; co"
    ):
        history.invoke("a", "read", "k", None, time=0, node="n1")


def test_a_process_whose_last_outcome_is_unknown_may_not_invoke_another():
    """Its last operation may still take effect beside the new one."""
    history = sample()

    with pytest.raises(ValueError, match=r"the cas by b .* may yet take effect; .* go on as a new process"):
        history.invoke("b", "read", "k", None, time=0, node="n1")


def test_an_operation_may_not_be_completed_twice():
    """The second answer would hide the first."""
    history = sample()

    with pytest.raises(ValueError, match=r"the cas by b .* is completed already; complete an operation once"):
        history.complete(1, "ok", time=0)


def test_an_outcome_is_one_of_three():
    """A misspelt outcome is not taken for any of them."""
    history = sample()

    with pytest.raises(ValueError, match=r"can't be completed as 'failed'; say ok, fail or info"):
        history.complete(4, "failed", time=0)


@pytest.mark.parametrize("value", [1.5, b"x", {"a": 1}, [object()], 2**64])
def test_a_value_that_a_file_could_not_give_back_is_refused(value):
    """And the process is free to ask for something else."""
    history = History()

    with pytest.raises(
        TypeError, match=r"a history can't hold .*; use None, a bool, an int of 64 bits, a str or a list"
    ):
        history.invoke("a", "write", "register/1", value, time=0, node="n1")

    assert 0 == history.invoke("a", "write", "register/1", 1, time=0, node="n1")
    assert [0] == [record["index"] for record in history.records()]


# -- files ------------------------------------------------------------------------------------------------------------


def test_records_have_jepsens_shape():
    """One when an operation is invoked, one when it is completed, in the order of their indexes."""
    records = list(sample().records())

    assert [
        (0, "invoke", "write", 5),
        (1, "invoke", "cas", [5, 6]),
        (2, "ok", "write", 5),
        (3, "invoke", "read", None),
        (4, "info", "cas", [5, 6]),
        (5, "ok", "read", 6),
        (6, "invoke", "read", None),
        (7, "fail", "read", None),
        (8, "invoke", "append", "e"),
    ] == [(record["index"], record["type"], record["f"], record["value"]) for record in records]
    assert {
        "index": 4,
        "process": "b",
        "type": "info",
        "f": "cas",
        "key": "register/1",
        "value": [5, 6],
        "time": 50,
        "node": "n2",
        "life": 3,
        "error": "the connection was lost",
    } == records[4]
    assert "lease" == records[5]["consistency"]


def test_a_saved_history_is_one_json_object_a_line(tmp_path):
    """Whatever reads JSON lines can read it."""
    path = tmp_path / "history.jsonl"
    sample().save(path)

    assert list(sample().records()) == [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
asked = st.tuples(
    st.integers(0, 3) | st.text(max_size=2),
    st.sampled_from(["read", "write", "cas", "append", "add"]),
    st.text(max_size=5),
    values,
    st.sampled_from(["linearizable", "lease", "stale"]),
    st.integers(0, 2),
    st.sampled_from(["ok", "fail", "info", "open"]),
    values,
    st.text(max_size=5),
)


@given(st.lists(asked, max_size=10))
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, calls):
    """Operations are equal, and so is the file that they are saved to again."""
    history, last = History(), None
    for number, (process, f, key, value, consistency, life, outcome, result, error) in enumerate(calls):
        call = history.invoke(
            f"{process}.{number}", f, key, value, time=number, node="n1", consistency=consistency, life=life
        )
        if last is not None:
            history.complete(last[0], last[1], last[2], time=number, error=last[3])
        last = None if outcome == "open" else (call, outcome, result, error)
    first, second = (tmp_path_factory.mktemp("histories") / name for name in ("first", "second"))
    history.save(first)
    loaded = History.load(first)
    loaded.save(second)

    assert history.operations == loaded.operations
    assert first.read_bytes() == second.read_bytes()


def test_a_loaded_history_can_be_gone_on_with(tmp_path):
    """Indexes and ids go on, and processes are as busy as they were."""
    path = tmp_path / "history.jsonl"
    sample().save(path)
    history = History.load(path)
    history.complete(4, "ok", time=95)

    assert 9 == history.operations[4].completed
    assert 5 == history.invoke("a", "read", "list/x", None, time=99, node="n1")
    with pytest.raises(ValueError, match="process 'b' can't invoke"):
        history.invoke("b", "read", "list/x", None, time=99, node="n1")


INVOKED = '{"index":3,"process":"a","type":"invoke","f":"read","key":"k","value":null,"time":0,"node":"n1"}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (INVOKED[:40], r"line 1: .*; if the recorder was stopped while it wrote this line, delete it; else record"),
        (INVOKED + "[]\n", r"line 2: Expected `object`, got `array`"),
        (INVOKED.replace("null", "1.5"), r"line 1: a history can't hold 1.5 \(float\)"),
        (INVOKED.replace("node", "nodes"), r"line 1: .*unknown field `nodes`"),
        (INVOKED.replace("invoke", "done"), r"line 1: Invalid enum value 'done'"),
        (INVOKED + INVOKED, r"line 2: index 3 after index 3"),
        (INVOKED + INVOKED.replace("3", "4"), r"line 2: process 'a' can't invoke read of k: .* is not completed"),
        (INVOKED.replace("invoke", "ok"), r"line 1: process 'a' completes read of k, which it has not invoked"),
        (
            INVOKED + INVOKED.replace("3", "4").replace("invoke", "ok").replace('"k"', '"l"'),
            r"line 2: process 'a' completes read of l, which it has not invoked",
        ),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(tmp_path, text, problem):
    """Also the last line of a recorder that was killed."""
    path = saved(tmp_path, text)

    with pytest.raises(WireError, match=problem) as caught:
        History.load(path)

    assert str(caught.value).startswith(str(path))
    assert "delete it; else record the history again" in str(caught.value)


def test_bytes_that_are_no_text_are_named_too(tmp_path):
    """Damage is no crash."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(INVOKED.encode().replace(b"n1", b"\xff\xfe"))

    with pytest.raises(WireError, match=r"line 1: .*delete it; else record the history again"):
        History.load(path)


# -- EDN --------------------------------------------------------------------------------------------------------------


def test_edn_is_what_jepsen_writes():
    """A vector of maps with keywords for keys; key and value are a pair, processes are numbers."""
    lines = sample().edn().splitlines()

    assert (
        '[{:index 0, :process 0, :type :invoke, :f :write, :value ["register/1" 5], :time 10, :node "n1", :client "a"}'
    ) == lines[0]
    assert (
        ' {:index 4, :process 1, :type :info, :f :cas, :value ["register/1" [5 6]], :time 50, :node "n2", :life 3, '
        ':error "the connection was lost", :client "b"}'
    ) == lines[4]
    assert (
        ' {:index 5, :process 0, :type :ok, :f :read, :value ["register/1" 6], :time 60, :node "n1", '
        ':consistency :lease, :client "a"}'
    ) == lines[5]
    assert (
        ' {:index 8, :process 0, :type :invoke, :f :append, :value ["list/x" "e"], :time 90, :node "n3", :client "a"}]'
    ) == lines[8]
    assert 9 == len(lines)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "nil"),
        (True, "true"),
        (False, "false"),
        (-3, "-3"),
        ("", '""'),
        ('say "ü"\\\n', r'"say \"ü\"\\\n"'),
        ([], "[]"),
        ([1, [None, "x"]], '[1 [nil "x"]]'),
    ],
)
def test_every_value_has_its_edn(value, expected):
    """As Clojure reads them."""
    history = History()
    history.invoke("a", "write", "k", value, time=0, node="n1")

    assert f':value ["k" {expected}], :time' in history.edn()


def test_an_empty_history_is_an_empty_vector():
    """And not an empty file, which EDN readers refuse."""
    assert "[]\n" == History().edn()

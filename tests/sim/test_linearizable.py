from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftcore.sim.history import History
from raftcore.sim.linearizable import check_register

VALUES = (None, 1, 2)


def history(operations):
    """Operations (f, first value, second value, outcome, start, length), each by a process of its own, as a history."""
    events = []
    for number, (_, _, _, outcome, start, length) in enumerate(operations):
        events.append((start, 0, number, "invoke"))
        events.append((start + length, 1, number, outcome))
    made, ids = History(), {}
    for at, (_, _, number, kind) in enumerate(sorted(events)):
        f, one, other, outcome, _, _ = operations[number]
        if kind == "invoke":
            asked = {"read": None, "write": one, "cas": [one, other]}[f]
            ids[number] = made.invoke(number, f, "register/x", asked, time=at, node="n1")
        else:
            made.complete(ids[number], kind, one if f == "read" and kind == "ok" else None, time=at)
    return made


def brute_force(made):
    """Whether some order of some of the operations of unknown outcome, and all that are ok, explains everything."""
    sure = [op for op in made.operations if op.outcome == "ok"]
    unsure = [op for op in made.operations if op.outcome == "info"]
    for count in range(len(unsure) + 1):
        for chosen in itertools.combinations(unsure, count):
            if any(map(explains, itertools.permutations([*sure, *chosen]))):
                return True
    return False


def explains(order):
    """Whether this order agrees with real time and with what a register does."""
    value = None
    for place, op in enumerate(order):
        if any(later.ends < op.invoked for later in order[place + 1 :]):
            return False
        if op.f == "read" and op.outcome == "ok" and op.result != value:
            return False
        if op.f == "cas" and op.value[0] != value:
            return False
        if op.f != "read":
            value = op.value[1] if op.f == "cas" else op.value
    return True


def accepts(made):
    """What the checker says of it."""
    (answer,) = check_register(made.operations)
    assert answer.verdict != "unknown"
    return answer.verdict == "linearizable"


OPERATION = st.tuples(
    st.sampled_from(["read", "read", "write", "cas"]),
    st.sampled_from(VALUES),
    st.sampled_from(VALUES),
    st.sampled_from(["ok", "ok", "ok", "info", "fail"]),
    st.integers(0, 8),
    st.integers(0, 6),
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(OPERATION, min_size=1, max_size=5))
@example([("write", 1, 1, "info", 0, 0), ("read", 1, 1, "ok", 5, 0), ("read", None, 1, "ok", 7, 0)])
@example([("write", 1, 1, "info", 0, 0), ("read", None, 1, "ok", 5, 0), ("read", 1, 1, "ok", 7, 0)])
@example([("write", 1, 1, "fail", 0, 0), ("read", 1, 1, "ok", 5, 0)])
def test_it_agrees_with_the_search_through_all_orders(operations):
    """On every small history, both ways: what is linearizable is accepted, what is not is rejected."""
    made = history(operations)

    assert brute_force(made) == accepts(made)


def test_it_agrees_on_larger_histories_and_both_kinds_are_common():
    """Seeded histories of six operations; neither verdict is rare, so that agreement means something."""
    verdicts = []
    for seed in range(400):
        rng = random.Random(seed)
        operations = [
            (
                rng.choice(["read", "read", "write", "cas"]),
                rng.choice(VALUES),
                rng.choice(VALUES),
                rng.choice(["ok", "ok", "ok", "info"]),
                rng.randrange(8),
                rng.randrange(8),
            )
            for _ in range(6)
        ]
        made = history(operations)
        verdicts.append(accepts(made))
        assert brute_force(made) == verdicts[-1], f"seed {seed}"

    assert 60 < sum(verdicts) < 340


def test_a_long_history_with_many_unknown_outcomes_is_quick():
    """Writes that nobody observed may have happened or not; they must not double the work each."""
    made, value = History(), 0
    for number in range(300):
        writer = made.invoke(f"w{number}", "write", "register/x", number, time=number, node="n1")
        if number % 3:
            made.complete(writer, "ok", None, time=number)
            value = number
        else:
            made.complete(writer, "info", None, time=number)
        reader = made.invoke(f"r{number}", "read", "register/x", None, time=number, node="n1")
        made.complete(reader, "ok", value if number else None, time=number)

    (answer,) = check_register(made.operations)
    assert "linearizable" == answer.verdict
    assert answer.explored < 10_000


def test_an_anomaly_names_the_operation_and_what_it_could_have_read():
    """In words that a person can act on, with the record that ends the smallest prefix."""
    made = history([("write", 1, 0, "ok", 0, 0), ("write", 2, 0, "ok", 2, 0), ("read", 1, 0, "ok", 4, 0)])

    (answer,) = check_register(made.operations)
    assert "anomaly" == answer.verdict
    assert (2, 0) == answer.operations
    assert 5 == answer.prefix
    assert "the read by 2 on n1" in answer.text
    assert "1 was written by the write by 0" in answer.text


def test_too_much_work_is_no_pass():
    """The answer is unknown, names the key and the limit, and says what to do."""
    made = history([("write", value, 0, "ok", 0, 9) for value in (1, 2, 1, 2, 1)] + [("read", 2, 0, "ok", 10, 1)])

    (answer,) = check_register(made.operations, limit=3)
    assert ("unknown", "register/x") == (answer.verdict, answer.key)
    assert "3 configurations were looked at; raise the limit" in answer.text


def test_each_key_has_an_answer_of_its_own():
    """Registers do not depend on each other."""
    made = History()
    for process, key, result in ((1, "register/a", None), (2, "register/b", 7)):
        made.complete(made.invoke(process, "read", key, None, time=0, node="n1"), "ok", result, time=1)

    assert [("register/a", "linearizable"), ("register/b", "anomaly")] == [
        (answer.key, answer.verdict) for answer in check_register(made.operations)
    ]


def test_what_no_register_does_is_refused():
    """A history of something else is a mistake of the caller's."""
    made = History()
    made.invoke(1, "append", "list/x", 1, time=0, node="n1")

    with pytest.raises(ValueError, match="is nothing that a register does; give reads, writes and cas only"):
        check_register(made.operations)

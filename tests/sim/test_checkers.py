from __future__ import annotations

import pytest

from raftcore.sim.checkers import check
from raftcore.sim.history import History


class Story:
    """A history, one finished call after another, unless `begin` and `end` make them overlap."""

    def __init__(self, key):
        self.key, self.made, self._calls = key, History(), 0

    def begin(self, f, value=None, *, consistency="linearizable", node="n1", life=1):
        self._calls += 1
        return self.made.invoke(
            self._calls, f, self.key, value, time=self._calls, node=node, consistency=consistency, life=life
        )

    def end(self, call, outcome="ok", value=None):
        self.made.complete(call, outcome, value, time=self._calls)
        return self

    def do(self, f, value=None, outcome="ok", **options):
        result = value if f == "read" else None
        return self.end(self.begin(f, None if f == "read" else value, **options), outcome, result)

    def anomalies(self):
        return [(anomaly.checker, anomaly.text) for anomaly in check(self.made)]


def one(story, checker, text):
    """It has this anomaly."""
    found = [said for by, said in story.anomalies() if by == checker]
    assert any(text in said for said in found), story.anomalies()
    return True


# -- lists ------------------------------------------------------------------------------------------------------------


def test_a_list_that_is_right_passes():
    """Unknown appends may be there or not, overlapping ones in any order, stale reads may be old."""
    story = Story("list/x").do("append", 1).do("append", 2, "info").do("append", 3, "fail").do("read", [1, 2])
    late, later = story.begin("append", 4), story.begin("append", 5)
    story.end(later).end(late).do("read", [1, 2, 5, 4]).do("read", [1], consistency="stale", node="n2")

    assert [] == story.anomalies()


def test_an_element_that_is_there_twice_is_found():
    """An append happened twice."""
    assert one(Story("list/x").do("append", 1).do("read", [1, 1]), "list", "an append was applied twice")


def test_an_append_that_failed_leaves_no_trace():
    """Or it did not fail."""
    assert one(Story("list/x").do("append", 1, "fail").do("read", [1]), "list", "failed")


def test_an_element_that_nobody_appended_is_found():
    """Neither before nor ever."""
    assert one(Story("list/x").do("append", 1).do("read", [1, 9]), "list", "9")


def test_an_acknowledged_append_that_is_gone_is_found():
    """A lost write."""
    assert one(Story("list/x").do("append", 1).do("append", 2).do("read", [2]), "list", "1")


def test_two_orders_are_found():
    """No single list has both as its beginning."""
    story = Story("list/x")
    calls = [story.begin("append", 1), story.begin("append", 2)]
    reads = [story.begin("read"), story.begin("read")]
    story.end(calls[0]).end(calls[1]).end(reads[0], "ok", [1, 2]).end(reads[1], "ok", [2, 1])

    assert one(story, "list", "")


def test_a_list_that_shrinks_is_found():
    """A later linearizable read may not show less."""
    story = Story("list/x").do("append", 1, "info").do("read", [1]).do("read", [])

    assert one(story, "list", "returned 0 elements")


def test_an_order_against_real_time_is_found():
    """What was acknowledged before the other was asked for comes first."""
    assert one(Story("list/x").do("append", 1).do("append", 2).do("read", [2, 1]), "list", "")


def test_stale_reads_of_one_life_of_a_node_do_not_go_back():
    """After a restart they may."""
    story = Story("list/x").do("append", 1).do("read", [1], consistency="stale")
    restarted = Story("list/x").do("append", 1).do("read", [1], consistency="stale")

    assert one(story.do("read", [], consistency="stale"), "list", "returned 0 elements")
    assert [] == restarted.do("read", [], consistency="stale", life=2).anomalies()


# -- counters ---------------------------------------------------------------------------------------------------------


def test_a_counter_that_is_right_passes():
    """Between what must have been added and what may have been."""
    story = Story("counter/x").do("add", 2).do("add", 3, "info").do("add", 4, "fail").do("read", 2)
    running = story.begin("add", 10)
    story.do("read", 15).end(running).do("read", 15)

    assert [] == story.anomalies()


def test_a_lost_addition_is_found():
    """Acknowledged, and not in a later read."""
    assert one(Story("counter/x").do("add", 2).do("add", 3).do("read", 3), "counter", "3")


def test_a_doubled_addition_is_found():
    """More than everything that may have been added."""
    assert one(Story("counter/x").do("add", 2).do("read", 4), "counter", "applied twice")


def test_an_addition_that_failed_is_found():
    """It is in the sum."""
    assert one(Story("counter/x").do("add", 2, "fail").do("read", 2), "counter", "one that failed was applied")


# -- registers --------------------------------------------------------------------------------------------------------


def test_registers_are_checked_for_linearizability():
    """A lease read counts as linearizable, a stale one does not."""
    stale = Story("register/x").do("write", 1).do("write", 2).do("read", 1, consistency="stale")
    lease = Story("register/x").do("write", 1).do("write", 2).do("read", 1, consistency="lease")

    assert [] == stale.anomalies()
    assert one(lease, "linearizable", "1 was written by")


def test_a_stale_read_shows_only_what_was_written():
    """Nothing that failed, that nobody wrote, or that was written only later."""
    assert one(Story("register/x").do("write", 1, "fail").do("read", 1, consistency="stale"), "stale", "failed")
    assert one(Story("register/x").do("read", 7, consistency="stale"), "stale", "nobody wrote 7")
    assert one(Story("register/x").do("read", 1, consistency="stale").do("write", 1), "stale", "only later")


# -- use --------------------------------------------------------------------------------------------------------------


def test_a_key_of_no_known_kind_is_refused():
    """The message says how keys are named."""
    with pytest.raises(ValueError, match=r"no checker knows .*; name keys register/…, list/… or counter/…"):
        check(Story("queue/x").do("read", None).made)


def test_a_search_that_was_given_up_is_an_anomaly():
    """Neither right nor wrong is not right."""
    story = Story("register/x")
    calls = [story.begin("write", value) for value in (1, 2, 3, 4)]
    for call in calls:
        story.end(call)

    assert ["undecided"] == [anomaly.checker for anomaly in check(story.do("read", 2).made, limit=2)]

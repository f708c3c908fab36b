from __future__ import annotations

import html.parser
import json
import re

import pytest

from raftcore.sim.timeline import draw, render

VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(html.parser.HTMLParser):
    """Reads a page; checks that every element is closed where it should be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.attributes, self.scripts = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    @property
    def run(self):
        return json.loads(self.scripts[0])

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def send(at, id, message="AppendEntries", text="term 1 prev 0.0 entries 1..1 commit 0", node="n1", to="n2"):
    """A message leaves."""
    return {"at": at, "kind": "send", "node": node, "to": to, "id": id, "message": message, "text": text}


def deliver(at, id, node="n2", sender="n1"):
    """It arrives."""
    return {"at": at, "kind": "deliver", "node": node, "sender": sender, "id": id, "message": "AppendEntries"}


def role(at, node, role, term=1, leader=None):
    """A node says what it is."""
    return {"at": at, "kind": "role", "node": node, "role": role, "term": term, "leader": leader}


def invoke(at, id, client="c1", value=5):
    """A client asks."""
    return {
        "at": at,
        "kind": "invoke",
        "client": client,
        "id": id,
        "node": "n1",
        "f": "write",
        "key": "x",
        "value": value,
    }


def complete(at, id, outcome="ok"):
    """It has its answer."""
    return {"at": at, "kind": "complete", "id": id, "outcome": outcome, "value": 5}


RUN = [
    {"at": 0.0, "kind": "phase", "text": "load"},
    {"at": 0.0, "kind": "up", "node": "n1"},
    role(0.1, "n1", "leader"),
    role(0.1, "n2", "follower", leader="n1"),
    send(0.2, 1),
    deliver(0.21, 1),
    send(0.3, 2, text="term 1 prev 1.1 heartbeat commit 1"),
    {"at": 0.31, "kind": "lost", "node": "n1", "to": "n2", "id": 2, "reason": "partition"},
    {"at": 0.35, "kind": "fault", "fault": "bit rot", "node": "n2", "text": "bit 4"},
    {"at": 0.4, "kind": "commit", "node": "n1", "index": 1},
    invoke(0.2, 1),
    complete(0.5, 1),
    role(0.6, "n10", "learner"),
    {"at": 0.7, "kind": "violation", "invariant": "log matching", "node": "n2", "text": "n1 has <x> at 4"},
]


def bars(events, kind):
    """When the bars of this kind begin and end."""
    return [(bar.start, bar.end) for bar in draw(events).bars if bar.kind == kind]


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed():
    """Every element is closed, in order, and nothing is left of the template's places."""
    text = render(RUN, "a run", {"seed": 7})
    page = Page(text)

    assert [] == page.open
    assert re.search(r"\{\{\w+\}\}", text) is None


def test_the_page_names_the_run_and_its_violations():
    """Title, summary in its order, and each violation with a button that goes there."""
    page = Page(render(RUN, "a <run>", {"seed": 7, "result": "1 & only", "faults": {"crash": 2, "pause": 3}}))
    text = " ".join(page.text)

    assert "a <run>" in text
    assert text.index("seed") < text.index("1 & only") < text.index("crash 2 · pause 3")
    assert "log matching (n2): n1 has <x> at 4" in text
    assert ["0.7"] == page.values("data-at")


def test_the_page_loads_nothing():
    """No address, no import, and a policy that forbids what would slip through."""
    text = render(RUN, "a run", {})
    page = Page(text)

    assert re.search(r"https?:|//\w+\.\w|@import|url\(|fetch\(|XMLHttp|import\(", text) is None
    assert not {"src", "href", "srcset", "action"} & {name for _, name, _ in page.attributes}
    assert any("default-src 'none'" in value for value in page.values("content"))


@pytest.mark.parametrize("evil", ["</script><script>alert(1)</script>", "<!-- <script>", "]]>", "{{title}}", "\u2028"])
def test_no_value_gets_out_of_the_data(evil):
    """What a run wrote is data, whatever it says."""
    events = [
        *RUN,
        invoke(0.1, 9, client=evil, value=evil),
        {"at": 0.8, "kind": "violation", "invariant": evil, "text": evil},
    ]
    page = Page(render(events, evil, {evil: evil}))

    assert [] == page.open
    assert 2 == len(page.scripts)
    assert evil in [lane["name"] for lane in page.run["lanes"]]


def test_what_is_drawn_is_in_the_page():
    """The data are those of `draw`."""
    run, picture = Page(render(RUN, "a run", {})).run, draw(RUN)

    assert ["faults", "n1", "n2", "n10", "c1"] == [lane["name"] for lane in run["lanes"]]
    for shapes in ("bars", "arrows", "marks", "lines"):
        assert len(getattr(picture, shapes)) == len(run[shapes]) > 0


def test_only_what_the_run_has_can_be_switched_and_is_in_the_legend():
    """Real processes have no messages to hide."""
    page = Page(render([event for event in RUN if event["kind"] in {"up", "role"}], "a run", {}))

    assert [] == page.values("data-group")
    assert ["leader", "follower", "learner", "up"] == page.values("data-kind")


@pytest.mark.parametrize(("messages", "shown"), [(10, True), (500, False)])
def test_heartbeats_are_hidden_at_first_where_there_are_many(messages, shown):
    """They would cover what matters."""
    heartbeats = [send(index / 100, index, text="term 1 heartbeat commit 0") for index in range(messages)]
    page = render(heartbeats, "a run", {})

    assert shown == ('data-group="heartbeats" checked' in page)


def test_a_run_without_events_has_a_page_too():
    """Nothing happened is an answer."""
    page = Page(render([], "a run", {}))

    assert [] == page.open
    assert [] == page.run["lanes"]


def test_a_long_run_is_a_page_of_a_few_megabytes():
    """20,000 events are nothing unusual."""
    events = [
        event for index in range(10_000) for event in (send(index / 100, index), deliver(index / 100 + 0.001, index))
    ]
    page = render(events, "a run", {})

    assert 10_000 == len(Page(page).run["arrows"])
    assert len(page) < 3_000_000


# -- lanes ------------------------------------------------------------------------------------------------------------


def test_lanes_are_faults_then_nodes_then_clients_by_number():
    """n2 comes before n10; a node that joins late, or is only written to, has its lane."""
    events = [
        {"at": 0.0, "kind": "down", "node": "n10", "reason": "killed"},
        send(0.1, 1, node="n2", to="n3"),
        invoke(0.2, 1, client=10),
        invoke(0.2, 2, client=9),
        complete(0.3, 1),
    ]

    expected = [
        ("faults", "faults"),
        ("node", "n2"),
        ("node", "n3"),
        ("node", "n10"),
        ("client", "client 9"),
        ("client", "client 10"),
    ]
    assert expected == [(lane.kind, lane.name) for lane in draw(events).lanes]


def test_events_may_come_in_any_order():
    """Those of several processes are not sorted."""
    assert draw(RUN) == draw(reversed(RUN))


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_role_lasts_until_the_next_one():
    """Each is a bar with its term; the last is open."""
    events = [
        role(1.0, "n1", "follower"),
        role(2.0, "n1", "candidate", 2),
        role(2.5, "n1", "leader", 2),
        role(9, "n2", "follower"),
    ]
    found = [
        (bar.kind, bar.term, bar.start, bar.end, bar.open) for bar in draw(events).bars if bar.title.startswith("n1")
    ]

    expected = [
        ("follower", 1, 1.0, 2.0, False),
        ("candidate", 2, 2.0, 2.5, False),
        ("leader", 2, 2.5, 9.0, True),
    ]
    assert expected == found


def test_a_node_that_is_down_has_no_role():
    """From `down` to `up`; after that the role is not known until it says so."""
    events = [
        role(1.0, "n1", "leader"),
        {"at": 2.0, "kind": "down", "node": "n1", "reason": "killed"},
        {"at": 3.0, "kind": "up", "node": "n1"},
        role(4.0, "n1", "follower", 2),
        {"at": 5.0, "kind": "phase", "text": "end"},
    ]

    assert [(1.0, 2.0)] == bars(events, "leader")
    assert [(2.0, 3.0)] == bars(events, "down") == bars(events, "fault")
    assert [(3.0, 4.0)] == bars(events, "up")
    assert [(4.0, 5.0)] == bars(events, "follower")


def test_a_pause_lies_over_the_role():
    """A paused leader still believes that it leads. A pause ends with the process too."""
    events = [
        role(1.0, "n1", "leader"),
        {"at": 2.0, "kind": "pause", "node": "n1"},
        {"at": 3.0, "kind": "resume", "node": "n1"},
        {"at": 4.0, "kind": "pause", "node": "n1"},
        {"at": 5.0, "kind": "down", "node": "n1", "reason": "killed"},
    ]

    assert [(1.0, 5.0)] == bars(events, "leader")
    assert [(2.0, 3.0), (4.0, 5.0)] == bars(events, "paused")


# -- messages ---------------------------------------------------------------------------------------------------------


def test_an_arrow_goes_from_when_it_was_sent_to_when_it_arrived():
    """And tells what it said."""
    picture = draw([send(1.0, 7), deliver(1.5, 7)])
    [arrow] = picture.arrows

    assert ("n1", "n2") == (picture.lanes[arrow.source].name, picture.lanes[arrow.target].name)
    assert (1.0, 1.5, "delivered") == (arrow.start, arrow.end, arrow.fate)
    assert "n1 → n2 AppendEntries term 1 prev 0.0 entries 1..1 commit 0" == arrow.title


def test_a_message_that_arrives_twice_is_two_arrows():
    """Networks repeat messages."""
    arrows = draw([send(1.0, 7), deliver(1.5, 7), deliver(1.8, 7)]).arrows

    assert [(1.0, 1.5), (1.0, 1.8)] == [(arrow.start, arrow.end) for arrow in arrows]


def test_a_lost_message_says_why():
    """Its arrow ends where it was lost."""
    [arrow] = draw(
        [send(1.0, 7), {"at": 1.2, "kind": "lost", "node": "n1", "to": "n2", "id": 7, "reason": "cut"}]
    ).arrows

    assert (1.0, 1.2, "lost") == (arrow.start, arrow.end, arrow.fate)
    assert "lost (cut): AppendEntries" in arrow.title


def test_a_message_under_way_at_the_end_has_no_known_fate():
    """It is neither lost nor delivered."""
    assert ["unknown"] == [arrow.fate for arrow in draw([send(1.0, 7), role(2.0, "n1", "leader")]).arrows]


def test_a_delivery_whose_sending_was_dropped_still_shows():
    """A bounded trace may begin in between."""
    [arrow] = draw([deliver(1.5, 7)]).arrows

    assert (1.5, 1.5, "delivered") == (arrow.start, arrow.end, arrow.fate)


@pytest.mark.parametrize(
    ("message", "text", "group"),
    [
        ("RequestVote", "term 2 last 1.1", "votes"),
        ("VoteReply", "term 2 granted to n1 in term 2", "votes"),
        ("TimeoutNow", "term 2 round 1", "votes"),
        ("AppendEntries", "term 2 prev 1.1 entries 2..2 commit 1", "entries"),
        ("AppendEntries", "term 2 prev 1.1 heartbeat commit 1", "heartbeats"),
        ("AppendReply", "term 2 match 1", "replies"),
        ("SnapshotChunk", "term 2 snapshot heartbeat", "snapshots"),
        ("SnapshotReply", "term 2 snapshot s wants 4", "snapshots"),
        ("Forward", "term 2 propose", "forwards"),
        ("ForwardReply", "term 2 1 results", "forwards"),
    ],
)
def test_messages_are_grouped_by_what_they_are_for(message, text, group):
    """A group is shown or hidden as one."""
    assert [group] == [arrow.group for arrow in draw([send(1.0, 1, message, text)]).arrows]


# -- faults, marks and lines ------------------------------------------------------------------------------------------


def test_a_fault_that_ends_is_a_bar_and_others_are_marks():
    """The end names the fault and its node; one that nothing ends may have been over at once."""
    events = [
        {"at": 1.0, "kind": "fault", "fault": "partition", "text": "n1 | n2"},
        {"at": 2.0, "kind": "fault", "fault": "bit rot", "node": "n2", "text": ""},
        {"at": 3.0, "kind": "fault", "fault": "end of partition", "node": "n2", "text": ""},
        {"at": 4.0, "kind": "fault", "fault": "end of partition", "text": ""},
    ]
    picture = draw(events)

    assert [(1.0, 4.0)] == bars(events, "fault")
    assert [(2.0, "n2 fault: bit rot")] == [(mark.at, mark.title) for mark in picture.marks]
    assert {"faults"} == {picture.lanes[shape.lane].name for shape in (*picture.bars, *picture.marks)}


@pytest.mark.parametrize(
    ("event", "group", "label"),
    [
        ({"kind": "commit", "index": 17}, "commits", "17"),
        ({"kind": "write", "text": "entries 1..2"}, "storage", ""),
        ({"kind": "durable", "index": 17}, "storage", ""),
        ({"kind": "apply", "first": 1, "last": 2}, "storage", ""),
        ({"kind": "snapshot", "what": "saved", "index": 9}, "", "9"),
        ({"kind": "membership", "voters": ["n1"], "learners": []}, "", ""),
    ],
)
def test_what_happens_at_one_time_is_a_mark_of_its_node(event, group, label):
    """What storage does can be hidden, and commits too."""
    picture = draw([{"at": 1.0, "node": "n1", **event}])
    [mark] = picture.marks

    assert ("n1", event["kind"], group, label) == (picture.lanes[mark.lane].name, mark.kind, mark.group, mark.label)


def test_violations_and_phases_go_through_all_lanes():
    """A violation with its node and text."""
    found = [(line.at, line.kind, line.title) for line in draw(RUN).lines]

    assert [(0.0, "phase", "load"), (0.7, "violation", "log matching (n2): n1 has <x> at 4")] == found


def test_a_trace_that_outgrew_its_limit_shows_it():
    """What is missing at the left was dropped."""
    picture = draw([{"at": 1.0, "kind": "dropped", "count": 9}, role(2.0, "n1", "leader")])

    assert ["9 earlier events were dropped"] == [mark.title for mark in picture.marks]


# -- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "open"), [("ok", False), ("fail", False), ("info", True)])
def test_an_operation_lasts_from_its_call_to_its_answer(outcome, open):
    """Its outcome is its kind; only one with an unknown outcome may still happen."""
    [bar] = draw([invoke(1.0, 3), complete(2.0, 3, outcome)]).bars

    assert (1.0, 2.0, outcome, open) == (bar.start, bar.end, bar.kind, bar.open)
    assert "write x 5" == bar.label
    assert f"c1 → n1 {outcome} write x 5" == bar.title


def test_an_operation_without_an_answer_lasts_to_the_end():
    """Nobody knows what became of it."""
    [bar] = draw([invoke(1.0, 3), {"at": 4.0, "kind": "phase", "text": "end"}]).bars

    assert (1.0, 4.0, "info", True) == (bar.start, bar.end, bar.kind, bar.open)
    assert "c1 → n1 no answer to write x 5" == bar.title


def test_operations_that_overlap_lie_in_rows():
    """Those that follow each other share one."""
    events = [invoke(1.0, 1), invoke(2.0, 2), complete(3.0, 1), complete(4.0, 2), invoke(5.0, 3), complete(6.0, 3)]
    picture = draw(events)

    assert [0, 1, 0] == [bar.row for bar in picture.bars]
    assert [2] == [lane.rows for lane in picture.lanes]


def test_a_lane_does_not_grow_without_end():
    """A hundred operations at once still leave room for the nodes."""
    events = [invoke(index / 100, index) for index in range(100)]

    assert [5] == [lane.rows for lane in draw(events).lanes]

"""One run as a picture: a self-contained HTML page with a lane for each node and client, and time to the right.

The events (see `raftcore.sim.trace`) become five sorts of shapes, which `timeline.html` draws: lanes; bars (a role in
a term, a pause, an outage, a fault that lasts, a client's operation); arrows (messages); marks (commits and the like);
lines through all lanes (violations, phases).

A fault is a mark. It becomes a bar when a later fault of the same node is called "end of " and its name.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any, Final

import msgspec

from raftcore.sim.trace import Event, Reader

END_OF: Final = "end of "
"""What the name of a fault begins with that says that another one is over."""

_ROWS: Final = 5  # bars that overlap lie in rows; more than so many share the last one
_TEXT: Final = 400  # characters of an event's text that go into the page
_MANY: Final = 400  # messages; where there are more, heartbeats and replies are hidden at first

_GROUPS: Final = {
    "RequestVote": "votes",
    "VoteReply": "votes",
    "TimeoutNow": "votes",
    "AppendEntries": "entries",
    "AppendReply": "replies",
    "SnapshotChunk": "snapshots",
    "SnapshotReply": "snapshots",
}
_MARKS: Final = {
    "commit": "commits",
    "write": "storage",
    "durable": "storage",
    "apply": "storage",
    "snapshot": "",
    "membership": "",
    "dropped": "",
}
_NAMES_NODES: Final = frozenset({"fault", "violation", "phase", "invoke", "complete"})
# What can be hidden: the group, its name, and the sample that stands beside it.
_SWITCHES: Final = (
    ("votes", "votes", "votes"),
    ("entries", "entries", "entries"),
    ("replies", "replies", "replies"),
    ("heartbeats", "heartbeats", "heartbeats"),
    ("snapshots", "snapshots", "snapshots"),
    ("forwards", "forwards", "forwards"),
    ("lost", "lost messages", "lost"),
    ("commits", "commits", "commit"),
    ("storage", "writes, applies", "durable"),
)
_LEGEND: Final = (
    *("leader", "candidate", "pre-candidate", "follower", "learner", "up", "down", "paused", "fault"),
    *("ok", "fail", "info", "snapshot", "membership", "dropped", "violation", "phase"),
)
_LABELS: Final = {"commit": "index", "snapshot": "index", "fault": "fault"}


class Lane(msgspec.Struct):
    """A horizontal strip: `kind` is faults, node or client; bars lie in `rows` below each other."""

    name: str
    kind: str
    rows: int = 1


class Bar(msgspec.Struct):
    """Something that lasts from `start` to `end`; `open` when it had not ended by then, or nobody knows.

    `label` is short and stands in the bar, `title` says all; a title is also what a search looks at.
    """

    lane: int
    start: float
    end: float
    kind: str
    label: str
    title: str
    row: int = 0
    term: int = 0
    open: bool = False


class Arrow(msgspec.Struct):
    """A message from lane to lane. `fate` is delivered, lost, or unknown: then `end` is `start`."""

    source: int
    target: int
    start: float
    end: float
    group: str
    fate: str
    title: str


class Mark(msgspec.Struct):
    """Something that happened to one lane at one time; `label` and `group` (what hides it) may be empty."""

    lane: int
    at: float
    kind: str
    group: str
    label: str
    title: str


class Line(msgspec.Struct):
    """Something that concerns all lanes: a violation or a phase."""

    at: float
    kind: str
    title: str


class Picture(msgspec.Struct):
    """What the page draws. Times are seconds; a shape's `lane`, `source` and `target` are positions in `lanes`."""

    start: float
    end: float
    lanes: list[Lane]
    bars: list[Bar] = []
    arrows: list[Arrow] = []
    marks: list[Mark] = []
    lines: list[Line] = []


def render(events: Iterable[Event], title: str, summary: Mapping[str, object]) -> str:
    """The page. `summary` is shown above the picture, in its order. It loads nothing, from anywhere."""
    picture = draw(events)
    parts = {
        "title": html.escape(title),
        "summary": "".join(_fact(name, value) for name, value in summary.items()),
        "switches": "".join(_switches(picture)),
        "legend": "".join(_legend(picture)),
        "violations": "".join(_violation(line) for line in picture.lines if line.kind == "violation"),
        # The only way out of a script element is "<": "</script" and "<!--".
        "run": msgspec.json.encode(picture).decode().replace("<", "\\u003c"),
    }
    template = resources.files("raftcore.sim").joinpath("timeline.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def _fact(name: str, value: object) -> str:
    text = " · ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)
    return f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>"


def _switches(picture: Picture) -> Iterator[str]:
    counts = Counter([arrow.group for arrow in picture.arrows] + [mark.group for mark in picture.marks])
    counts["lost"] = sum(arrow.fate == "lost" for arrow in picture.arrows)
    for group, name, sample in _SWITCHES:
        if counts[group]:
            crowd = group in {"heartbeats", "replies"} and len(picture.arrows) > _MANY
            checked = "" if crowd or group == "storage" else " checked"
            yield (
                f'<label><input type="checkbox" data-group="{group}"{checked}><canvas data-kind="{sample}"></canvas>'
                f"{name} <small>{counts[group]:,}</small></label>\n"
            )


def _legend(picture: Picture) -> Iterator[str]:
    used = {shape.kind for shapes in (picture.bars, picture.marks, picture.lines) for shape in shapes}
    for kind in _LEGEND:
        if kind in used:
            yield f'<span><canvas data-kind="{kind}"></canvas>{kind}</span>\n'
    if any(bar.term for bar in picture.bars):
        yield "<span>colour: the term</span>"


def _violation(line: Line) -> str:
    return f'<li><button type="button" data-at="{line.at!r}">{line.at:.6f} s</button> {html.escape(line.title)}</li>'


def draw(events: Iterable[Event]) -> Picture:
    """The shapes of the events, which may come in any order."""
    events = sorted(events, key=lambda event: float(event["at"]))
    return _Drawing(events).finish()


class _NodeState:
    """What is known of a node while its events are read, and since when it has been so."""

    def __init__(self, at: float) -> None:
        self.since = at
        self.role, self.term, self.text = "up", 0, "up, role not known"
        self.down: str | None = None
        self.paused: float | None = None


class _Drawing:
    """Reads the events once, in the order of time, and adds their shapes."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.reader = Reader(events)
        start, end = (events[0]["at"], events[-1]["at"]) if events else (0.0, 0.0)
        self.picture = Picture(start, end, list(_lanes(events, self.reader)))
        self.lanes = {(lane.kind, lane.name): number for number, lane in enumerate(self.picture.lanes)}
        self.nodes: dict[str, _NodeState] = {}
        self.faults: dict[tuple[object, str], list[Event]] = {}
        self.pending: dict[object, Event] = {}  # operations
        self.under_way: dict[object, Event] = {}  # messages

    def finish(self) -> Picture:
        """The picture, with everything that is still open at the end of the run."""
        for event in self.events:
            self._read(event)
        end = self.picture.end
        for name in self.nodes:
            self._resume(name, end, open=True)
            self._close_role(name, end, open=True)
        for faults in self.faults.values():
            for fault in faults:
                self._mark(fault)
        for invocation in list(self.pending.values()):
            self._operation(invocation, None)
        for sent in self.under_way.values():
            self._arrow(sent, sent["at"], sent, "unknown")
        _arrange(self.picture)
        return self.picture

    def _read(self, event: Event) -> None:
        at, kind, node = event["at"], event["kind"], event.get("node")
        if ("node", node) in self.lanes and kind not in _NAMES_NODES:
            self.nodes.setdefault(str(node), _NodeState(at))
        match kind:
            case "role" | "up" | "down" | "pause" | "resume":
                self._node(str(node), event)
            case "send":
                self.under_way[event.get("id")] = event
            case "deliver":
                self._arrow(event, at, self.reader.sends.get(event.get("id"), event), "delivered")
            case "lost":
                self._arrow(event, at, self.reader.sends.get(event.get("id"), event), "lost")
            case "fault":
                self._fault(event)
            case "invoke":
                self.pending[event.get("id")] = event
            case "complete":
                self._operation(self.pending.get(event.get("id"), event), event)
            case "violation" | "phase":
                self.picture.lines.append(Line(at, kind, self._line(event)))
            case _ if kind in _MARKS:
                self._mark(event)

    def _text(self, event: Event) -> str:
        return self.reader.what(event)[:_TEXT]

    def _line(self, event: Event) -> str:
        if event["kind"] == "phase":
            return str(event.get("text", ""))
        node = f" ({event['node']})" if event.get("node") else ""
        return f"{event.get('invariant', '?')}{node}: {event.get('text', '')}"[:_TEXT]

    # -- nodes ----------------------------------------------------------------------------------------------------

    def _node(self, name: str, event: Event) -> None:
        at, kind, state = event["at"], event["kind"], self.nodes[name]
        if kind == "pause":
            state.paused = at
            return
        if kind == "resume":
            self._resume(name, at)
            return
        self._close_role(name, at)
        state.down = None
        if kind == "role":
            state.role, state.term, state.text = str(event["role"]), int(event.get("term", 0)), self._text(event)
        else:
            state.role, state.term, state.text = "up", 0, "up, role not known"
        if kind == "down":
            self._resume(name, at)
            state.down = self._text(event)

    def _close_role(self, name: str, end: float, open: bool = False) -> None:
        state, lane = self.nodes[name], self.lanes["node", name]
        since, state.since = state.since, end
        if since == end and not open:
            return
        if state.down is not None:
            self.picture.bars.append(Bar(lane, since, end, "down", "down", f"{name} {state.down}", open=open))
            self._fault_bar(since, end, f"{name} {state.down}", open)
        else:
            label = "" if state.role == "up" else f"{state.role} · term {state.term}"
            title = f"{name} {state.text}"
            self.picture.bars.append(Bar(lane, since, end, state.role, label, title, term=state.term, open=open))

    def _resume(self, name: str, end: float, open: bool = False) -> None:
        state, lane = self.nodes[name], self.lanes["node", name]
        if state.paused is not None:
            self.picture.bars.append(Bar(lane, state.paused, end, "paused", "paused", f"{name} paused", open=open))
            self._fault_bar(state.paused, end, f"{name} paused", open)
            state.paused = None

    # -- messages -------------------------------------------------------------------------------------------------

    def _arrow(self, event: Event, end: float, sent: Event, fate: str) -> None:
        if fate != "unknown":
            self.under_way.pop(event.get("id"), None)
        received = event["kind"] == "deliver"
        source = str(event["sender"] if received else event["node"])
        target = str(event["node"] if received else event["to"])
        title = f"{source} → {target} {self._text(event)}"
        name, lanes = str(sent.get("message", "?")), self.lanes
        heartbeat = name == "AppendEntries" and "heartbeat" in sent.get("text", "")
        group = "heartbeats" if heartbeat else _GROUPS.get(name, "forwards")
        self.picture.arrows.append(
            Arrow(lanes["node", source], lanes["node", target], sent["at"], end, group, fate, title)
        )

    # -- faults and marks -----------------------------------------------------------------------------------------

    def _fault(self, event: Event) -> None:
        node, name = event.get("node"), str(event.get("fault"))
        if not name.startswith(END_OF):
            self.faults.setdefault((node, name), []).append(event)
            return
        for fault in self.faults.pop((node, name.removeprefix(END_OF)), []):
            title = f"{node or ''} {name.removeprefix(END_OF)} {fault.get('text', '')}".strip()[:_TEXT]
            self._fault_bar(fault["at"], event["at"], title, False)

    def _fault_bar(self, start: float, end: float, text: str, open: bool) -> None:
        self.picture.bars.append(Bar(self.lanes["faults", "faults"], start, end, "fault", text, text, open=open))

    def _mark(self, event: Event) -> None:
        kind, node = event["kind"], event.get("node")
        lane = self.lanes["faults", "faults"] if kind in {"fault", "dropped"} else self.lanes["node", str(node)]
        label = str(event.get(_LABELS.get(kind, ""), ""))
        title = f"{node or ''} {self._text(event)}".lstrip()
        self.picture.marks.append(Mark(lane, event["at"], kind, _MARKS.get(kind, ""), label, title))

    # -- clients --------------------------------------------------------------------------------------------------

    def _operation(self, invocation: Event, completion: Event | None) -> None:
        self.pending.pop(invocation.get("id"), None)
        client = self.reader.who(invocation)
        start, end = invocation["at"], self.picture.end if completion is None else completion["at"]
        outcome = "info" if completion is None else str(completion.get("outcome"))
        label = self._text(invocation)
        title = f"no answer to {label}" if completion is None else self._text(completion)
        title = f"{client} → {invocation.get('node', '?')} {title}"
        lane = self.lanes["client", client]
        self.picture.bars.append(Bar(lane, start, end, outcome, label, title, open=outcome == "info"))


def _lanes(events: list[Event], reader: Reader) -> Iterator[Lane]:
    nodes: set[str] = set()
    clients: set[str] = set()
    faults = False
    for event in events:
        kind = event["kind"]
        if kind not in _NAMES_NODES:
            nodes.update(str(event[field]) for field in ("node", "to", "sender") if event.get(field) is not None)
        if kind in {"invoke", "complete"}:
            clients.add(reader.who(event))
        faults = faults or kind in {"fault", "down", "pause", "dropped"}
    if faults:
        yield Lane("faults", "faults")
    yield from (Lane(name, "node") for name in sorted(nodes, key=_natural))
    yield from (Lane(name, "client") for name in sorted(clients, key=_natural))


def _natural(name: str) -> list[Any]:
    """Sorts n2 before n10: every second part is a number."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def _arrange(picture: Picture) -> None:
    """Sorts what is drawn, and lays bars that overlap in rows of their lane; a node's lie over each other."""
    picture.bars.sort(key=lambda bar: bar.start)
    picture.marks.sort(key=lambda mark: mark.at)
    ends: list[list[float]] = [[] for _ in picture.lanes]
    for mark in picture.marks:
        if picture.lanes[mark.lane].kind == "faults":
            ends[mark.lane] = [float("inf")]  # the first row is the marks'
    for bar in picture.bars:
        lane, rows = picture.lanes[bar.lane], ends[bar.lane]
        if lane.kind == "node":
            continue
        row = next((row for row, end in enumerate(rows) if end <= bar.start), len(rows))
        if row == len(rows) < _ROWS:
            rows.append(bar.end)
        bar.row = min(row, len(rows) - 1)
        rows[bar.row] = bar.end
        lane.rows = len(rows)

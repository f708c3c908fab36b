"""The trace of a run: what happened, in order, each with its virtual time.

An event is a dict with "at" (seconds), "kind", and the kind's own fields:

    role        node, role, term, leader            durable     node, index
    send        node, to, id, message, text         commit      node, index
    deliver     node, sender, id, message           apply       node, first, last
    lost        node, to, id, reason                snapshot    node, what (saved, sent, installed), index
    fault       fault, node?, text                  membership  node, voters, learners
    down        node, reason                        phase       text
    up          node                                violation   invariant, node?, text
    pause       node                                invoke      client, id, node, f, key, value
    resume      node                                complete    id, outcome (ok, fail, info), value, text?
    write       node, text                          dropped     count

`message` is the name of a type in `raftcore.messages` and `text` what `describe` says of it. The `id` of a delivered
or lost message is that of its `send`, the `id` of a completion that of its `invoke`. `dropped` stands first in a trace
that outgrew its limit.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Final, assert_never

import msgspec

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
from raftcore.types import EntryKind, LogId

Event = dict[str, Any]

LIMIT: Final = 100_000
"""How many events a trace keeps by default; one takes about 200 bytes."""

# Fields in one order, floats as the shortest text that reads back as the same float.
_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Event)


class Trace:
    """Records events; keeps the newest `limit` of them and counts the others.

    `clock` gives the time in seconds. An event is encoded when it is added, so what happens later to a list that it
    was made of doesn't change it.
    """

    def __init__(self, clock: Callable[[], float], limit: int = LIMIT) -> None:
        self._clock = clock
        self._kept: deque[bytes] = deque(maxlen=limit)
        self._added = 0
        self._hash = hashlib.sha256()

    def add(self, kind: str, /, **fields: object) -> None:
        """Records that `kind` happened now. Raises `TypeError` for a field that JSON has no word for."""
        line = _encoder.encode({"at": self._clock(), "kind": kind, **fields})
        self._kept.append(line)
        self._added += 1
        self._hash.update(line + b"\n")

    @property
    def dropped(self) -> int:
        """How many events were recorded and are no longer kept."""
        return self._added - len(self._kept)

    @property
    def events(self) -> list[Event]:
        """What is kept, oldest first, as `load` gives it back: made anew by each call, which takes time."""
        return [_decoder.decode(line) for line in self._lines()]

    def digest(self) -> str:
        """SHA-256, in hex, of all events ever added: of the file that `save` writes, as long as none was dropped."""
        return self._hash.hexdigest()

    def save(self, path: Path) -> None:
        """Writes what is kept to a file, one JSON object a line."""
        with path.open("wb") as file:
            file.writelines(line + b"\n" for line in self._lines())

    def _lines(self) -> Iterable[bytes]:
        if self.dropped:
            first = _decoder.decode(self._kept[0])["at"] if self._kept else self._clock()
            yield _encoder.encode({"at": first, "kind": "dropped", "count": self.dropped})
        yield from self._kept


def load(path: Path) -> list[Event]:
    """The events of a file that `Trace.save` wrote. Raises `WireError` for a line that is not an event, `OSError`."""
    events = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                event = _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise WireError(f"{path}, line {number}: {error}; save the trace again") from None
            if not isinstance(event.get("at"), (int, float)) or not isinstance(event.get("kind"), str):
                raise WireError(f'{path}, line {number}: an event has "at" and "kind"; is the file a trace?')
            events.append(event)
    return events


def select(
    events: Iterable[Event],
    *,
    nodes: Collection[str] = (),
    kinds: Collection[str] = (),
    start: float = -math.inf,
    end: float = math.inf,
) -> list[Event]:
    """The events of these kinds with start <= at <= end (seconds) in which one of `nodes` has a part.

    `nodes` may name clients too. Empty `nodes` or `kinds` are all; an event that names no node is every node's.
    """
    events = list(events)
    reader = Reader(events)
    return [
        event
        for event in events
        if start <= event["at"] <= end
        and (not kinds or event["kind"] in kinds)
        and (not nodes or not (parties := reader.parties(event)) or not parties.isdisjoint(nodes))
    ]


def lines(events: Iterable[Event], *, of: Iterable[Event] | None = None, width: int | None = None) -> list[str]:
    """One line an event, in the order of time: when, who, towards whom, what; in columns.

    `of` is the whole trace when `events` is a selection: a delivery's text stands in its `send`. `width` cuts what is
    longer, in characters.
    """
    events = sorted(events, key=lambda event: float(event["at"]))
    reader = Reader(events if of is None else of)
    rows = [(f"{event['at']:.6f}", reader.who(event), reader.whom(event), reader.what(event)) for event in events]
    times, whos, whoms = (max((len(row[column]) for row in rows), default=0) for column in range(3))
    texts = [
        f"{at.rjust(times)}  {who.ljust(whos)}  {whom.ljust(whoms)}  {what}".rstrip() for at, who, whom, what in rows
    ]
    return [text if width is None or len(text) <= width else text[: max(width - 1, 0)] + "…" for text in texts]


# -- events in words --------------------------------------------------------------------------------------------------

_PHRASES: Final = {
    "fault": "fault: {fault} {text}",
    "down": "down: {reason}",
    "up": "up",
    "pause": "paused",
    "resume": "resumed",
    "write": "writes {text}",
    "durable": "durable up to {index}",
    "commit": "commit {index}",
    "apply": "applied {first}..{last}",
    "snapshot": "snapshot {what}, last {index}",
    "phase": "== {text} ==",
    "violation": "VIOLATION of {invariant}: {text}",
    "dropped": "{count} earlier events were dropped",
}


class _Fields(dict[str, Any]):
    """An event's fields; one that the event lacks reads "?", so that an odd event still shows."""

    def __missing__(self, name: str) -> str:
        return "?"


class Reader:
    """Puts events into words; knows which messages and operations the ids in a trace stand for."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.sends: dict[object, Event] = {}
        self.invocations: dict[object, Event] = {}
        for event in events:
            if event["kind"] == "send":
                self.sends[event.get("id")] = event
            elif event["kind"] == "invoke":
                self.invocations[event.get("id")] = event

    def parties(self, event: Event) -> set[str]:
        """The nodes and the client that have a part in the event."""
        if event["kind"] in {"invoke", "complete"}:
            event = self.invocations.get(event.get("id"), event)
            return {_client(event), str(event.get("node", "?"))}
        return {event[field] for field in ("node", "to", "sender") if event.get(field)}

    def who(self, event: Event) -> str:
        """The node or client that the event happens at."""
        if event["kind"] in {"invoke", "complete"}:
            return _client(self.invocations.get(event.get("id"), event))
        return str(event.get("node") or "")

    def whom(self, event: Event) -> str:
        """The other side of a message or an operation, with the direction."""
        match event["kind"]:
            case "send":
                return f"→ {event.get('to', '?')}"
            case "lost":
                return f"✗ {event.get('to', '?')}"
            case "deliver":
                return f"← {event.get('sender', '?')}"
            case "invoke":
                return f"→ {event.get('node', '?')}"
            case "complete":
                return f"← {self.invocations.get(event.get('id'), event).get('node', '?')}"
        return ""

    def what(self, event: Event) -> str:
        """What happened, on one line."""
        fields = _Fields(event)
        match event["kind"]:
            case "send" | "deliver" | "lost":
                text = self._message(fields)
            case "role":
                text = _role(fields)
            case "membership":
                text = _membership(fields)
            case "invoke" | "complete":
                text = self._operation(fields)
            case kind if kind in _PHRASES:
                text = _PHRASES[kind].format_map(fields)
            case kind:
                rest = (f"{name} {_word(event[name])}" for name in sorted(event.keys() - {"at", "kind", "node"}))
                text = " ".join((kind, *rest))
        return "".join(character if character.isprintable() else " " for character in text).rstrip()

    def _message(self, fields: _Fields) -> str:
        sent = _Fields(self.sends.get(fields["id"], fields))
        text = f"{sent['message']} {sent['text']}" if "text" in sent else str(sent["message"])
        return f"lost ({fields['reason']}): {text}" if fields["kind"] == "lost" else text

    def _operation(self, fields: _Fields) -> str:
        asked = _Fields(self.invocations.get(fields["id"], {}))
        operation = f"{asked['f']} {_word(asked['key'])}"
        if fields["kind"] == "invoke":
            return f"{operation} {_word(asked.get('value'))}".rstrip()
        text = f"{fields['outcome']} {operation} {_word(fields.get('value'))}".rstrip()
        return f"{text}: {fields['text']}" if fields.get("text") else text


def _client(event: Event) -> str:
    client = event.get("client", "?")
    return client if isinstance(client, str) else f"client {client}"


def _word(value: object) -> str:
    """A value as people write it: text bare, nothing for None, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _encoder.encode(value).decode()


def _role(fields: _Fields) -> str:
    text = f"{fields['role']} in term {fields['term']}"
    leader = fields.get("leader")
    return f"{text} of {leader}" if leader and leader != fields.get("node") else text


def _membership(fields: _Fields) -> str:
    voters = fields["voters"]
    joint = isinstance(voters, list) and voters and isinstance(voters[0], list)
    sets = voters if joint else [voters]
    text = "voters " + " and ".join(" ".join(map(str, names)) for names in sets)
    learners = fields.get("learners")
    return f"{text}, learners {' '.join(map(str, learners))}" if learners else text


# -- messages in words ------------------------------------------------------------------------------------------------


def describe(message: Message) -> str:
    """What the message says, in the paper's words and without the name of its type; a position is `term.index`."""
    term = f"term {message.vote.leader.term}"
    match message:
        case RequestVote():
            text = f"last {_position(message.last)}"
            text += " pre-vote" * message.pre + " for a transfer" * message.transfer
        case VoteReply():
            text = "pre-vote " * message.pre + ("granted to" if message.granted else "refused to")
            text += f" {message.request.leader.node} in term {message.request.leader.term}"
        case AppendEntries():
            text = f"prev {_position(message.prev)} {_entries(message)} commit {message.commit}"
        case AppendReply():
            text = f"match {message.match}"
            if message.rejected is not None:
                text += f" rejected {message.rejected}"
                text += f" hint {_position(message.hint)}" if message.hint is not None else ""
        case SnapshotChunk():
            text = f"snapshot {message.meta.id} last {_position(message.meta.last)} offset {message.offset}"
            text += f" {len(message.data)} B" + " done" * message.done
        case SnapshotReply():
            text = f"snapshot {message.snapshot} {_status(message)}"
        case TimeoutNow():
            text = f"round {message.round}"
        case Forward():
            text = f"{message.kind} {len(message.payloads)} × {sum(map(len, message.payloads))} B"
            text += f" request {message.request}"
        case ForwardReply():
            text = f"{len(message.results)} results" if message.error is None else ": ".join(message.error)
            text += f" request {message.request}"
        case _:
            assert_never(message)
    return f"{term} {text}"


def _position(id: LogId) -> str:
    return f"{id.leader.term}.{id.index}"


def _entries(message: AppendEntries) -> str:
    if not message.runs:
        return "heartbeat"
    text = f"entries {message.prev.index + 1}..{message.last_index}"
    return text + " membership" * any(run.kind is EntryKind.MEMBERSHIP for run in message.runs)


def _status(message: SnapshotReply) -> str:
    match message.status:
        case SnapshotStatus.WANT:
            return f"wants {message.offset}"
        case SnapshotStatus.INSTALLED:
            return f"installed match {message.match}"
        case SnapshotStatus.FAILED:
            return "failed"

"""The contract of an observer: rare notifications."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Something rare that happened on a node.

    `name` is one of ``leader``, ``role``, ``membership``, ``snapshot_saved``, ``snapshot_sent``,
    ``snapshot_installed``, ``peer_up``, ``peer_down``, ``peer_refused``, ``storage_stalled``, ``stopped``.
    `detail` holds plain values; the page "events" of the reference lists them for each name.
    """

    node: str
    name: str
    detail: dict[str, object]


class Observer(Protocol):
    """Told of rare events. Called on the event loop, so it must return at once; an exception is logged and ignored."""

    def notify(self, event: Event) -> None: ...

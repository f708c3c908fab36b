"""The network between simulated nodes: latency, loss, partitions, resets; all chance from one generator.

A connection has two ends, one in each node's process; what is sent at one arrives at the other after a drawn latency,
in order. That is how TCP behaves. Beyond it a message may get lost without a word, come twice, be overtaken, or come
late: when its connection has ended and the next one is up. The contract of transports allows for all of these.

Who finds out about the end of a connection, and when, is as in TCP too. The end of a process is told to its peers. A
cut and the loss of power are not: each end waits until nothing has come for some seconds, or until it sends something
to a machine that does not know the connection any more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

from raftcore.messages import Message
from raftcore.sim.network_handshake import Handshakes
from raftcore.sim.network_settings import NetworkSettings
from raftcore.sim.network_transport import GAP, End, SimTransport
from raftcore.sim.trace import describe
from raftcore.types import NodeId

__all__ = ["Network", "NetworkSettings", "SimTransport"]

_LOST = {
    "lost": "on the way",
    "cut": "the way is cut",
    "broken": "its connection has ended",
    "unconnected": "no connection",
    "overflowed": "too many messages under way",
}
"""What becomes of a message that is not delivered: the name of its counter, and the reason in the trace."""

Hook = Callable[[NodeId, NodeId, Message], object]


class Network:
    """The network of one simulated cluster, and what can be done to it.

    `schedule(delay, node, call, *args)` runs a call in a node's process after `delay` true seconds: when it resumes if
    it is paused then, never if it is dead. `clock()` is the true time in seconds. `trace(kind, **fields)` takes the
    events send, deliver and lost of `raftcore.sim.trace`.

    `on_send` and `on_deliver` are called with sender, receiver and message: for each message that a node hands to its
    transport, and right before each delivery. The methods after the faults are for the network's other parts.
    """

    def __init__(
        self,
        rng: random.Random,
        schedule: Callable[..., object],
        clock: Callable[[], float],
        settings: NetworkSettings,
        trace: Callable[..., object] | None = None,
    ) -> None:
        self.on_send: Hook | None = None
        self.on_deliver: Hook | None = None
        self.rng = rng
        self.random = rng.random
        self.schedule = schedule
        self.clock = clock
        self.trace = trace
        self.stations: dict[NodeId, SimTransport] = {}
        self.powerless: set[NodeId] = set()  # machines that answer nothing, not even that no node is running
        self.handshakes = Handshakes(self)
        self.sent = self.delivered = 0
        names = (*_LOST, "duplicated", "reordered", "late", "stalled", "connected", "refused", "resets", "timeouts")
        self.counts = dict.fromkeys(names, 0)
        self._cuts: set[tuple[NodeId, NodeId]] = set()
        self._isolated: set[NodeId] = set()
        self._factors: dict[tuple[NodeId, NodeId], float] = {}
        self._numbers = self._silences = 0
        self.settings = settings

    @property
    def settings(self) -> NetworkSettings:
        """What the network does by itself from now on; what is under way arrives as it was drawn."""
        return self._settings

    @settings.setter
    def settings(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self.min_latency = settings.min_latency
        self.spread = (settings.median_latency - settings.min_latency) / math.log(2)
        self.max_in_flight = settings.max_in_flight
        # One draw decides for all five chances: below the first limit it is the first, below the second the second ...
        safe, limits = 1.0, []
        for chance in (settings.loss, settings.duplication, settings.reordering, settings.late, settings.stall):
            safe *= 1 - chance
            limits.append(1 - safe)
        self._limits, self.mishap = limits, limits[-1]

    def counters(self) -> dict[str, int]:
        """What really happened so far.

        A message that was *sent* was *delivered*; or it was *lost* on its own, to a *cut*, because its connection was
        *broken*, because the two were *unconnected*, or *overflowed* the limit; or it is under way, or went down with
        the process that it was for. Among the deliveries are second ones of the same message (*duplicated*), those of
        messages that others had overtaken (*reordered*), and of those that outlived their connection (*late*).
        *stalled* messages held up what was behind them. Connections: *connected*, *refused* by one of the two nodes,
        *resets*, and *timeouts* of ends to which nothing could come back.
        """
        return {"sent": self.sent, "delivered": self.delivered, **self.counts}

    # -- faults -------------------------------------------------------------------------------------------------------

    def cut(self, sender: NodeId, receiver: NodeId) -> None:
        """Lose what `sender` sends to `receiver` from now on; nobody is told."""
        self._cuts.add((sender, receiver))
        self._route()

    def partition(self, groups: Iterable[Iterable[NodeId]]) -> None:
        """Cut both ways between nodes of different groups. A node in no group keeps its ways."""
        parts = [tuple(group) for group in groups]
        for part in parts:
            others = [node for rest in parts if rest is not part for node in rest]
            self._cuts.update((node, other) for node in part for other in others)
        self._route()

    def isolate(self, node: NodeId) -> None:
        """Cut a node off from all others, both ways."""
        self._isolated.add(node)
        self._route()

    def slow(self, sender: NodeId, receiver: NodeId, factor: float) -> None:
        """What `sender` sends to `receiver` takes `factor` times as long. Raises `ValueError` for a negative one."""
        if factor < 0:
            raise ValueError(f"factor: {factor} is negative; give 1 for the ordinary latency")
        self._factors[sender, receiver] = factor
        self._route()

    def heal(self) -> None:
        """Undo every cut, partition, isolation and slowness."""
        self._cuts.clear()
        self._isolated.clear()
        self._factors.clear()
        self._route()

    def reset(self, node: NodeId, peer: NodeId) -> None:
        """End what connects the two: what is under way is lost, and both are told soon."""
        ends = []
        for one, other in ((node, peer), (peer, node)):
            station = self.stations.get(one)
            end = station.ends.get(other) if station is not None else None
            if end is not None:
                ends.append(end)
        for end in ends:
            for side in (end, end.other):
                side.open = False
                self._break(side)
            self.schedule(self.latency(end.peer, end.node), end.node, self.drop, end, "connection reset")
        self.counts["resets"] += bool(ends)
        self.handshakes.reset(node, peer)

    def crashed(self, node: NodeId, silently: bool = False) -> None:
        """The node's process has died. Its peers are told soon or, when it went `silently` (the power failed), never.

        What it had sent still arrives. A node that has left before is left alone.
        """
        if silently:
            self.powerless.add(node)
        else:
            self.powerless.discard(node)
        station = self.stations.get(node)
        if station is not None:
            self.leave(station, "connection reset", silently=silently)

    # -- messages -----------------------------------------------------------------------------------------------------

    def note_send(self, sender: NodeId, receiver: NodeId, message: Message) -> int:
        """Trace a message; answers its number. Without a trace messages have none, which 0 stands for."""
        if self.trace is None:
            return 0
        self._numbers += 1
        kind, text = type(message).__name__, describe(message)
        self.trace("send", node=sender, to=receiver, id=self._numbers, message=kind, text=text)
        return self._numbers

    def lose(self, fate: str, sender: NodeId, receiver: NodeId, number: int) -> None:
        """Count a message under its fate, and trace it."""
        self.counts[fate] += 1
        if self.trace is not None:
            self.trace("lost", node=sender, to=receiver, id=number, reason=_LOST[fate])

    def lose_blocked(self, end: End, number: int) -> None:
        """A message meets a cut, or a connection that has no other end any more."""
        node, peer = end.node, end.peer
        self.lose("broken" if end.broken else "cut", node, peer, number)
        if end.broken and end.open and peer in self.stations and self.passes(node, peer, back=True):
            # The machine is there (again), and says that it does not know the connection.
            end.open = False
            round_trip = self.latency(node, peer) + self.latency(peer, node)
            self.schedule(round_trip, node, self.drop, end, "connection reset: the peer does not know it")

    def befall(self, end: End, drawn: float, delay: float, message: Message, number: int) -> None:
        """Do to a message, which would arrive after `delay`, what `drawn` (from 0 to `mishap`) stands for."""
        settings, peer = self._settings, end.peer
        loss, duplication, reordering, late, _ = self._limits
        if drawn < loss:
            self.lose("lost", end.node, peer, number)
            return
        end.sent += 1
        if drawn < duplication:
            end.last = self.clock() + delay
            self.schedule(delay, peer, end.arrive, message, number)
            self.schedule(delay + self.latency(end.node, peer), peer, end.arrive_again, message, number)
        elif drawn < reordering:
            delay += self._exponential(settings.reordering_seconds)
            self.schedule(delay, peer, end.arrive_displaced, message, number, end.sent)
        elif drawn < late:
            delay += self._exponential(settings.late_seconds)
            self.schedule(delay, peer, end.arrive_late, message, number, end.sent)
        else:
            self.counts["stalled"] += 1
            delay += self._exponential(settings.stall_seconds)
            end.last = self.clock() + delay
            self.schedule(delay, peer, end.arrive, message, number)

    def _exponential(self, mean: float) -> float:
        return -mean * math.log(1 - self.random())

    # -- ways ---------------------------------------------------------------------------------------------------------

    def latency(self, sender: NodeId, receiver: NodeId) -> float:
        """Draw how long something takes from one node to another, in seconds."""
        return (self.min_latency + self._exponential(self.spread)) * self._factors.get((sender, receiver), 1.0)

    def passes(self, sender: NodeId, receiver: NodeId, *, back: bool = False) -> bool:
        """Whether nothing cuts the way; with `back`, nor the way back."""
        return (
            (sender, receiver) not in self._cuts
            and not (back and (receiver, sender) in self._cuts)
            and sender not in self._isolated
            and receiver not in self._isolated
        )

    def _route(self) -> None:
        for node in sorted(self.stations):
            ends = self.stations[node].ends
            for peer in sorted(ends):
                self.look_at(ends[peer])

    def look_at(self, end: End) -> None:
        """Work out how the way from an end is. From when on nothing can come back, some seconds later it gives up."""
        node, peer = end.node, end.peer
        end.blocked = end.broken or not self.passes(node, peer)
        end.factor = self._factors.get((node, peer), 1.0)
        # A cut of either way: what one end sends is never acknowledged, and the other waits for what never comes.
        if not end.broken and self.passes(node, peer, back=True):
            end.silence = 0
        elif not end.silence:
            self._silences += 1
            end.silence = self._silences
            seconds = self.rng.uniform(self._settings.silence_min, self._settings.silence_max)
            self.schedule(seconds, node, self._give_up, end, end.silence)

    # -- ends of connections ------------------------------------------------------------------------------------------

    def close(self, end: End, reason: str) -> None:
        """End a connection from one of its ends. The other is told, behind what was sent to it, unless the way is
        cut."""
        self.drop(end, reason)
        self._break(end.other)
        self._tell_other(end, "the peer closed the connection")

    def drop(self, end: End, reason: str) -> None:
        """In the process of this end: it is closed, and its node is told; unless it was closed or replaced before."""
        if end.is_current:
            end.open, end.broken, end.blocked = False, True, True
            end.transport.fall(end, reason)

    def leave(self, station: SimTransport, reason: str, *, silently: bool) -> None:
        """A node's transport is gone."""
        del self.stations[station.node]
        station.go()
        for peer in sorted(self.stations):
            end = self.stations[peer].ends.get(station.node)
            if end is not None:
                self._break(end)
                if not silently:
                    self._tell_other(end.other, reason)
        self.handshakes.leave(station, reason, silently=silently)

    def _give_up(self, end: End, silence: int) -> None:
        if end.silence == silence and end.is_current:
            self.counts["timeouts"] += 1
            self.close(end, "nothing has come from the peer for some seconds")

    def _break(self, end: End) -> None:
        """What is sent at this end gets nowhere any more."""
        end.broken = True
        self.look_at(end)

    def _tell_other(self, end: End, reason: str) -> None:
        if self.passes(end.node, end.peer):
            now = self.clock()
            arrival = max(now + self.latency(end.node, end.peer), end.last + GAP)
            self.schedule(arrival - now, end.peer, self.drop, end.other, reason)

"""The cluster of a scenario as text: what a reader sees when a line fails."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scenario_cluster import Machine, Stage, kind_of

from raftcore.engine.log import NO_END
from raftcore.messages import AppendEntries, AppendReply, RequestVote, SnapshotChunk
from raftcore.types import NO_LOG, Membership

if TYPE_CHECKING:
    from engine_cluster import Letter


def membership_text(membership: Membership) -> str:
    """``voters n1 n2 and n1 n3 learners n4``; ``none`` on a machine that belongs to no cluster."""
    if not membership.all_voters:
        return "none"
    text = "voters " + " and ".join(" ".join(group) for group in membership.voters)
    return f"{text} learners {' '.join(membership.learners)}" if membership.learners else text


def letter_text(letter: Letter) -> str:
    """One message, such as ``n1 -> n2 appends: entries 3..4 after 2 (term 1), commit 2, term 2``."""
    sender, to, message = letter
    details = [f"term {message.vote.leader.term}"]
    if isinstance(message, AppendEntries):
        entries = f"entries {message.prev.index + 1}..{message.last_index} " if message.runs else ""
        details = [f"{entries}after {message.prev.index} (term {message.prev.leader.term})", f"commit {message.commit}"]
        details.append(f"term {message.vote.leader.term}")
    elif isinstance(message, AppendReply):
        said = f"match {message.match}"
        if message.rejected is not None:
            hint = message.hint or NO_LOG
            said = f"nothing agrees at {message.rejected}, try {hint.index} (term {hint.leader.term})"
        details.insert(0, said)
    elif isinstance(message, RequestVote):
        details.insert(0, f"log ends at {message.last.index} (term {message.last.leader.term})")
    elif isinstance(message, SnapshotChunk):
        details.insert(0, f"up to {message.meta.last.index} (term {message.meta.last.leader.term})")
    return f"{sender} -> {to} {kind_of(letter)}: {', '.join(details)}"


def stage_text(stage: Stage) -> str:
    """The whole cluster: a row a machine, what leaders know of their followers, and every message that waits."""
    rows = [("node", "role", "term", "vote", "follows", "commit", "durable", "log", "membership")]
    for node, machine in sorted(stage.machines.items()):
        if not machine.alive:
            rows.append((node, "down", "", "", "", "", "", machine.disk_text(), ""))
            continue
        engine = machine.engine
        term, voted = engine.vote.leader
        shown = (engine.role.value, term, voted or "-", engine.leader or "-", engine.commit, engine.log.durable)
        pending = " (not committed)" if engine.history.pending_index != NO_END else ""
        rows.append((node, *map(str, shown), machine.log_text(), membership_text(engine.membership) + pending))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"time {stage.clock.now:.3f} s"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for machine in stage.up():
        alike: dict[str, list[str]] = {}
        for peer, text in progress_texts(machine).items():
            alike.setdefault(text, []).append(peer)
        lines += [f"{machine.node} -> {' '.join(peers)}: {text}" for text, peers in alike.items()]
        if machine.writing:
            lines.append(f"{machine.node}: {len(machine.writing)} writes wait for the disk")
    waiting = Counter(f"under way: {letter_text(letter)}" for letter in stage.under_way)
    waiting.update(f"held: {letter_text(letter)}" for _, letter in stage.held)
    lines += [text if count == 1 else f"{text} ({count} times)" for text, count in waiting.items()]
    return "\n".join(lines)


def progress_texts(machine: Machine) -> dict[str, str]:
    """What a leader knows of each follower: ``probe match 0 next 3``."""
    lead = machine.engine.leadership
    if lead is None:
        return {}
    return {peer: f"{p.state.value} match {p.match} next {p.next}" for peer, p in lead.progress.items()}

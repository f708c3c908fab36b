"""The hooks. Each is called once, when a registry is asked for the first backend of its kind; none runs while
a node does.

A plugin implements the hooks of the kinds that it provides, in a thin module named by an entry point in the group
``raftcore``, and imports its driver inside `Backend.build` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from raftcore.contracts import LogStore, Observer, SnapshotSink, StateMachine, Transport
    from raftcore.plugins.backend import Backend

hookspec = pluggy.HookspecMarker("raftcore")
hookimpl = pluggy.HookimplMarker("raftcore")


@hookspec
def raftcore_log_stores() -> list[Backend[Any, LogStore]]:  # type: ignore[empty-body]  # a specification has no body
    """Log stores that `[log_store] backend` can name."""


@hookspec
def raftcore_state_machines() -> list[Backend[Any, StateMachine]]:  # type: ignore[empty-body]  # as above
    """State machines that `[state_machine] backend` can name."""


@hookspec
def raftcore_transports() -> list[Backend[Any, Transport]]:  # type: ignore[empty-body]  # as above
    """Transports that `[transport] backend` can name."""


@hookspec
def raftcore_snapshot_sinks() -> list[Backend[Any, SnapshotSink]]:  # type: ignore[empty-body]  # as above
    """Snapshot sinks that `[snapshots] backend` can name."""


@hookspec
def raftcore_observers() -> list[Backend[Any, Observer]]:  # type: ignore[empty-body]  # as above
    """Observers that `[[observers]] backend` can name."""


@hookspec
def raftcore_commands(cli: click.Group) -> None:
    """Add commands to `raftcore` on the command line."""

"""The demo's directory, and a configuration for each of its three nodes."""

from __future__ import annotations

from pathlib import Path

from raftcore.cli.processes import Process, configuration, free_addresses, make_room

NODES = ("n1", "n2", "n3")


def prepare(directory: Path, every_entries: int) -> list[Process]:
    """Make the directory anew, with a configuration for each node; nothing runs yet. Raises as `make_room`."""
    make_room(directory, "demo", NODES)
    addresses = free_addresses(2 * len(NODES))
    processes = [
        Process(node, directory, raft, http)
        for node, raft, http in zip(NODES, addresses[::2], addresses[1::2], strict=True)
    ]
    members = {process.node: process.raft for process in processes}
    snapshots = f"""
[snapshots]
backend = "directory"
every_entries = {every_entries}
trailing_entries = {every_entries // 4}
"""
    for process in processes:
        process.file.write_text(configuration("demo", process, members, snapshots), encoding="utf-8")
    return processes

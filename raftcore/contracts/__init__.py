"""The contracts that plugins fulfil. Each docstring is the law; the conformance suites enforce it."""

from raftcore.contracts.log_store import LogState, LogStore, WriteBatch
from raftcore.contracts.observer import Event, Observer
from raftcore.contracts.snapshot_sink import SnapshotSink, SnapshotWriter
from raftcore.contracts.state_machine import StateMachine
from raftcore.contracts.transport import Endpoint, Transport

__all__ = [
    "Endpoint",
    "Event",
    "LogState",
    "LogStore",
    "Observer",
    "SnapshotSink",
    "SnapshotWriter",
    "StateMachine",
    "Transport",
    "WriteBatch",
]

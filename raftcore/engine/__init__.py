"""Raft as a pure state machine: no I/O, no clock, no randomness of its own. `raftcore.engine.engine` is the way in."""

from raftcore.engine.engine import Engine
from raftcore.engine.log import Log, empty_log
from raftcore.engine.output import Output, Role
from raftcore.engine.settings import RaftSettings

__all__ = ["Engine", "Log", "Output", "RaftSettings", "Role", "empty_log"]

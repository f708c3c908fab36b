"""The node: the asyncio shell around the engine. `raftcore.node.node.Node` is the way in."""

from raftcore.node.node import Node
from raftcore.node.settings import Limits, SnapshotPolicy
from raftcore.node.status import PeerStatus, Status

__all__ = ["Limits", "Node", "PeerStatus", "SnapshotPolicy", "Status"]

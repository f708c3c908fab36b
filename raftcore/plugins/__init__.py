"""Plugins: what a plugin author imports, and the registry that finds and chooses backends."""

from raftcore.plugins.backend import API, Backend, BuildContext, NoOptions
from raftcore.plugins.hookspecs import hookimpl, hookspec
from raftcore.plugins.registry import (
    KINDS,
    LOG_STORE,
    OBSERVER,
    SNAPSHOT_SINK,
    STATE_MACHINE,
    TRANSPORT,
    Choice,
    Kind,
    Registry,
    Row,
)
from raftcore.plugins.secrets import Secret

__all__ = [
    "API",
    "KINDS",
    "LOG_STORE",
    "OBSERVER",
    "SNAPSHOT_SINK",
    "STATE_MACHINE",
    "TRANSPORT",
    "Backend",
    "BuildContext",
    "Choice",
    "Kind",
    "NoOptions",
    "Registry",
    "Row",
    "Secret",
    "hookimpl",
    "hookspec",
]

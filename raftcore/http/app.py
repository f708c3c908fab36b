"""The application: which path leads where, and what is answered when something goes wrong."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route

from raftcore.config import HttpSettings
from raftcore.http.answers import handlers
from raftcore.http.cluster import ClusterFace
from raftcore.http.health import HealthFace
from raftcore.http.keys import KeyFace
from raftcore.node import Node


def make_app(node: Node, settings: HttpSettings | None = None) -> Starlette:
    """The ASGI application for `node`. It opens nothing, and neither starts nor closes the node.

    Any member answers everything: what only the leader can do is passed on to it by the node. Of `settings` the
    limits count, and not the address: who serves the application decides where.
    """
    settings = settings or HttpSettings()
    keys, cluster, health = KeyFace(node, settings), ClusterFace(node, settings), HealthFace(node, settings)
    routes = [
        Route("/kv", keys.list, methods=["GET"]),
        Route("/kv/{key:path}/cas", keys.compare_and_set, methods=["POST"]),
        Route("/kv/{key:path}", keys.one, methods=["GET", "PUT", "DELETE"]),
        Route("/digest", keys.digest, methods=["GET"]),
        Route("/status", health.status, methods=["GET"]),
        Route("/livez", health.live, methods=["GET"]),
        Route("/readyz", health.ready, methods=["GET"]),
        Route("/members", cluster.members, methods=["GET", "POST"]),
        Route("/members/promote", cluster.promote, methods=["POST"]),
        Route("/members/{id}", cluster.remove, methods=["DELETE"]),
        Route("/leader", cluster.transfer, methods=["POST"]),
        Route("/snapshot", cluster.snapshot, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers=handlers())

"""What the node shows of itself: for people, and for whatever restarts it or sends it traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, Response

from raftcore.errors import NodeStopped, WaitTimeout
from raftcore.http.answers import reply

if TYPE_CHECKING:
    from starlette.requests import Request

    from raftcore.config import HttpSettings
    from raftcore.node import Node

CATCH_UP_SECONDS = 1.0

Check = tuple[bool, str]


class HealthFace:
    """``/status``, ``/livez`` and ``/readyz``."""

    def __init__(self, node: Node, settings: HttpSettings) -> None:
        self._node = node
        self._settings = settings

    async def status(self, request: Request) -> Response:
        """``GET /status``: `raftcore.node.Status` of this member, in JSON."""
        return reply(self._node.status())

    async def live(self, request: Request) -> Response:
        """``GET /livez``: an answer at all shows that the event loop turns; the node must not have failed either."""
        return _verdict(request, [self._runs()])

    async def ready(self, request: Request) -> Response:
        """``GET /readyz``: the node runs, knows a leader, and has applied what was committed when it was asked."""
        checks = [self._runs()]
        if checks[0][0]:
            leader, goal = self._node.status().leader, self._node.status().commit
            checks.append((leader is not None, f"leader: {leader or 'none is known'}"))
            checks.append(await self._applied(goal))
        return _verdict(request, checks)

    def _runs(self) -> Check:
        try:
            member = self._node.member
        except NodeStopped as error:
            return False, f"node: {error}"
        return not member.stopped, f"node: {member.stopped_error() if member.stopped else 'runs'}"

    async def _applied(self, goal: int) -> Check:
        try:
            status = await self._node.wait_for(lambda status: status.applied >= goal, CATCH_UP_SECONDS)
        except (WaitTimeout, NodeStopped) as error:
            return False, f"applied: {error}"
        return True, f"applied: {status.applied}, of {goal} that were committed"


def _verdict(request: Request, checks: list[Check]) -> Response:
    passed = all(good for good, _ in checks)
    lines = [f"[{'+' if good else '-'}] {text}" for good, text in checks]
    if "verbose" not in request.query_params:
        lines = [text for good, text in checks if not good] or ["ok"]
    return PlainTextResponse("\n".join(lines) + "\n", 200 if passed else 503)

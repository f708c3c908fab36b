"""``raftcore run``: one node as a process, until a signal or a failure ends it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftcore.cli.configuration import configured
from raftcore.config import Config
from raftcore.errors import PluginError

if TYPE_CHECKING:
    from raftcore.http.server import HttpServer
    from raftcore.node import Node

logger = logging.getLogger("raftcore.run")

# Of the objects that a node makes per proposal almost none are part of a cycle, so collecting often is wasted work.
GC_THRESHOLDS = (50_000, 20, 50)


@click.command("run")
@configured
def run(file: Path, overrides: dict[str, str]) -> None:
    """Run the node that FILE describes.

    SIGTERM or SIGINT: hand leadership over, finish, and exit with 0. A second one: exit at once, with 1.
    """
    config = Config.load(file, overrides=overrides)
    _log_to_stderr(config.id)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_Run(config).run())


class _Run:
    """One run of a node: from its start to its end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._signalled = asyncio.Event()

    async def run(self) -> None:
        """Raises what ended the node, when that was not a signal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number)
        node = self._config.make_node()
        http = _http_server(self._config, node)
        if not await self._finished(node.start()):
            return
        try:
            if http is None:
                await self._until_end(node, None)
            else:
                await self._serve(node, http)
        finally:
            await node.close()
        logger.info("stopped")

    async def _serve(self, node: Node, http: HttpServer) -> None:
        await http.start()
        try:
            await self._until_end(node, http)
        finally:
            await http.stop()  # before the node ends, so that requests under way get their answers

    async def _until_end(self, node: Node, http: HttpServer | None) -> None:
        _spare_the_collector()
        click.echo(_ready_line(self._config, node, http))
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._signalled.wait()),
            asyncio.create_task(node.wait_stopped()),
        ]
        ends = [*waits, http.task] if http is not None else waits
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # raises the failure that ended it
        finally:
            for task in waits:
                task.cancel()

    async def _finished(self, starting: Coroutine[object, object, None]) -> bool:
        """Do this, or give it up when a signal comes first. Whether it is done."""
        work = asyncio.create_task(starting)
        signalled = asyncio.create_task(self._signalled.wait())
        await asyncio.wait((work, signalled), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))
            return False
        await work
        return True

    def _signal(self, number: int) -> None:
        if self._signalled.is_set():
            click.echo(f"raftcore: {signal.Signals(number).name} again: exiting at once", err=True)
            os._exit(1)
        logger.info("%s: stopping", signal.Signals(number).name)
        self._signalled.set()


def _http_server(config: Config, node: Node) -> HttpServer | None:
    if config.http.address is None:
        return None
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise PluginError(
            f"http.address is set, but {' and '.join(missing)} is not installed: pip install 'raftcore[http]'"
        )
    from raftcore.http import make_app
    from raftcore.http.server import HttpServer

    return HttpServer(make_app(node, config.http), config.http.address)


def _ready_line(config: Config, node: Node, http: HttpServer | None) -> str:
    face = f"http://{http.address}" if http is not None else "no http"
    return (
        f"raftcore: node {node.id} of cluster {node.cluster} is ready: raft {config.address}, {face}, "
        f"data in {config.data_dir}"
    )


def _spare_the_collector() -> None:
    """What exists now stays until the end: the collector need not look at it. Only here: a process of one's own."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, when it is installed."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _log_to_stderr(node: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)-7s [{node.replace('%', '%%')}] %(name)s: %(message)s",
    )

"""A minimal configuration, and a registry whose backends have options of every type."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from raftcore.config import Config
from raftcore.plugins import Registry

MINIMAL = """
[node]
id = "n1"
data_dir = "data/n1"

[cluster]
name = "orders"

[cluster.members]
n1 = "127.0.0.1:7101"
n2 = "127.0.0.1:7102"
n3 = "127.0.0.1:7103"
"""

BACKENDS = """
    from typing import Annotated, Literal

    import msgspec
    from raftcore.plugins import Backend, NoOptions, Secret, hookimpl

    class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        certificate: str
        verify: bool = True

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        path: str = "log"
        sync: bool = True
        size: Annotated[int, msgspec.Meta(ge=1)] = 8
        ratio: float = 0.5
        mode: Literal["wal", "delete"] = "wal"
        limit: int | None = None
        hosts: list[str] = []
        weights: dict[str, int] = {}
        key: Secret | None = None
        tls: Tls | None = None

    def backends(*names):
        return [Backend(name, Options, lambda options, context: (options, context), name) for name in names]

    def plain(name):
        return Backend(name, NoOptions, lambda options, context: (options, context), name)

    @hookimpl
    def raftcore_log_stores():
        return [*backends("sqlite"), plain("memory")]

    @hookimpl
    def raftcore_transports():
        return [plain("tcp")]

    @hookimpl
    def raftcore_state_machines():
        return [plain("kv")]

    @hookimpl
    def raftcore_snapshot_sinks():
        return backends("directory")

    @hookimpl
    def raftcore_observers():
        return [*backends("webhook"), plain("log")]
"""


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry whose log store `sqlite`, sink `directory` and observer `webhook` take options of every type."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "config_backends.py").write_text(dedent(BACKENDS))
    (site / "my_app.py").write_text("class Counter:\n    pass\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield Registry(builtin="config_backends")
    for name in ("config_backends", "my_app"):
        sys.modules.pop(name, None)


@pytest.fixture
def load(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Load `node.toml`, the minimal configuration and `text` behind it, from the directory that it lies in."""
    monkeypatch.chdir(tmp_path)

    def load(
        text: str = "",
        *,
        minimal: str = MINIMAL,
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Config:
        Path("node.toml").write_text(minimal + dedent(text))
        return Config.load("node.toml", environ=environ or {}, overrides=overrides, registry=registry)

    return load

"""Real distributions, made on the spot: a package and its .dist-info on the path."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., None]

STORE = """
    import msgspec
    from raftcore.plugins import Backend, hookimpl

    class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        path: str = "log"

    def build(options, context):
        return (options, context)

    @hookimpl
    def raftcore_log_stores():
        return [Backend("{name}", Options, build, "keeps a log", {api})]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module; gone, modules too, when the test ends.

    Without `code` the module offers one log store, called `store`, made for version `api` of the contracts.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)
    find = importlib.metadata.entry_points

    def found_in_site(**selection: str) -> list[EntryPoint]:
        return [point for point in find(**selection) if point.dist and point.dist.locate_file("") == site]

    # Which plugins happen to be installed beside raftcore must make no difference here.
    monkeypatch.setattr(importlib.metadata, "entry_points", found_in_site)

    def install(
        distribution: str,
        *,
        version: str = "1.0",
        point: str = "",
        module: str = "",
        code: str | None = None,
        store: str = "things",
        api: int = 1,
    ) -> None:
        module = module or distribution.replace("-", "_")
        text = dedent(STORE).format(name=store, api=api) if code is None else dedent(code)
        (site / f"{module}.py").write_text(text)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[raftcore]\n{point or module} = {module}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def script(tmp_path: Path, install: Install) -> Callable[[str, str], None]:
    """Put a module on the path that belongs to no distribution."""

    def write(module: str, code: str) -> None:
        (tmp_path / "site" / f"{module}.py").write_text(dedent(code))
        importlib.invalidate_caches()

    return write

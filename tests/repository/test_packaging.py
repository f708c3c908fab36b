"""What the distributions promise: one version, two dependencies, a light import, complete public names."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import raftcore
import raftcore.contracts
import raftcore.errors

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS = PROJECTS[1:]


def project(path: Path) -> dict[str, object]:
    """The table `[project]` of a pyproject.toml."""
    return tomllib.loads(path.read_text())["project"]


def imported_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter loads for a statement."""
    script = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_all_distributions_have_one_version() -> None:
    """raftcore and its plugins are released together, under one version."""
    versions = {path.parent.name: project(path)["version"] for path in PROJECTS}

    assert {"0.1.0"} == set(versions.values()), versions
    assert {"leveldb", "redis", "s3snapshots"} == {path.parent.name for path in PLUGINS}


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_a_plugin_depends_on_this_series_of_raftcore(path: Path) -> None:
    """A plugin accepts the versions of raftcore with the same contracts, and says so."""
    assert "raftcore>=0.1,<0.2" in project(path)["dependencies"]


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_a_plugin_is_named_after_its_folder(path: Path) -> None:
    """The folder, the distribution and the package of a plugin have one name."""
    name = path.parent.name

    assert f"raftcore-{name}" == project(path)["name"]
    assert (path.parent / f"raftcore_{name}" / "py.typed").is_file()


def test_the_core_has_two_dependencies() -> None:
    """Everything beyond pluggy and msgspec is an extra."""
    assert ["pluggy>=1.5", "msgspec>=0.21.1"] == project(ROOT / "pyproject.toml")["dependencies"]


def test_the_extra_all_names_every_other_extra() -> None:
    """`raftcore[all]` leaves no extra out."""
    extras = project(ROOT / "pyproject.toml")["optional-dependencies"]

    assert [f"raftcore[{','.join(name for name in extras if name != 'all')}]"] == extras["all"]


def test_import_raftcore_loads_no_driver() -> None:
    """`import raftcore` brings in its two dependencies at most, and no database, web server or command line."""
    loaded = imported_by("import raftcore")
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)

    # msgspec looks for typing_extensions, and goes on without
    assert {"raftcore", "msgspec"} <= foreign <= {"raftcore", "msgspec", "pluggy", "typing_extensions"}
    assert set() == loaded & {"sqlite3", "_sqlite3", "argparse", "http", "unittest"}


def test_import_raftcore_loads_no_backend_and_no_surface() -> None:
    """`import raftcore` leaves what only a program needs alone."""
    packages = {".".join(name.split(".")[:2]) for name in imported_by("import raftcore")}

    assert set() == packages & {f"raftcore.{name}" for name in ("backends", "cli", "http", "sim", "testing")}


def test_all_is_complete() -> None:
    """Every public name of the package is in `__all__`, once; the linter holds the order."""
    public = {
        name
        for name, value in vars(raftcore).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }

    assert sorted(public) == sorted(raftcore.__all__)


def test_every_error_and_contract_is_public() -> None:
    """Users find every exception and every contract at the top of the package."""
    errors = {
        name
        for name, value in vars(raftcore.errors).items()
        if inspect.isclass(value) and value.__module__ == "raftcore.errors"
    }

    assert errors | set(raftcore.contracts.__all__) <= set(raftcore.__all__)

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_good_configuration_is_checked(processes: Callable, cli: Callable) -> None:
    """Nothing is opened or created."""
    (node,) = processes("n1")
    text, facts = cli("check", node.file), cli("check", node.file, "--json").json

    assert (0, f"{node.file}: good") == (text.code, text.out.splitlines()[0])
    assert ("n1", node.raft, node.http, "sqlite") == tuple(
        facts[key] for key in ("node", "address", "http", "log_store")
    )
    assert not node.data.exists()


def test_a_bad_configuration_is_refused(processes: Callable, cli: Callable) -> None:
    """Exit code 2, as `run` does."""
    (node,) = processes("n1")
    bad, wrong = cli("check", node.file, "--set", "raft.nothing=1"), cli("check", node.file, "--set", "nothing")

    assert (2, 2) == (bad.code, wrong.code)
    assert "raftcore: command line: raft: unknown key 'nothing'" in bad.err
    assert "raftcore: --set nothing: write key=value" in wrong.err


def test_settings_are_shown_with_their_sources(processes: Callable, cli: Callable) -> None:
    """The file, the command line and the default."""
    (node,) = processes("n1")
    shown = cli("config", "show", node.file, "--set", "raft.heartbeat_ms=20", "--json").json
    sources = {line["key"]: (line["value"], line["source"]) for line in shown}

    assert ("n1", str(node.file)) == sources["node.id"]
    assert (20, "command line") == sources["raft.heartbeat_ms"]
    assert (3, "default") == sources["snapshots.keep"]
    assert ["KEY", "VALUE", "SOURCE"] == cli("config", "show", node.file).out.splitlines()[0].split()


def test_the_schema_is_json(cli: Callable) -> None:
    """With every table."""
    tables = cli("config", "schema").json["$defs"]["Document"]["properties"]

    assert {"node", "cluster", "raft", "http"} <= set(tables)


def test_plugins_are_listed(cli: Callable) -> None:
    """What comes with raftcore is there."""
    rows = cli("plugins", "--json").json
    text = cli("plugins")

    assert ("sqlite", "active") in [(row["name"], row["status"]) for row in rows]
    assert ["NAME", "KIND"] == text.out.splitlines()[0].split()[:2]
    assert len(rows) == len(text.out.splitlines()) - 1


def test_the_versions_are_shown(cli: Callable) -> None:
    """In text and in JSON."""
    import platform

    assert platform.python_version() == cli("version", "--json").json["python"]
    assert "raftcore" == cli("version").out.split()[0]


def _without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in an installation without a module."""
    code = f"import sys; sys.modules[{module!r}] = None; from raftcore.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_without_click_it_says_what_to_install() -> None:
    """Exit code 2, one line."""
    done = _without("click", "version")

    assert 2 == done.returncode
    assert "raftcore: the command line needs click" in done.stderr
    assert "pip install 'raftcore[cli]'" in done.stderr


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_without_a_server_run_says_what_to_install(processes: Callable, module: str) -> None:
    """Only when HTTP is asked for; nothing is created."""
    (node,) = processes("n1")
    done = _without(module, "run", str(node.file))

    assert 2 == done.returncode
    assert f"http.address is set, but {module} is not installed: pip install 'raftcore[http]'" in done.stderr
    assert not node.data.exists()


def test_a_plugin_adds_its_commands(tmp_path: Path) -> None:
    """Through the hook `raftcore_commands`; one that fails costs nobody else anything."""
    (tmp_path / "raftcore_extra.py").write_text(
        "import click\n"
        "from raftcore.plugins import hookimpl\n"
        "@hookimpl\n"
        "def raftcore_commands(cli):\n"
        "    cli.add_command(click.Command('extra', callback=lambda: click.echo('from a plugin')))\n"
    )
    (tmp_path / "raftcore_broken.py").write_text("raise RuntimeError('broken')\n")
    for name in ("extra", "broken"):
        metadata = tmp_path / f"raftcore_{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: raftcore-{name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[raftcore]\n{name} = raftcore_{name}\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from raftcore.cli import main; main()"
    done = [
        subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        for arguments in (["extra"], ["plugins", "--json"])
    ]

    assert (0, "from a plugin\n") == (done[0].returncode, done[0].stdout)
    assert ("broken", "failed") in [(row["name"], row["status"]) for row in json.loads(done[1].stdout)]

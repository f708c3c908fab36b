from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GetPage = Callable[[str], Any]


def free_prefixes() -> tuple[str, str]:
    """Twice four digits that make three free ports each, together with 1, 2 and 3."""
    found: list[str] = []
    for prefix in range(2000, 6500):
        try:
            for digit in (1, 2, 3):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", 10 * prefix + digit))
        except OSError:
            continue
        found.append(str(prefix))
        if len(found) == 2:
            return found[0], found[1]
    raise AssertionError("no three ports in a row are free")


def test_the_programs_run_as_they_stand(page: GetPage, tmp_path: Path) -> None:
    """In an empty directory each program of the README prints what the README says."""
    readme = page("README.md")

    printed = readme.run(tmp_path)

    assert {"hello.py": "b'hello'\n", "retry.py": "True\n"} == readme.programs
    assert readme.programs == printed


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README asks the members with curl")
def test_three_members_by_hand(page: GetPage, tmp_path: Path, run_here: Callable[..., str]) -> None:
    """The shell lines of the README begin a cluster of three, write on one member and read on another."""
    lines = "".join(block.text for block in page("README.md").blocks if block.language == "sh")
    raft, http = free_prefixes()
    command = tmp_path / "bin" / "raftcore"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m raftcore.cli "$@"\n')
    command.chmod(0o755)
    script = lines.replace("127.0.0.1:710", f"127.0.0.1:{raft}").replace("127.0.0.1:810", f"127.0.0.1:{http}")
    (tmp_path / "three.sh").write_text(f"PATH={command.parent}:$PATH\n{script}\nwait\n")

    printed = run_here(["bash", "three.sh"])

    assert "hello" in printed
    assert {"n1", "n2", "n3"} == {line.split()[0] for line in printed.splitlines() if line.startswith("n")}

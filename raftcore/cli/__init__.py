"""The command line, ``raftcore``. Needs the extra ``cli``: ``pip install 'raftcore[cli]'``."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]


def main() -> None:
    """Run the process's command, and exit: 0, 1 (it failed) or 2 (bad usage or configuration)."""
    if importlib.util.find_spec("click") is None:
        sys.stderr.write(
            "raftcore: the command line needs click, which is not installed: pip install 'raftcore[cli]'\n"
        )
        sys.exit(2)
    from raftcore.cli.program import run

    sys.exit(run(sys.argv[1:]))

"""``python -m raftcore.cli``."""

from raftcore.cli import main

main()

"""``raftcore chaos``: a real cluster whose processes, network and disks fail on purpose, and a check of what it did."""

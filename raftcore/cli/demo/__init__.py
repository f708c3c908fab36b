"""``raftcore demo``: three real processes, a leader that is killed under load, and a count of what was lost."""

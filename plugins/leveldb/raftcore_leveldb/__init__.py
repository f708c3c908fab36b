"""A log store for raftcore that keeps the log in LevelDB. Not built yet: nothing is in here."""

"""A transport for raftcore over Redis. Not built yet: nothing is in here."""

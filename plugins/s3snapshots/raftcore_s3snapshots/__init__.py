"""A snapshot sink for raftcore that keeps snapshots in an S3 bucket. Not built yet: nothing is in here."""

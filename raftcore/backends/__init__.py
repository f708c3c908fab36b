"""The backends that come with raftcore. `raftcore.backends.plugin` offers them by name, as any other plugin would."""

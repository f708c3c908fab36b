"""Where settings come from: the file, the environment above it, the command line above both."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from raftcore.errors import ConfigError
from raftcore.plugins.options import Key, OptionError, Text, convert, dotted

Fitted = TypeVar("Fitted")

PREFIX = "RAFTCORE__"
"""What a variable begins with; the rest is the dotted key in upper case, two underscores for each dot.

The key is taken in lower case, so a member's id (or an option of a plugin) with capitals can't be reached this
way: set the table above it, ``RAFTCORE__CLUSTER__MEMBERS='{ N1 = "127.0.0.1:7101" }'``, or use the command
line.
"""


class Sources:
    """The settings of all sources as one tree, and the origin of each.

    Values from the environment and the command line stand in the tree as `Text`, to be read as their fields
    want them. A value that is no plain one is written as in the file:
    ``RAFTCORE__RAFT__ELECTION_TIMEOUT_MS='[500, 1000]'``.
    """

    def __init__(self, path: Path, environ: Mapping[str, str], overrides: Mapping[str, str]) -> None:
        self.file = str(path)
        self.directory = path.absolute().parent
        self._environ = environ
        self._origins: dict[tuple[Key, ...], str] = {}
        self.tree = _read(path)
        self._note((), self.tree)
        for name in sorted(environ):
            if name.startswith(PREFIX):
                key = tuple(name.removeprefix(PREFIX).lower().split("__"))
                self._put(key, environ[name], f"environment {name}")
        for name, value in overrides.items():
            self._put(tuple(name.split(".")), value, "command line")

    def fit(self, raw: object, fitting: type[Fitted], prefix: tuple[Key, ...] = ()) -> Fitted:
        """`raw`, which stands in the tree at `prefix`, as a `fitting`. Raises `ConfigError`, saying where it
        went wrong."""
        try:
            return convert(raw, fitting, directory=self.directory, environ=self._environ)
        except OptionError as error:
            raise self.error((*prefix, *error.path), error.problem, (*prefix, *error.key)) from None

    def error(self, path: tuple[Key, ...], problem: str, key: tuple[Key, ...] | None = None) -> ConfigError:
        """The error for what stands at `path`; `key`, when it is another, is the one whose origin counts."""
        return ConfigError(f"{self.place(path, key)}: {problem}")

    def place(self, path: tuple[Key, ...], key: tuple[Key, ...] | None = None) -> str:
        """How a message about `path` begins: the source, and the dotted key."""
        origin = self.origin(path if key is None else key) or self.file
        return f"{origin}: {dotted(path)}" if path else origin

    def origin(self, path: tuple[Key, ...]) -> str | None:
        """The source that set `path`, or a table around it, or something inside it; None when none did."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        return next((origin for key, origin in self._origins.items() if key[: len(path)] == path), None)

    def _note(self, path: tuple[Key, ...], value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                self._note((*path, key), inner)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for position, inner in enumerate(value):
                self._note((*path, position), inner)
        else:
            self._origins[path] = self.file

    def _put(self, path: tuple[Key, ...], text: str, origin: str) -> None:
        table: Any = self.tree
        for depth, key in enumerate(path[:-1], 1):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                outer = dotted(path[:depth])
                raise ConfigError(f"{origin}: {dotted(path)}: '{outer}' is not a table; set '{outer}' as a whole")
        table[path[-1]] = Text(text)
        self._origins = {key: source for key, source in self._origins.items() if key[: len(path)] != path}
        self._origins[path] = origin


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; name the configuration file to use") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}; name a file that this user may read") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (at byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None

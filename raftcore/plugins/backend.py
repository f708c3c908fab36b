"""What a plugin hands to raftcore: typed descriptors of what it can build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

Options = TypeVar("Options", bound=msgspec.Struct)
Built = TypeVar("Built", covariant=True)

API = 1
"""The version of the contracts. A descriptor that says another one is refused with a message that names both."""


@dataclass(frozen=True)
class BuildContext:
    """What a backend may know of the node that it is built for."""

    node: str
    cluster: str
    address: str
    data_dir: Path

    def path(self, relative: str) -> Path:
        """A path from the options: relative ones lie in the data directory."""
        return self.data_dir / Path(relative).expanduser()


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For a backend without options."""


@dataclass(frozen=True)
class Backend(Generic[Options, Built]):
    """One backend that a plugin offers.

    `build(options, context)` opens nothing and imports its driver itself; the object that it returns is opened by the
    node. `options` is a msgspec Struct with `forbid_unknown_fields=True`; it is checked before `build` is called.
    """

    name: str
    options: type[Options]
    build: Callable[[Options, BuildContext], Built]
    summary: str
    api: int = API

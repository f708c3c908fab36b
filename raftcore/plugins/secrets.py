"""Secrets: values that a configuration names and never holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Secret:
    """A password or a key. Use it as the type of an option; printing it, or the options that hold it, shows no value.

    In the configuration it is written ``{ env = "NAME" }``, an environment variable, or ``{ file = "path" }``,
    a file with nothing else in it (a line's end at its end is dropped; a relative path counts from the
    configuration's directory).
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Hand it to the driver; keep it out of messages and logs."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __str__(self) -> str:
        return "**********"


def read_secret(source: object, directory: Path, environ: Mapping[str, str]) -> Secret:
    """The secret that `source`, a table from the configuration, points to.

    Raises `ValueError`, in a message that never holds what was written in the place of a secret.
    """
    match source:
        case {"env": str(name), **rest} if not rest:
            if name not in environ:
                raise ValueError(f"the environment variable '{name}' is not set; set it before starting")
            return Secret(environ[name])
        case {"file": str(name), **rest} if not rest:
            path = directory / Path(name).expanduser()
            try:
                return Secret(path.read_text(encoding="utf-8").removesuffix("\n"))
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"the secret can't be read: {error}; make it a text file of this user") from None
    raise ValueError('a secret is not written here; say where it is: { env = "NAME" } or { file = "path" }')

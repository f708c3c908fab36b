"""Options as a user wrote them, checked against the Struct that they must fit.

msgspec decides what fits. This module turns its refusal into the words of a configuration file: dotted keys,
the value that stands there, the key that was probably meant.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from raftcore.errors import ConfigError
from raftcore.plugins.secrets import Secret, read_secret

Fitted = TypeVar("Fitted")
Key = str | int
Decode = Callable[[type, object], object]

_WORDS = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "object": "a table",
    "str": "a string",
}


class OptionError(ConfigError):
    """A value does not fit. `path` is the dotted key that the message begins with, `key` the one that is to blame."""

    def __init__(self, path: tuple[Key, ...], problem: str, key: tuple[Key, ...] | None = None) -> None:
        super().__init__(f"{dotted(path)}: {problem}" if path else problem)
        self.path = path
        self.problem = problem
        self.key = path if key is None else key


class Text(str):
    """A value from the environment or the command line: what it means depends on the field that it is for."""

    __slots__ = ()


def dotted(path: tuple[Key, ...]) -> str:
    """A path as messages show it: ``observers[0].options.url``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def convert(raw: object, fitting: type[Fitted], *, directory: Path, environ: Mapping[str, str]) -> Fitted:
    """`raw` as a `fitting`. Secrets are read from `environ` and from files relative to `directory`.

    Raises `OptionError` for the first thing that does not fit.
    """

    def decode(wanted: type, value: object) -> object:
        if wanted is Secret:
            return read_secret(value, directory, environ)
        raise TypeError(f"an option can't be a {wanted.__name__}; use a type that msgspec knows, or Secret")

    typed = _typed(raw, fitting)
    try:
        return msgspec.convert(typed, fitting, dec_hook=decode)
    except msgspec.ValidationError as error:
        text, path = _located(str(error), typed, fitting, decode)
        raise _explained(text, path, _at(typed, path), _type_at(fitting, path)) from None


def inner_type(fitting: Any, key: Key) -> Any:
    """The type of what a value of type `fitting` holds under `key`; `Any` when it does not say."""
    for option in _alternatives(fitting):
        origin, arguments = get_origin(option), get_args(option)
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            fields = {field.encode_name: field.type for field in msgspec.structs.fields(option)}
            return fields.get(str(key), Any)
        if origin is dict:
            return arguments[1]
        if origin in (list, tuple, set, frozenset) and isinstance(key, int):
            return arguments[min(key, len(arguments) - 1)]
    return Any


def _alternatives(fitting: Any) -> list[Any]:
    """The members of a union, without annotations; a type that is none stands alone."""
    if get_origin(fitting) is Annotated:
        return _alternatives(get_args(fitting)[0])
    if get_origin(fitting) in (Union, UnionType):
        return [option for member in get_args(fitting) for option in _alternatives(member)]
    return [fitting]


def _type_at(fitting: Any, path: tuple[Key, ...]) -> Any:
    for key in path:
        fitting = inner_type(fitting, key)
    return fitting


def _at(raw: Any, path: tuple[Key, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


# -- text from the environment and the command line -----------------------------------------------------------------


def _typed(raw: object, fitting: Any) -> object:
    """`raw` with every `Text` read as its field wants it."""
    if isinstance(raw, Text):
        return _interpreted(raw, fitting)
    if isinstance(raw, dict):
        return {key: _typed(value, inner_type(fitting, key)) for key, value in raw.items()}
    if isinstance(raw, list):
        return [_typed(value, inner_type(fitting, position)) for position, value in enumerate(raw)]
    return raw


def _interpreted(text: Text, fitting: Any) -> object:
    """A plain value as it is written; what is not one (a list, a table) as TOML writes it."""
    if fitting is Any:
        return text
    try:
        value: object = msgspec.convert(str(text), fitting, strict=False)
    except msgspec.ValidationError:
        value = None
    if isinstance(value, str | int | float):
        return value
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return str(text)


# -- msgspec's refusals in a user's words
# -----------------------------------------------------------------------------


def _located(message: str, raw: object, fitting: Any, decode: Decode) -> tuple[str, tuple[Key, ...]]:
    """The text and the path of a message of msgspec, which ends in "- at `$.a[0].b`"."""
    text, _, place = message.rpartition(" - at `")
    if not text:
        return message, ()
    path: tuple[Key, ...] = ()
    for name, position, _some in re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])", place):
        if name or position:
            path += (name or int(position),)
        else:
            path += _misfit(_at(raw, path), _type_at(fitting, path), decode)
    return f"a key of this table does not fit: {text}" if place.startswith("key`") else text, path


def _misfit(held: Any, fitting: Any, decode: Decode) -> tuple[Key, ...]:
    """The first key whose value does not fit: msgspec does not say which, of a table of free names or a set."""
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        try:
            msgspec.convert(value, inner_type(fitting, key), dec_hook=decode)
        except msgspec.ValidationError:
            return (key,)
    return ()


def _explained(text: str, path: tuple[Key, ...], value: object, fitting: Any) -> OptionError:
    fields = _fields(fitting)
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        name = match[1]
        return OptionError(path, f"unknown key '{name}'{_suggestion(name, list(fields))}", (*path, name))
    if match := re.fullmatch(r"Object missing required field `(.*)`", text):
        name = match[1]
        inner = [key for key, field in _fields(inner_type(fitting, name)).items() if field.required]
        what = (
            f"add the table [{dotted((*path, name))}] with {', '.join(inner)}"
            if inner
            else "it has no default, so set it"
        )
        return OptionError((*path, name), f"missing; {what}")
    if text.startswith("Invalid enum value"):
        return OptionError(path, _not_one_of(value, fitting))
    if match := re.fullmatch(r"Expected (.*?)(, got .*)?", text):
        return OptionError(path, f"expected {_in_words(match[1])}, got {_shown(value)}")
    # A rule of the Struct itself: its message begins with the field that it is about.
    name, colon, rest = text.partition(": ")
    if colon and name in fields:
        return OptionError((*path, name), rest)
    return OptionError(path, text)


def _fields(fitting: Any) -> dict[str, msgspec.structs.FieldInfo]:
    for option in _alternatives(fitting):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return {field.encode_name: field for field in msgspec.structs.fields(option)}
    return {}


def _suggestion(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; the keys are {', '.join(names)}" if names else "; it takes no keys"


def _not_one_of(value: object, fitting: Any) -> str:
    choices = [
        choice for option in _alternatives(fitting) if get_origin(option) is Literal for choice in get_args(option)
    ]
    close = difflib.get_close_matches(str(value), map(str, choices), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"expected {' or '.join(map(_shown, choices))}, got {_shown(value)}{hint}"


def _in_words(types: str) -> str:
    """What msgspec expected: "`int | null` >= 1" is "an integer >= 1"."""
    return re.sub(
        r"`(.*?)`",
        lambda match: " or ".join(_WORDS.get(name, name) for name in match[1].split(" | ") if name != "null"),
        types,
    )


def _shown(value: object) -> str:
    """A value as TOML writes it, more or less."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    return repr(value)

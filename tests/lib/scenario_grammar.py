"""How a line of a scenario is written: the kinds of lines, and what is said about a line that can't be played."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator

import msgspec


class ScenarioError(AssertionError):
    """A line can't be played, or what it expects is not so. The message names file, line, and the next step."""


class Misread(Exception):
    """What a line says makes no sense here. `next_step`: what to do about it."""

    def __init__(self, problem: str, next_step: str) -> None:
        super().__init__(problem)
        self.problem, self.next_step = problem, next_step


class Unmet(Exception):
    """What a line expects is not so."""

    def __init__(self, subject: str, expected: str, actual: str) -> None:
        super().__init__(f"{subject}: expected {expected}, is {actual}")
        self.subject, self.expected, self.actual = subject, expected, actual


class Verb(msgspec.Struct, frozen=True):
    """One kind of line: how it is written, and what plays it."""

    usage: str
    pattern: re.Pattern[str]
    play: Callable[..., None]


VERBS: dict[str, list[Verb]] = {}
"""First word of a line → the kinds of line that begin so."""


def verb(usage: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a method as what plays such lines. In `usage`, words in capitals are arguments, brackets hold what may be
    left out."""
    pattern = ""
    for part in re.findall(r"\[[^]]*\]|[^[ ][^[]*", usage):
        optional = part.startswith("[")
        words = " ".join(_word_pattern(word) for word in part.strip("[] ").split())
        pattern += f"(?: {words})?" if optional else f"{' ' * bool(pattern)}{words}"

    def enter(play: Callable[..., None]) -> Callable[..., None]:
        VERBS.setdefault(usage.split(maxsplit=1)[0], []).append(Verb(usage, re.compile(pattern), play))
        return play

    return enter


def _word_pattern(word: str) -> str:
    bare = word.rstrip(":")
    if bare.strip('"').isupper():
        return re.escape(word).replace(re.escape(bare.strip('"')), "(.+?)")
    return f"({word})" if "|" in word else re.escape(word)


class Statement(msgspec.Struct, frozen=True):
    """A line that says something: its number in the file, and its words."""

    number: int
    text: str


def statements(text: str) -> Iterator[Statement]:
    """The lines without comments, and without what is empty then."""
    for number, line in enumerate(text.splitlines(), 1):
        words = " ".join(line.split("#")[0].split())
        if words:
            yield Statement(number, words)


def read(line: str) -> tuple[Verb, tuple[str | None, ...]]:
    """Which kind of line it is, and its arguments. Raises `Misread`."""
    first = line.split(maxsplit=1)[0]
    if first not in VERBS:
        near = difflib.get_close_matches(first, VERBS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise Misread(f"unknown verb {first!r}", f"{hint}there are {', '.join(sorted(VERBS))}")
    for kind in VERBS[first]:
        match = kind.pattern.fullmatch(line)
        if match is not None:
            return kind, match.groups()
    raise Misread(f"{first!r} is not written so", "write " + ", or ".join(kind.usage for kind in VERBS[first]))

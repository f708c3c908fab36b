"""Mutants: bugs that real implementations of Raft have had, each as a patch against the code of this repository.

A patch is a file `B05a-what-it-does.patch`: lines `key: value`, an empty line, and a unified diff (``-p1``).

    bug:    the bug in one sentence
    seen:   where it has been, in a few words
    layer:  the cheapest layer of the tests that is expected to see it, of `LAYERS`
    tests:  what to try first, as arguments for pytest: paths, node ids, ``-k word`` (optional)
    hangs:  ``yes`` when a run that reaches the time limit has seen it (optional)

Bugs without a patch are in `entries.toml`.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LAYERS = {
    "engine": ("tests/engine", "tests/wire"),
    "scenarios": ("tests/scenarios",),
    "node": ("tests/node",),
    "storage": ("tests/backends",),
    "transport": ("tests/transport",),
    "sim": ("tests/sim",),
    "chaos": ("tests/chaos",),
}
"""Where the tests of a layer are, from the cheapest layer up. A folder that does not exist has no tests."""

UNDER_TEST = ("raftcore/", "plugins/")
STATUSES = ("impossible", "pending")
_NAME = re.compile(r"(B\d\d)([a-z]?)-[a-z0-9-]+\.patch")
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


class PatchError(Exception):
    """A patch, or the list of entries, is not as it should be."""


@dataclass(frozen=True)
class Mutant:
    """One patch. `name` is its id with the letter of the variant, if it has one."""

    file: str
    id: str
    name: str
    bug: str
    seen: str
    layer: str
    tests: tuple[str, ...]
    hangs: bool
    diff: str


@dataclass(frozen=True)
class Entry:
    """A bug that has no patch, and why."""

    id: str
    title: str
    status: str
    reason: str


@dataclass(frozen=True)
class Hunk:
    """What stands at about a line (counted from 0), and what is to stand there."""

    at: int
    old: list[str]
    new: list[str]


# -- reading ------------------------------------------------------------------------------------------------------


def read_mutants(folder: Path = HERE) -> list[Mutant]:
    """Every patch, in order of names. Raises `PatchError`."""
    return [_read_mutant(path) for path in sorted(folder.glob("*.patch"))]


def _read_mutant(path: Path) -> Mutant:
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise PatchError(f"{path.name}: not a patch's name; try B05a-what-it-does.patch")
    head, _, diff = path.read_text(encoding="utf-8").partition("\n\n")
    header: dict[str, str] = {}
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon or key in header or key not in {"bug", "seen", "layer", "tests", "hangs"}:
            raise PatchError(f"{path.name}: {line!r} is no line of its header; see {Path(__file__).name}")
        header[key] = value.strip()
    for key in ("bug", "seen", "layer"):
        if not header.get(key):
            raise PatchError(f"{path.name}: its header has no `{key}`")
    if header["layer"] not in LAYERS:
        raise PatchError(f"{path.name}: layer {header['layer']!r} is none of {', '.join(LAYERS)}")
    if header.get("hangs", "no") not in {"yes", "no"}:
        raise PatchError(f"{path.name}: hangs {header['hangs']!r} is neither yes nor no")
    return Mutant(
        path.name,
        named[1],
        named[1] + named[2],
        header["bug"],
        header["seen"],
        header["layer"],
        tuple(shlex.split(header.get("tests", ""))),
        header.get("hangs") == "yes",
        diff,
    )


def read_entries(folder: Path = HERE) -> tuple[list[str], list[Entry]]:
    """The ids of the whole list, and the bugs without a patch. Raises `PatchError`."""
    document = tomllib.loads((folder / "entries.toml").read_text(encoding="utf-8"))
    entries = []
    for table in document.get("entry", []):
        if set(table) != {"id", "title", "status", "reason"} or not all(table.values()):
            raise PatchError(f"entries.toml: {table.get('id')}: an entry has id, title, status and reason")
        if table["status"] not in STATUSES:
            raise PatchError(f"entries.toml: {table['id']}: status {table['status']!r} is none of {STATUSES}")
        entries.append(Entry(**table))
    return document["ids"], entries


# -- applying -----------------------------------------------------------------------------------------------------


def patched(diff: str, root: Path) -> dict[str, str]:
    """Path → text of every file that the diff changes, as it is afterwards; nothing is written.

    A hunk goes to the nearest place where all its old lines stand, so it survives edits elsewhere in the file. Raises
    `PatchError` when there is none, or when the patch changes nothing.
    """
    changed: dict[str, str] = {}
    for path, hunks in _files(diff):
        if not path.startswith(UNDER_TEST):
            raise PatchError(f"{path} is not code under test ({', '.join(UNDER_TEST)})")
        if not (root / path).is_file():
            raise PatchError(f"{path} does not exist")
        lines = (root / path).read_text(encoding="utf-8").splitlines()
        before, moved = list(lines), 0
        for number, hunk in enumerate(hunks, 1):
            at = _place(lines, hunk, moved)
            if at is None:
                raise PatchError(f"hunk {number} of {len(hunks)} of {path} does not apply")
            lines[at : at + len(hunk.old)] = hunk.new
            moved = at + len(hunk.new) - hunk.at - len(hunk.old)
        if lines == before:
            raise PatchError(f"{path} is not changed")
        changed[path] = "\n".join(lines) + "\n"
    if not changed:
        raise PatchError("it holds no diff")
    return changed


def _files(diff: str) -> list[tuple[str, list[Hunk]]]:
    files: list[tuple[str, list[Hunk]]] = []
    for line in diff.splitlines():
        if line.startswith("+++ "):
            files.append((line[4:].split("\t")[0].strip().removeprefix("b/"), []))
        elif found := _HUNK.match(line):
            if not files:
                raise PatchError("a hunk without a file")
            files[-1][1].append(Hunk(int(found[1]) - 1, [], []))
        elif files and files[-1][1] and not line.startswith(("--- ", "diff ", "index ", "\\")):
            hunk = files[-1][1][-1]
            if line[:1] in {"", " ", "-"}:
                hunk.old.append(line[1:])
            if line[:1] in {"", " ", "+"}:
                hunk.new.append(line[1:])
    return files


def _place(lines: list[str], hunk: Hunk, moved: int) -> int | None:
    expected, size = hunk.at + moved, len(hunk.old)
    places = [at for at in range(len(lines) - size + 1) if lines[at : at + size] == hunk.old]
    return min(places, key=lambda at: abs(at - expected), default=None)

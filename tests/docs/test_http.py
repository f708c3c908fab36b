from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/http.md").read_text(encoding="utf-8")


def test_every_path_is_on_the_page() -> None:
    """The table lists the paths with their methods, in the order in which they are tried."""
    routes = []
    for node in ast.walk(ast.parse((ROOT / "raftcore/http/app.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="Route"), args=[ast.Constant(value=str(path)), _], keywords=[methods]):
                routes.append((path.replace(":path}", "}"), ", ".join(ast.literal_eval(methods.value))))

    assert routes
    assert routes == re.findall(r"^\| `(/.*?)` \| ([A-Z, ]+) \|", PAGE, re.MULTILINE)


def test_every_word_for_an_error_is_on_a_page() -> None:
    """Each `error` that an answer can hold is explained here or in the table of errors."""
    words = set()
    for path in (ROOT / "raftcore/http").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Call(func=ast.Name(id="Failure"), args=[ast.Constant(), ast.Constant(value=str(word)), *_]):
                    words.add(word)
        words |= set(re.findall(r'"error": "(\w+)"', text))
    pages = PAGE + (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")

    assert words
    assert set() == {word for word in words if f"`{word}`" not in pages}

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scenario import Scenario
from scenario_grammar import statements

FILES = sorted(Path(__file__).parent.glob("*.raft"))
by_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


@by_file
def test_scenario(path, request):
    """It goes as its file says."""
    name = path.relative_to(request.config.rootpath).as_posix()

    Scenario(name, path.read_text()).play()


@by_file
def test_a_scenario_says_what_it_shows_and_where_that_is_written(path):
    """It begins with a comment that names a section of the paper or the thesis, and ends with what is to be seen."""
    text = path.read_text()
    comment = " ".join(line.lstrip("# ") for line in text[: text.index("\n\n")].splitlines())
    *_, last = statements(text)

    assert re.search(r"(paper|thesis) §\d", comment)
    assert last.text.startswith("expect ")
    assert all(len(line) <= 120 for line in text.splitlines())

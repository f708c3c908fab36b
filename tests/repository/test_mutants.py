"""The mutants of `make mutants`: each can be put in, and each known bug is accounted for, once."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/mutants"
NAMES = sorted(path.name for path in FOLDER.glob("*.patch"))
HEADER = "bug: It counts to two.\nseen: elsewhere\nlayer: engine\n"
CODE = "".join(f"line = {number}\n" for number in range(1, 30))
DIFF = """\
--- a/raftcore/code.py
+++ b/raftcore/code.py
@@ -9,3 +9,3 @@
 line = 9
-line = 10
+line = "ten"
 line = 11
@@ -20,3 +20,2 @@
 line = 20
-line = 21
 line = 22
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_applies_to_the_tree(name: str, patches: ModuleType) -> None:
    """The code that it changes is there, and is still Python afterwards."""
    (mutant,) = [mutant for mutant in patches.read_mutants() if mutant.file == name]
    changed = patches.patched(mutant.diff, ROOT)

    assert changed
    for path, text in changed.items():
        compile(text, path, "exec", dont_inherit=True)


def test_the_tests_that_mutants_name_exist(patches: ModuleType) -> None:
    """A test that was renamed is renamed there too."""
    missing = []
    for mutant in patches.read_mutants():
        for word in mutant.tests:
            path, _, test = word.partition("::")
            if not path.startswith(("tests/", "plugins/")):
                continue
            name = test.partition("[")[0]
            if not (ROOT / path).exists() or (name and f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")):
                missing.append((mutant.name, word))

    assert [] == missing


def test_every_bug_of_the_list_has_one_home(patches: ModuleType) -> None:
    """Patches, or one entry that says why there is none; and nothing that is not on the list."""
    ids, entries = patches.read_entries()
    mutants = patches.read_mutants()
    homes = sorted({mutant.id for mutant in mutants}) + [entry.id for entry in entries]

    assert 61 == len(set(ids))
    assert sorted(ids) == sorted(homes)
    assert len(mutants) == len({mutant.name for mutant in mutants})


def test_the_page_names_every_bug(patches: ModuleType) -> None:
    """In the reference, with the words that its patch or entry has for it."""
    page = (ROOT / "docs/reference/mutants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (B\d\d[a-z]?) \| (.*?) \| ", page, re.MULTILINE)
    _, entries = patches.read_entries()
    expected = [(mutant.name, mutant.bug) for mutant in patches.read_mutants()]
    expected += [(entry.id, entry.title) for entry in entries]

    assert sorted(expected) == sorted(rows)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one file under test, of 29 lines."""
    (tmp_path / "raftcore").mkdir()
    (tmp_path / "raftcore/code.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize("above", [0, 1, 100])
def test_a_patch_survives_edits_elsewhere(above: int, tree: Path, patches: ModuleType) -> None:
    """Its hunks go where their lines are; the file itself stays as it is."""
    text = "pass\n" * above + CODE
    (tree / "raftcore/code.py").write_text(text)
    expected = text.replace("line = 10\n", 'line = "ten"\n').replace("line = 21\n", "")

    assert {"raftcore/code.py": expected} == patches.patched(DIFF, tree)
    assert text == (tree / "raftcore/code.py").read_text()


def test_a_hunk_goes_to_the_nearest_of_several_places(tree: Path, patches: ModuleType) -> None:
    """Where the same lines stand more than once."""
    (tree / "raftcore/code.py").write_text(CODE + CODE)
    changed = patches.patched(DIFF, tree)["raftcore/code.py"]

    assert CODE.replace("line = 10\n", 'line = "ten"\n').replace("line = 21\n", "") + CODE == changed


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (" line = 9\n", " line = nine\n", "hunk 1 of 2 of raftcore/code.py does not apply"),
        (" line = 22\n", " line = 23\n", "hunk 2 of 2 of raftcore/code.py does not apply"),
        ("code.py", "gone.py", "raftcore/gone.py does not exist"),
        ("raftcore/", "tests/", "tests/code.py is not code under test"),
        ("+++ b/raftcore/code.py\n", "", "a hunk without a file"),
        (DIFF, "", "it holds no diff"),
        (DIFF[DIFF.index("@@") :], "@@ -1,1 +1,1 @@\n-line = 1\n+line = 1\n", "raftcore/code.py is not changed"),
    ],
)
def test_a_patch_that_does_not_apply_is_refused(
    old: str, new: str, complaint: str, tree: Path, patches: ModuleType
) -> None:
    """With what is wrong with it."""
    assert old in DIFF

    with pytest.raises(patches.PatchError, match=complaint):
        patches.patched(DIFF.replace(old, new), tree)


@pytest.mark.parametrize(
    ("name", "header", "complaint"),
    [
        ("B1-short.patch", HEADER, "not a patch's name; try"),
        ("B01-x.patch", HEADER + "why: because\n", "'why: because' is no line of its header"),
        ("B01-x.patch", HEADER + "bug: again\n", "'bug: again' is no line of its header"),
        ("B01-x.patch", HEADER.replace("elsewhere", ""), "its header has no `seen`"),
        ("B01-x.patch", HEADER.replace("engine", "cellar"), "layer 'cellar' is none of engine, scenarios, node"),
        ("B01-x.patch", HEADER + "hangs: often\n", "hangs 'often' is neither yes nor no"),
    ],
)
def test_a_header_that_is_not_right_is_refused(
    name: str, header: str, complaint: str, tmp_path: Path, patches: ModuleType
) -> None:
    """With the file and what is wrong in it."""
    (tmp_path / name).write_text(f"{header}\n{DIFF}")

    with pytest.raises(patches.PatchError, match=f"{name}: .*{complaint}"):
        patches.read_mutants(tmp_path)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('id = "B01"\ntitle = "t"\nstatus = "impossible"\n', "B01: an entry has id, title, status and reason"),
        (
            'id = "B01"\ntitle = "t"\nstatus = "pending"\nreason = ""\n',
            "B01: an entry has id, title, status and reason",
        ),
        ('id = "B01"\ntitle = "t"\nstatus = "later"\nreason = "r"\n', "B01: status 'later' is none of"),
    ],
)
def test_an_entry_that_is_not_right_is_refused(table: str, complaint: str, tmp_path: Path, patches: ModuleType) -> None:
    """A bug without a patch has a reason."""
    (tmp_path / "entries.toml").write_text(f'ids = ["B01"]\n[[entry]]\n{table}')

    with pytest.raises(patches.PatchError, match=complaint):
        patches.read_entries(tmp_path)

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "examples/**/*.md", "plugins/*/*.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for place in PLACES for path in ROOT.glob(place))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TARGET = re.compile(r"^([a-z]+):.*## ", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What links can point to in a page: its headings, as GitHub and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    """A page links to files that exist, and to headings that are in them."""
    page = ROOT / name
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if ":" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert [] == broken


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_exists(name: str) -> None:
    """A page tells nobody to make what can't be made."""
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    named = set(re.findall(r"(?:`|\$ )make ([a-z]+)", (ROOT / name).read_text(encoding="utf-8")))

    assert set() == named - targets


def test_every_page_can_be_reached_from_the_readme() -> None:
    """Following links from the README one gets to every page."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file():
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
        waiting += [(page.parent / link).resolve() for link in links if link.endswith(".md")]

    assert [] == sorted(str(path) for path in ROOT.glob("docs/**/*.md") if path not in seen)

"""The mutation audit, `make mutants`: put each known bug in, and see the tests go red.

Every mutant (see `patches.py`) gets a copy of the tree, the patch is applied there, and the tests run from the
cheapest that are expected to see it up, until one fails. A mutant that no test sees *survives*: a test is missing.
The tests must pass without the patch, and must fail with it for what the code does, not since it can't be imported.

The last line says how many were killed, can't exist, wait for a part that there is not yet, and survive. The exit
status is 1 when any survives, or could not be tried.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import BaseRed, Bench, Run
from patches import LAYERS, Entry, Mutant, PatchError, read_entries, read_mutants

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/mutants.md"
RUN_SECONDS = 600


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `killed`, `survives` or `unusable`. `test`, in `layer`, killed it, saying `why`."""

    name: str
    status: str
    layer: str = ""
    test: str = ""
    seconds: float = 0.0
    note: str = ""
    why: str = ""


# -- the audit ----------------------------------------------------------------------------------------------------


def audit(mutants: list[Mutant], root: Path, jobs: int, limit: float) -> list[Verdict]:
    """Try them all on copies of the tree at `root`, so many at a time. Raises `BaseRed`."""
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="raftcore-mutants-") as place:
        bench = Bench(root, Path(place).resolve(), limit)
        say(f"{len(mutants)} mutants, {jobs} at a time; first their tests without any")
        bench.check_base(tuple(sorted({path for mutant in mutants for path in _paths(_own(mutant, bench))})))
        pool = ThreadPoolExecutor(jobs)
        try:
            for future in as_completed([pool.submit(try_mutant, mutant, bench) for mutant in mutants]):
                verdict = future.result()
                verdicts[verdict.name] = verdict
                say(f"{len(verdicts):3}/{len(mutants)} {line(verdict)}")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            bench.end()
            pool.shutdown()
    return [verdicts[mutant.name] for mutant in mutants]


def try_mutant(mutant: Mutant, bench: Bench) -> Verdict:
    """Put the bug in, and look for the first test that fails. Raises `BaseRed`."""
    try:
        tree = bench.mutate(mutant)
    except PatchError as error:
        return Verdict(mutant.name, "unusable", note=str(error))
    try:
        if own := _own(mutant, bench):
            run = bench.run(tree, own, "-x")
            if run.end != "passed":
                return _verdict(mutant, run)
        for layer in list(LAYERS)[_rank(mutant.layer) :]:
            if folders := bench.folders(layer):
                bench.check_layer(layer)
                run = bench.run(tree, folders, "-x")
                if run.end != "passed":
                    return _verdict(mutant, run)
    finally:
        shutil.rmtree(tree)
    return Verdict(mutant.name, "survives", note=mutant.bug)


def _own(mutant: Mutant, bench: Bench) -> tuple[str, ...]:
    """The mutant's own choice of tests; options without a path choose from its layer."""
    if not mutant.tests or _paths(mutant.tests):
        return mutant.tests
    return (*bench.folders(mutant.layer), *mutant.tests)


def _paths(selection: tuple[str, ...]) -> list[str]:
    """The files, folders and node ids of a selection, without its options."""
    pairs = zip(("", *selection), selection, strict=False)
    return [word for before, word in pairs if not word.startswith("-") and before not in {"-k", "-m"}]


def _rank(layer: str) -> int:
    return list(LAYERS).index(layer)


def _verdict(mutant: Mutant, run: Run) -> Verdict:
    if run.end == "unusable":
        return Verdict(mutant.name, "unusable", test=run.test, note=run.text)
    if run.end == "late" and not mutant.hangs:
        return Verdict(mutant.name, "unusable", test=run.test, note=f"{run.text}; its header does not say `hangs: yes`")
    found = [layer for layer, folders in LAYERS.items() if run.test.startswith(folders)]
    layer = found[0] if found else mutant.layer
    note = f"its header says {mutant.layer}" if _rank(layer) > _rank(mutant.layer) else ""
    if run.end == "late":
        note = "by the time limit"
    return Verdict(mutant.name, "killed", layer, run.test, round(run.seconds, 1), note, run.text)


# -- what it says -------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Progress, and what is wrong: on stderr, so that stdout is the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def line(verdict: Verdict) -> str:
    """A verdict in a line."""
    words = [f"{verdict.name:5} {verdict.status:9}"]
    if verdict.test:
        words.append(f"{verdict.seconds:6.1f} s  {verdict.layer:9} {verdict.test}")
    return " ".join([*words, *([f"({verdict.note})"] if verdict.note else [])])


def totals(verdicts: list[Verdict], entries: list[Entry]) -> str:
    """The last line."""
    statuses = [verdict.status for verdict in verdicts] + [entry.status for entry in entries]
    counted = {name: statuses.count(name) for name in ("killed", "impossible", "pending")}
    return ", ".join(f"{name} {count}" for name, count in {**counted, "surviving": statuses.count("survives")}.items())


PAGE_HEAD = """\
# Known bugs, put in on purpose

Bugs that implementations of Raft have had, and the test that finds each of them here. `make mutants` puts them in, one
at a time, into a copy of the tree, and runs the tests from the cheapest that are expected to see it up, until one
fails. The patches are in `tests/mutants/`; so is the list of the bugs that can't be put in, and of those that wait for
a part that does not exist yet.

`make mutants` with `ARGUMENTS=--write-docs` writes this page. Seconds are of the whole run that found the bug, on the
machine that wrote the page.

## Found

| Bug | What it does | Seen in | Found by | Seconds |
|---|---|---|---|---|
"""
PAGE_MIDDLE = """
## Not put in

| Bug | What it does | | Why |
|---|---|---|---|
"""


def page(mutants: list[Mutant], verdicts: list[Verdict], entries: list[Entry]) -> str:
    """The reference page."""
    found = []
    for mutant, verdict in zip(mutants, verdicts, strict=True):
        killed = verdict.status == "killed"
        by = f"`{verdict.test.partition('[')[0]}`" if killed else f"**{verdict.status}**"
        found.append(_row(mutant.name, mutant.bug, mutant.seen, by, f"{verdict.seconds:.0f}" if killed else ""))
    left_out = [_row(e.id, e.title, e.status, e.reason) for e in sorted(entries, key=lambda entry: entry.id)]
    return PAGE_HEAD + "".join(found) + PAGE_MIDDLE + "".join(left_out)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main(words: list[str] | None = None) -> int:
    """Run the audit; 1 when a mutant survives or could not be tried."""
    parser = argparse.ArgumentParser(prog="make mutants", description="Put known bugs in, and see the tests go red.")
    parser.add_argument("--only", help="these bugs or variants, such as B01,B18,B05a")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time (all cores)")
    parser.add_argument("--limit", type=float, default=RUN_SECONDS, help="seconds for one run of tests (%(default)s)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--write-docs", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args(words)
    if arguments.only and arguments.write_docs:
        parser.error("--write-docs needs all of them; leave --only out")
    try:
        mutants, (_, entries) = read_mutants(), read_entries()
        if arguments.only:
            chosen = set(arguments.only.split(","))
            if unknown := chosen - {name for mutant in mutants for name in (mutant.id, mutant.name)}:
                parser.error(f"--only: there is no patch for {', '.join(sorted(unknown))}")
            mutants, entries = [mutant for mutant in mutants if {mutant.id, mutant.name} & chosen], []
        verdicts = audit(mutants, ROOT, arguments.jobs, arguments.limit)
    except (BaseRed, PatchError) as error:
        say(str(error))
        return 1
    if arguments.write_docs:
        PAGE.write_text(page(mutants, verdicts, entries), encoding="utf-8")
    if arguments.json:
        result = {"mutants": [asdict(verdict) for verdict in verdicts], "entries": [asdict(entry) for entry in entries]}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line(verdict)}\n" for verdict in verdicts))
        sys.stdout.write("".join(f"{entry.id:5} {entry.status:9} {entry.reason}\n" for entry in entries))
        sys.stdout.write(totals(verdicts, entries) + "\n")
    return 0 if all(verdict.status == "killed" for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

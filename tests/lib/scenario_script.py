"""A scenario while it is played: from its lines to the cluster, and from what goes wrong to a message."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from engine_cluster import Clock, make_membership
from scenario_cluster import KINDS, Machine, Selection, Stage
from scenario_grammar import Misread, ScenarioError, Statement, Unmet, read, statements
from scenario_view import stage_text

from raftcore.engine import RaftSettings
from raftcore.errors import ProposalError, RaftCoreError

PAST = "past"
"""Who led when the entries were written that the disks hold at the beginning."""

SHOW = "see the cluster after every line: python tests/lib/scenario.py {}"


class Script:
    """A scenario while it is played: what it has said of the cluster so far, and what its words stand for."""

    def __init__(self, name: str, text: str, *, seed: int = 0) -> None:
        self.name, self.text, self.seed = name, text, seed
        self.settings: dict[str | None, dict[str, object]] = {None: {}}
        self.voters: list[str] = []
        self.learners: list[str] = []
        self.spare: list[str] = []
        self.logs: dict[str, list[int]] = {}
        self.terms: dict[str, int] = {}
        self._stage: Stage | None = None
        self.read_names: dict[str, int] = {}
        self.refusal: tuple[Statement, ProposalError] | None = None

    def play(self, after: Callable[[Statement, str], None] = lambda statement, shown: None) -> None:
        """Play every line; `after` is told of each, with the cluster as it then is. Raises `ScenarioError`."""
        for statement in statements(self.text):
            self._play_line(statement)
            after(statement, "" if self._stage is None else stage_text(self._stage))
        self._no_refusal()

    def _play_line(self, statement: Statement) -> None:
        if not statement.text.startswith("expect refused"):
            self._no_refusal()
        try:
            kind, arguments = read(statement.text)
            kind.play(self, *arguments)
            if self._stage is not None:
                self._stage.collect()
        except Misread as error:
            raise self._failed(statement, f"  {error.problem}", error.next_step) from None
        except Unmet as error:
            difference = f"  {error.subject}\n    expected  {error.expected}\n    is        {error.actual}"
            raise self._failed(statement, difference) from None
        except ProposalError as error:
            self.refusal = (statement, error)
        except (AssertionError, RaftCoreError) as error:
            raise self._failed(statement, f"  {type(error).__name__}: {error}") from error

    def _no_refusal(self) -> None:
        if self.refusal is not None:
            statement, error = self.refusal
            step = 'if it is meant to be, say so in the line behind it: expect refused "part of the message"'
            raise self._failed(statement, f"  refused: {type(error).__name__}: {error}", step)

    def _failed(self, statement: Statement, what: str, next_step: str | None = None) -> ScenarioError:
        shown = "" if self._stage is None else f"\n\n{stage_text(self._stage)}"
        step = next_step or SHOW.format(self.name)
        return ScenarioError(f"{self.name}:{statement.number}: {statement.text}\n{what}{shown}\n\nnext step: {step}")

    # -- words with a meaning of their own ------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The cluster, which comes into being with the first line that needs it."""
        if self._stage is None:
            if not self.voters:
                raise Misread("there is no cluster yet", "begin with: cluster NODES")
            self._stage = self._set_up()
        return self._stage

    def _set_up(self) -> Stage:
        self._check_logs()
        clock, initial = Clock(), make_membership(self.voters, self.learners)
        newest = max((term for terms in self.logs.values() for term in terms), default=0)
        machines = {}
        for node in [*self.voters, *self.learners, *self.spare]:
            settings = self._settings({**self.settings[None], **self.settings.get(node, {})})
            machine = machines[node] = Machine(node, settings, clock, seed=self.seed, auto=False)
            known = 0
            if node not in self.spare:
                machine.initial, known = initial, newest
            machine.fill(self.logs.get(node, ()), term=self.terms.get(node, known), by=PAST)
            machine.start()
        return Stage(machines, clock)

    def _check_logs(self) -> None:
        """Logs that hold the same entry agree up to there (paper Figure 3, "Log Matching")."""
        before: dict[tuple[int, int], tuple[str, list[int]]] = {}
        for node, terms in self.logs.items():
            for index, term in enumerate(terms, 1):
                other, start = before.setdefault((index, term), (node, terms[:index]))
                if start != terms[:index]:
                    problem = f"no leader of term {term} has sent both {other} and {node} their entries {index}"
                    raise Misread(f"{problem}: what precedes them differs", "give one of them another term")

    @staticmethod
    def _settings(values: dict[str, object]) -> RaftSettings:
        try:
            return msgspec.convert(values, RaftSettings)
        except msgspec.ValidationError as error:
            raise Misread(
                f"the settings are wrong: {error}", "see raftcore/engine/settings.py for what there is"
            ) from None

    def _setting_up(self) -> None:
        if self._stage is not None:
            raise Misread("the cluster is already at work", "move this line before the first one that does something")

    def _names(self, words: str) -> list[str]:
        known = [*self.voters, *self.learners, *self.spare]
        if words == "all":
            return known
        for word in words.split():
            if word not in known:
                step = (
                    f"there are {', '.join(known)}; name it in the line `cluster`"
                    if known
                    else "begin with: cluster NODES"
                )
                raise Misread(f"no machine is called {word!r}", step)
        return words.split()

    def _machines(self, words: str) -> list[Machine]:
        """Those named, which must be up; "all": all that are up."""
        named = [self.stage.machines[node] for node in self._names(words)]
        if words == "all":
            return [machine for machine in named if machine.alive]
        for machine in named:
            if not machine.alive:
                raise Misread(f"{machine.node} is down", f"restart {machine.node} first, or leave it out")
        return named

    def _machine(self, word: str) -> Machine:
        machines = self._machines(word)
        if len(machines) != 1:
            raise Misread(f"{word!r} must be one machine", "write a line for each of them")
        return machines[0]

    def _messages(self, words: str) -> Selection:
        """`n1 n2 -> n3 appends`: a link, a kind, or both; `*` is anybody, `<->` both ways."""
        before, kind = words.split(), None
        if before and before[-1] in KINDS:
            kind = before.pop()
        if not before:
            return Selection(kind=kind)
        link = re.fullmatch(r"(.+) (->|<->) (.+)", " ".join(before))
        if link is None:
            step = f"write [NODES -> NODES] [KIND]; kinds are {', '.join(KINDS)}"
            raise Misread(f"{words!r} names no messages", step)
        ends = [None if end == "*" else frozenset(self._names(end)) for end in (link[1], link[3])]
        return Selection(*ends, link[2] == "<->", kind)

    def _some(self, count: int, words: str) -> None:
        if not count:
            raise Misread(f"no message {words!r} is under way", SHOW.format(self.name))

    def _members(self, words: str) -> tuple[list[str], list[str]]:
        match = re.fullmatch(r"voters (.+?)(?: learners (.+))?", words)
        if match is None:
            raise Misread(f"{words!r} are no members", "write voters NODES [learners NODES]")
        return self._names(match[1]), self._names(match[2] or "")

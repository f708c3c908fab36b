"""The language of the scenarios: every kind of line, and what it does.

`tests/scenarios/README.md` describes it to those who write or read scenarios. To see one at work, run this file:
`python tests/lib/scenario.py tests/scenarios/figure-8-old-entry.raft` shows the cluster after every line.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from scenario_cluster import EVERYTHING, KINDS, Machine
from scenario_grammar import VERBS, Misread, ScenarioError, Statement, Unmet, verb
from scenario_script import Script
from scenario_view import membership_text, progress_texts

from raftcore.types import NodeInfo


class Scenario(Script):
    """One scenario, played from its first line to its last."""

    # -- before it begins -----------------------------------------------------------------------------------------

    @verb("cluster NODES [learners NODES] [spare NODES]")
    def cluster(self, voters: str, learners: str | None, spare: str | None) -> None:
        self._setting_up()
        if self.voters:
            raise Misread("there is a cluster already", "name all machines in one line")
        self.voters, self.learners, self.spare = (names.split() for names in (voters, learners or "", spare or ""))
        for name in [*self.voters, *self.learners, *self.spare]:
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in KINDS or name == "all":
                raise Misread(
                    f"{name!r} can't be a machine's name", "use letters and digits, and no word of the language"
                )

    @verb("set [NODE:] SETTINGS")
    def set(self, node: str | None, settings: str) -> None:
        self._setting_up()
        target = self.settings.setdefault(None if node is None else self._names(node)[0], {})
        for setting in re.findall(r"(?:[^,\[]|\[[^]]*\])+", settings):
            name, _, value = (part.strip() for part in setting.partition("="))
            try:
                target[name] = json.loads(value)
            except ValueError:
                raise Misread(
                    f"{setting.strip()!r} sets nothing", "write NAME = VALUE, such as: pre_vote = false"
                ) from None
        self._settings({**self.settings[None], **target})

    @verb("log NODES: TERMS")
    def log(self, nodes: str, terms: str) -> None:
        self._setting_up()
        for node in self._names(nodes):
            self.logs[node] = [self._number(term) for term in terms.split()] if terms != "empty" else []

    @verb("term NODES: NUMBER")
    def term(self, nodes: str, term: str) -> None:
        self._setting_up()
        self.terms.update(dict.fromkeys(self._names(nodes), self._number(term)))

    @staticmethod
    def _number(word: str) -> int:
        if not word.isdecimal():
            raise Misread(f"{word!r} is no number", "write a number")
        return int(word)

    # -- messages -------------------------------------------------------------------------------------------------

    @verb("deliver [first|last] [MESSAGES]")
    def deliver(self, which: str | None, words: str | None) -> None:
        count = self.stage.deliver(EVERYTHING if words is None else self._messages(words), which or "all")
        if words is not None or which is not None:
            self._some(count, words or which)

    @verb("drop MESSAGES")
    def drop(self, words: str) -> None:
        self._some(self.stage.drop(self._messages(words)), words)

    @verb("duplicate MESSAGES")
    def duplicate(self, words: str) -> None:
        self._some(self.stage.duplicate(self._messages(words)), words)

    @verb("block MESSAGES")
    def block(self, words: str) -> None:
        self.stage.block(self._messages(words))

    @verb("hold disk NODES")
    def hold_disk(self, nodes: str) -> None:
        for machine in self._machines(nodes):
            machine.disk_held = True

    @verb("hold MESSAGES")
    def hold(self, words: str) -> None:
        self.stage.hold(self._messages(words))

    @verb("release disk NODES")
    def release_disk(self, nodes: str) -> None:
        for machine in self._machines(nodes):
            machine.disk_held = False

    @verb("release [MESSAGES]")
    def release(self, words: str | None) -> None:
        wanted = None if words is None else self._messages(words)
        if not self.stage.holds or wanted not in (None, *self.stage.holds):
            raise Misread("nothing is held so", "release what an earlier line holds, in the same words")
        self.stage.release(wanted)

    @verb("partition GROUPS")
    def partition(self, words: str) -> None:
        self.stage.partition([frozenset(self._names(group.strip())) for group in words.split("|")])

    @verb("heal")
    def heal(self) -> None:
        self.stage.heal()

    # -- time -----------------------------------------------------------------------------------------------------

    @verb("elapse TIME [only NODES]")
    def elapse(self, time: str, nodes: str | None) -> None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|ms)", time)
        if match is None:
            raise Misread(f"{time!r} is no time", "write it as 1.5s or 20ms")
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
        awake = "" if nodes == "none" else nodes
        self.stage.elapse(seconds, None if awake is None else frozenset(m.node for m in self._machines(awake)))

    @verb("timeout NODE")
    def timeout(self, node: str) -> None:
        engine = self._machine(node).engine
        if engine.leadership is not None or engine.deadline() == float("inf"):
            raise Misread(f"no election timer runs on {node}, a {engine.role.value}", "name a voter that does not lead")
        self.stage.timeout(node)

    @verb("elect NODE")
    def elect(self, node: str) -> None:
        self.timeout(node)
        self.stage.deliver()
        role = self._machine(node).engine.role.value
        if role != "leader":
            raise Unmet(f"role of {node}, after its timeout and the delivery of everything", "leader", role)

    @verb("heartbeat NODE")
    def heartbeat(self, node: str) -> None:
        machine = self._machine(node)
        if machine.engine.leadership is None:
            raise Misread(f"{node} is a {machine.engine.role.value}", "only leaders send heartbeats")
        machine.engine.heartbeat(self.stage.clock.now)
        self.stage.retry_snapshots(machine)

    @verb("campaign NODE")
    def campaign(self, node: str) -> None:
        self._machine(node).engine.campaign(self.stage.clock.now)

    # -- clients and operators ------------------------------------------------------------------------------------

    @verb("propose NODE VALUES")
    def propose(self, node: str, values: str) -> None:
        self._machine(node).engine.propose([value.encode() for value in values.split()])

    @verb("read NODE as NAME by lease")
    def lease_read(self, node: str, name: str) -> None:
        self._read_as(node, name, lease=True)

    @verb("read NODE as NAME")
    def read(self, node: str, name: str) -> None:
        self._read_as(node, name, lease=False)

    def _read_as(self, node: str, name: str, *, lease: bool) -> None:
        if name in self.read_names:
            raise Misread(f"a read {name!r} was asked for already", "give each its own name")
        self._machine(node).engine.read(len(self.read_names), lease=lease, now=self.stage.clock.now)
        self.stage.reads.setdefault(self.read_names.setdefault(name, len(self.read_names)), "waiting")

    @verb("change NODE: MEMBERS")
    def change(self, node: str, members: str) -> None:
        voters, learners = self._members(members)
        nodes = {name: NodeInfo(f"at-{name}") for name in (*voters, *learners)}
        self._machine(node).engine.change_membership(tuple(voters), tuple(learners), nodes)

    @verb("transfer NODE [-> NODE]")
    def transfer(self, node: str, target: str | None) -> None:
        machine = self._machine(node)
        chosen = None if target is None else self._names(target)[0]
        machine.engine.transfer_leadership(chosen, self.stage.clock.now)
        machine.transfer = "under way"

    # -- machines -------------------------------------------------------------------------------------------------

    @verb("write NODE")
    def write(self, node: str) -> None:
        machine = self._machine(node)
        if not machine.writing:
            raise Misread(f"{node} has nothing to write", f"hold disk {node} before it gets something to write")
        machine.finish_write()

    @verb("crash NODES")
    def crash(self, nodes: str) -> None:
        for machine in self._machines(nodes):
            self.stage.crash(machine.node)

    @verb("restart NODES")
    def restart(self, nodes: str) -> None:
        for node in self._names(nodes):
            self.stage.crash(node)
            self.stage.restart(node)

    @verb("snapshot NODES")
    def snapshot(self, nodes: str) -> None:
        for machine in self._machines(nodes):
            if not machine.engine.applicable:
                raise Misread(f"{machine.node} has applied nothing yet", "let it commit something first")
            machine.take_snapshot(purge=False)

    @verb("compact NODE [keeping NUMBER]")
    def compact(self, node: str, trailing: str | None) -> None:
        self._machine(node).purge(self._number(trailing or "0"))

    # -- what is to be seen ---------------------------------------------------------------------------------------

    @verb("count")
    def count(self) -> None:
        self.stage.sent.clear()

    @verb('expect refused "TEXT"')
    def expect_refused(self, text: str) -> None:
        refusal, self.refusal = self.refusal, None
        if refusal is None:
            raise Misread("the line before was not refused", "put this right behind a line that is")
        if text not in str(refusal[1]):
            raise Unmet("refusal", text, str(refusal[1]))

    @verb("expect leaders: NODES")
    def expect_leaders(self, nodes: str) -> None:
        leading = [machine.node for machine in self.stage.up() if machine.engine.leadership is not None]
        expected = [] if nodes == "none" else sorted(self._names(nodes))
        self._same("leaders", " ".join(expected) or "none", " ".join(leading) or "none")

    @verb("expect log NODES: TERMS")
    def expect_log(self, nodes: str, terms: str) -> None:
        self._each("log", nodes, terms, Machine.log_text)

    @verb("expect disk NODES: TERMS")
    def expect_disk(self, nodes: str, terms: str) -> None:
        self._each("disk", nodes, terms, Machine.disk_text)

    @verb("expect commit NODES: NUMBER")
    def expect_commit(self, nodes: str, number: str) -> None:
        self._each("commit", nodes, number, lambda machine: str(machine.engine.commit))

    @verb("expect applied NODES: VALUES")
    def expect_applied(self, nodes: str, values: str) -> None:
        self._each("applied", nodes, values, lambda machine: " ".join(machine.values) or "nothing")

    @verb("expect membership NODES: MEMBERS")
    def expect_membership(self, nodes: str, members: str) -> None:
        self._each("membership", nodes, members, lambda machine: membership_text(machine.engine.membership))

    @verb("expect progress NODE -> NODE: STATE")
    def expect_progress(self, node: str, peer: str, state: str) -> None:
        known = progress_texts(self._machine(node)).get(self._names(peer)[0], "none")
        self._same(f"progress {node} -> {peer}", state, _parts(known, state))

    @verb("expect sent MESSAGES: NUMBER")
    def expect_sent(self, words: str, number: str) -> None:
        wanted = self._messages(words)
        self._same(f"sent {words}", number, str(sum(wanted.has(letter) for letter in self.stage.sent)))

    @verb("expect read NAME: OUTCOME")
    def expect_read(self, name: str, outcome: str) -> None:
        if name not in self.read_names:
            raise Misread(f"no read is called {name!r}", f"there are {', '.join(self.read_names) or 'none'}")
        self._same(f"read {name}", outcome, self.stage.reads[self.read_names[name]])

    @verb("expect transfer NODE: OUTCOME")
    def expect_transfer(self, node: str, outcome: str) -> None:
        self._same(f"transfer {node}", outcome, self._machine(node).transfer)

    @verb("expect NODES: ROLE")
    def expect_role(self, nodes: str, role: str) -> None:
        for machine in self._machines(nodes):
            engine = machine.engine
            shown = f"{engine.role.value} of {engine.leader or 'nobody'} term {engine.vote.leader.term}"
            self._same(machine.node, role, _parts(shown, role))

    def _each(self, what: str, nodes: str, expected: str, actual: Callable[[Machine], str]) -> None:
        for machine in self._machines(nodes):
            self._same(f"{what} {machine.node}", expected, actual(machine))

    @staticmethod
    def _same(subject: str, expected: str, actual: str) -> None:
        if expected != actual:
            raise Unmet(subject, expected, actual)


def _parts(text: str, wanted: str) -> str:
    """Of "leader of n1 term 2" the first word and the pairs whose first word `wanted` names; all when it has others."""
    first, *rest = text.split()
    pairs = dict(zip(rest[::2], rest[1::2], strict=True))
    asked = wanted.split()[1::2]
    known = [f"{name} {pairs[name]}" for name in asked if name in pairs]
    return " ".join([first, *known]) if len(known) == len(asked) else text


def usages() -> list[str]:
    """How every kind of line is written."""
    return [kind.usage for kinds in VERBS.values() for kind in kinds]


def main(names: list[str]) -> int:
    """Play the scenarios in these files, and show the cluster after every line that changes it."""
    for name in names:
        before = ""

        def show(statement: Statement, shown: str) -> None:
            nonlocal before
            print(f"{statement.number:4} {statement.text}" + (f"\n{shown}\n" if shown != before else ""))  # noqa: T201
            before = shown

        try:
            Scenario(name, Path(name).read_text()).play(show)
        except ScenarioError as error:
            print(error)  # noqa: T201  what this is for
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

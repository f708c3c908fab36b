from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scenario import Scenario, usages
from scenario_cluster import KINDS
from scenario_grammar import ScenarioError

from raftcore.types import LeaderId, LogId

HERE = Path(__file__).parent
ELECTED = "cluster n1 n2 n3\nelect n1\nelapse 10ms\n"


@pytest.fixture
def play():
    """Play these lines as the file "a.raft"; the scenario."""

    def run(text, **options):
        scenario = Scenario("a.raft", text, **options)
        scenario.play()
        return scenario

    return run


# -- what can't be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem", "next_step"),
    [
        (
            "cluster n1\nelekt n1",
            "a.raft:2: elekt n1\n  unknown verb 'elekt'",
            "did you mean 'elect'? there are block,",
        ),
        ("cluster n1\nqwxz", "a.raft:2: qwxz\n  unknown verb 'qwxz'", "there are block, campaign, change,"),
        ("elect n1", "a.raft:1: elect n1\n  no machine is called 'n1'", "begin with: cluster NODES"),
        ("heal", "a.raft:1: heal\n  there is no cluster yet", "begin with: cluster NODES"),
        (
            "# story\ncluster n1 n2\n\nelect n9",
            "a.raft:4: elect n9\n  no machine is called 'n9'",
            "there are n1, n2; name it in the line `cluster`",
        ),
        ("cluster n1\nelapse", "'elapse' is not written so", "write elapse TIME [only NODES]"),
        ("cluster n1\nelapse soon", "'soon' is no time", "write it as 1.5s or 20ms"),
        ("cluster n1\ncluster n2", "there is a cluster already", "name all machines in one line"),
        ("cluster n1 appends", "'appends' can't be a machine's name", "no word of the language"),
        (
            "cluster n1\nset pre_vote off",
            "'pre_vote off' sets nothing",
            "write NAME = VALUE, such as: pre_vote = false",
        ),
        ("cluster n1\nset prevote = false", "unknown field `prevote`", "see raftcore/engine/settings.py"),
        ("cluster n1\nelect n1\nlog n1: 1", "already at work", "move this line before the first one that does"),
        ("cluster n1\nlog n1: one", "'one' is no number", "write a number"),
        ("cluster n1 n2\nlog n1: 1 2\nlog n2: 2 2\nheal", "sent both n1 and n2 their entries 2", "another term"),
        (
            ELECTED + "deliver n1 to n2",
            "'n1 to n2' names no messages",
            "write [NODES -> NODES] [KIND]; kinds are appends",
        ),
        (ELECTED + "deliver n1 -> n2", "no message 'n1 -> n2' is under way", "python tests/lib/scenario.py a.raft"),
        (ELECTED + "drop grants", "no message 'grants' is under way", "see the cluster after every line"),
        (ELECTED + "duplicate grants", "no message 'grants' is under way", "see the cluster after every line"),
        (ELECTED + "hold grants\nrelease acks", "nothing is held so", "release what an earlier line holds"),
        (ELECTED + "timeout n1", "no election timer runs on n1, a leader", "name a voter that does not lead"),
        (ELECTED + "heartbeat n2", "n2 is a follower", "only leaders send heartbeats"),
        (ELECTED + "crash n2\ntimeout n2", "n2 is down", "restart n2 first, or leave it out"),
        (ELECTED + "heartbeat all", "'all' must be one machine", "write a line for each of them"),
        (ELECTED + "write n1", "n1 has nothing to write", "hold disk n1 before it gets something to write"),
        (ELECTED + "change n1: n2", "'n2' are no members", "write voters NODES [learners NODES]"),
        ("cluster n1\nsnapshot n1", "n1 has applied nothing yet", "let it commit something first"),
        (ELECTED + "read n1 as r\nread n1 as r", "a read 'r' was asked for already", "give each its own name"),
        (ELECTED + "expect read r: waiting", "no read is called 'r'", "there are none"),
        (ELECTED + 'expect refused "no"', "the line before was not refused", "put this right behind a line that is"),
    ],
)
def test_a_line_that_makes_no_sense_is_named_with_what_to_do(play, text, problem, next_step):
    """File, line, what is wrong with it, and the next step."""
    with pytest.raises(ScenarioError, match=re.escape(problem)) as failure:
        play(text)

    assert f"a.raft:{len(text.splitlines())}: " in str(failure.value)
    assert next_step in str(failure.value).split("next step: ")[1]


# -- what is not so -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "subject", "actual"),
    [
        ("expect n2: leader", "n2", "follower"),
        ("expect n2: follower of n3 term 1", "n2", "follower of n1 term 1"),
        ("expect n2: follower from n1", "n2", "follower of n1 term 1"),
        ("expect leaders: none", "leaders", "n1"),
        ("expect log n1: 1 1", "log n1", "1"),
        ("expect disk n1: empty", "disk n1", "1"),
        ("expect commit all: 2", "commit n1", "1"),
        ("expect applied n1: x", "applied n1", "nothing"),
        ("expect membership n3: voters n1 n2", "membership n3", "voters n1 n2 n3"),
        ("expect progress n1 -> n2: probe", "progress n1 -> n2", "pipeline"),
        ("expect progress n1 -> n2: pipeline next 9", "progress n1 -> n2", "pipeline next 2"),
        ("expect progress n2 -> n1: probe", "progress n2 -> n1", "none"),
        ("expect sent n1 -> n2 appends: 0", "sent n1 -> n2 appends", "1"),
        ("expect transfer n1: done", "transfer n1", "none"),
    ],
)
def test_an_expectation_that_fails_shows_both_and_the_cluster(play, line, subject, actual):
    """What was expected, what is, every machine, and how to find out where it went wrong."""
    expected = line.rpartition(": ")[2]
    with pytest.raises(ScenarioError) as failure:
        play(ELECTED + "hold n1 -> n3\n" + line)
    said = str(failure.value)

    assert said.startswith(f"a.raft:5: {line}\n  {subject}\n    expected  {expected}\n    is        {actual}\n")
    assert "n1    leader    1     n1    n1       1       1        1    voters n1 n2 n3\n" in said
    assert said.endswith("next step: see the cluster after every line: python tests/lib/scenario.py a.raft")


def test_messages_that_wait_are_shown_in_words(play):
    """Those under way and those held, each with what it says; many that are alike in one line."""
    with pytest.raises(ScenarioError) as failure:
        play(ELECTED + "hold n1 -> n3\nhold disk n2\npropose n1 x\nduplicate appends\nexpect leaders: none")
    said = str(failure.value)

    assert "under way: n1 -> n2 appends: entries 2..2 after 1 (term 1), commit 1, term 1 (2 times)\n" in said
    assert "held: n1 -> n3 appends: entries 2..2 after 1 (term 1), commit 1, term 1\n" in said
    assert "n1 -> n2 n3: pipeline match 1 next 3\n" in said


def test_a_leader_that_is_not_elected_fails_the_line(play):
    """`elect` promises a leader."""
    with pytest.raises(ScenarioError, match=r"a.raft:3: elect n1\n  role of n1, .*\n    expected  leader\n"):
        play("cluster n1 n2 n3\npartition n1\nelect n1")


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("following", ["", "\nheal", "\nexpect leaders: n1"])
def test_a_refusal_that_nobody_expects_fails_the_line_that_was_refused(play, following):
    """Also when it is the last one."""
    with pytest.raises(
        ScenarioError, match=r"a.raft:4: propose n2 x\n  refused: NotLeader: node n2 does not lead"
    ) as failure:
        play(ELECTED + "propose n2 x" + following)

    assert str(failure.value).endswith('expect refused "part of the message"')


def test_a_refusal_must_say_what_is_expected(play):
    """Part of its message."""
    play(ELECTED + 'propose n2 x\nexpect refused "does not lead"')

    with pytest.raises(
        ScenarioError, match=r"a.raft:5: .*\n  refusal\n    expected  overloaded\n    is        node n2"
    ):
        play(ELECTED + 'propose n2 x\nexpect refused "overloaded"')


# -- the rules that always hold -----------------------------------------------------------------------------------


OTHER = LogId(LeaderId(1, "n9"), 2)


@pytest.mark.parametrize(
    ("spoil", "line", "rule"),
    [
        (lambda stage: stage.rules.leaders.update({2: "n9"}), "elect n2", "n9 and n2 both lead in term 2"),
        (
            lambda stage: stage.rules.committed.update({9: (OTHER, OTHER.leader)}),
            "elect n2",
            "Leader Completeness: n2 leads term 2 without the committed entry 9",
        ),
        (
            lambda stage: stage.rules.committed.update({2: (OTHER._replace(leader=LeaderId(7, "n9")), OTHER.leader)}),
            "deliver",
            "State Machine Safety: n1 commits an entry 2 of term 1, but that of term 7 was committed there",
        ),
        (
            lambda stage: [stage.machines[node].disk.entries.clear() for node in ("n2", "n3")],
            "deliver * -> n1",
            "n1 commits entry 2, which is durable on ['n1'] only",
        ),
        (lambda stage: setattr(stage.machines["n3"], "seen_commit", 9), "deliver", "commit index of n3 went back"),
    ],
    ids=["election safety", "leader completeness", "state machine safety", "durable on a quorum", "commit goes back"],
)
def test_a_rule_of_the_paper_that_is_broken_fails_the_line(spoil, line, rule):
    """Although no expectation speaks of it."""
    scenario = Scenario("a.raft", ELECTED + f"propose n1 x\ndeliver n1 -> n2 n3\nheal\n{line}")

    with pytest.raises(ScenarioError, match=re.escape(rule)) as failure:
        scenario.play(lambda statement, shown: spoil(scenario.stage) if statement.text == "heal" else None)

    assert str(failure.value).startswith(f"a.raft:7: {line}\n  AssertionError: ")


def test_what_the_engine_itself_finds_wrong_fails_the_line():
    """A leader without an entry that another machine takes to be committed."""

    def spoil(statement, shown):
        if statement.text == "heal":
            machine = scenario.stage.machines["n2"]
            machine.engine.commit = machine.seen_commit = 1

    scenario = Scenario("a.raft", "cluster n1 n2 n3\nlog n2: 1\nheal\nelect n1")

    with pytest.raises(ScenarioError, match=r"a.raft:4: elect n1\n  InvariantViolation: the leader's entry 1 is"):
        scenario.play(spoil)


# -- what lines do, where no scenario would notice ----------------------------------------------------------------


def test_the_same_seed_plays_the_same_way_and_another_seed_another(play):
    """The seed draws the election timeouts, and nothing else is left to chance."""
    times = [play("cluster n1\ntimeout n1", seed=seed).stage.clock.now for seed in (1, 1, 2)]

    assert times[0] == times[1] != times[2]


def test_a_node_may_have_settings_of_its_own(play):
    """The rest is as for all."""
    machines = play(
        "cluster n1 n2\nset pre_vote = false, election_timeout_ms = [500, 600]\nset n2: pre_vote = true\nheal"
    ).stage.machines
    settings = [(machine.settings.pre_vote, machine.settings.election_timeout_ms) for machine in machines.values()]

    assert [(False, (500, 600)), (True, (500, 600))] == settings


def test_a_message_to_a_machine_that_is_down_is_lost(play):
    """Also when it is up again before the next one."""
    play(ELECTED + "propose n1 x\ncrash n2\ndeliver n1 -> n2\nrestart n2\nexpect log n2: 1")


def test_time_may_pass_for_some_or_for_nobody(play):
    """Timers run out only for those who are named."""
    play("cluster n1 n2 n3\nelapse 5s only none\nexpect all: follower\nelapse 5s only n2\nexpect leaders: n2")


# -- the tool and the text that go with it ------------------------------------------------------------------------


def test_the_file_can_be_played_by_hand(tmp_path, request):
    """Every line is printed, and the cluster whenever it has changed; 1 when a line fails."""
    good, bad = tmp_path / "good.raft", tmp_path / "bad.raft"
    good.write_text("cluster n1\nelect n1\nexpect leaders: n1\n")
    bad.write_text("cluster n1\nexpect leaders: n1\n")
    tool = [sys.executable, str(request.config.rootpath / "tests/lib/scenario.py")]
    played = subprocess.run([*tool, str(good), str(bad)], capture_output=True, text=True, check=False)

    assert (1, "") == (played.returncode, played.stderr)
    assert "   2 elect n1\ntime " in played.stdout
    assert 2 == played.stdout.count("\ntime "), "once after the line that changed something, once with the failure"
    assert f"{bad}:2: expect leaders: n1\n" in played.stdout


def test_the_description_names_every_kind_of_line_and_of_message():
    """As they are written."""
    described = (HERE / "README.md").read_text().replace("\\|", "|")

    assert [] == [usage for usage in usages() if f"`{usage}`" not in described]
    assert [] == [kind for kind in KINDS if f"`{kind}`" not in described]


def test_the_example_of_the_description_can_be_played(play):
    """It is a whole scenario."""
    lines = (HERE / "README.md").read_text().splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))

    assert ["x"] == play(example).stage.machines["n3"].values

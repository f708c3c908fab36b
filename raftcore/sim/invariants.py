"""What must hold after every single step, over all nodes at once.

Each rule is named in its violation with where it comes from: the Raft paper ("paper"), Ongaro's thesis ("thesis"), or a
contract of raftcore's. What is durable is taken from the hosts' ledgers, never from what a node believes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raftcore.errors import RaftCoreError
from raftcore.messages import AppendReply, Message, RequestVote, SnapshotReply, SnapshotStatus, VoteReply
from raftcore.sim.node_check import NodeCheck
from raftcore.types import NO_LOG, Entries, LeaderId, LogId, Membership, NodeId, SnapshotMeta, Vote

if TYPE_CHECKING:
    from raftcore.node.member import Member
    from raftcore.sim.host import Host
    from raftcore.sim.world import World


class Violation(RaftCoreError):
    """A rule that does not hold: which, on which node, and what was seen."""

    def __init__(self, invariant: str, text: str, node: str = "") -> None:
        super().__init__(f"{invariant}: {f'{node}: ' if node else ''}{text}")
        self.invariant = invariant
        self.text = text
        self.node = node


class Invariants:
    """The rules, and what must be remembered of the whole run to check them.

    `committed[i]` is the id of the committed entry at index i, `payloads[i]` and `answers[i]` what it said and what the
    state machines answered (None for entries that are not the application's).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.committed: list[LogId] = [NO_LOG]
        self.committed_by: list[LeaderId] = [NO_LOG.leader]
        self.payloads: list[bytes | None] = [None]
        self.answers: list[bytes | None] = [None]
        self.first_to_apply: list[NodeId] = [""]
        self.leaderships: dict[LeaderId, tuple[NodeId, int]] = {}
        self.leader_of: dict[int, NodeId] = {}
        self.first_entries: dict[LeaderId, LogId] = {}
        """Of each leader that has entries: the id before its first one."""
        self.votes: dict[tuple[NodeId, int], NodeId] = {}
        self.memberships: dict[LogId, Membership] = {}
        self._promises: dict[type, Callable[[Host, Any], None]] = {
            AppendReply: self._check_ack,
            VoteReply: self._check_grant,
            RequestVote: self._check_request,
            SnapshotReply: self._check_installed,
        }

    def started(self, host: Host, member: Member) -> Callable[[], None]:
        """A node has recovered from its disk; what to call after each of its steps."""
        return NodeCheck(self, host, member).after_step

    def ended(self, host: Host) -> None:
        """The node is gone."""
        host.process.after = _nothing

    def fail(self, invariant: str, host: Host, text: str) -> None:
        self.world.violate(invariant, text, host.name)

    # -- applying -----------------------------------------------------------------------------------------------------

    def applied(self, host: Host, run: Entries, results: Sequence[bytes | None], after: int) -> None:
        """State-machine safety (paper Figure 3): no two nodes apply different commands at one index; and
        determinism: they answer alike."""
        first, last = run.first_index, run.last_index
        self.world.note("apply", node=host.name, first=first, last=last)
        known = len(self.payloads)
        if first <= after:
            self.fail("entries are applied once, in order", host, f"{first}..{last} applied after {after}")
        skipped = [index for index in range(after + 1, min(first, known)) if self.payloads[index] is not None]
        if skipped:
            self.fail("no committed command is skipped (paper §5.3)", host, f"entries {skipped} were not applied")
        if len(results) != len(run):
            return  # the node itself refuses that
        both = max(0, min(last + 1, known) - first)
        if both:
            if self.payloads[first : first + both] != run.payloads[:both]:
                self.fail(
                    "state-machine safety (paper §5.4.3)",
                    host,
                    f"entries {first}..{last} differ from those applied elsewhere",
                )
            if self.answers[first : first + both] != list(results[:both]):
                place = next(i for i in range(both) if self.answers[first + i] != results[i])
                index = first + place
                self.fail(
                    "apply is deterministic",
                    host,
                    f"entry {index} ({run.payloads[place][:60]!r}) was answered {results[place]!r} here and "
                    f"{self.answers[index]!r} on {self.first_to_apply[index]}: the state machine "
                    "looks at something beside the entries and its state (a clock, a random source, the order of a "
                    "set, the node), or its snapshots do not hold the whole state",
                )
        if last >= known:
            gap = max(0, first - known)
            new = run.payloads[both:]
            self.payloads += [None] * gap + list(new)
            self.answers += [None] * gap + list(results[both:])
            self.first_to_apply += [""] * gap + [host.name] * len(new)

    def snapshot_committed(self, host: Host, meta: SnapshotMeta) -> None:
        """Snapshot ≤ applied, of an entry that is committed (paper §7)."""
        last = meta.last
        if last.index >= len(self.committed) or self.committed[last.index] != last:
            self.fail("a snapshot ends at a committed entry (paper §7)", host, f"snapshot {meta.id} ends at {last}")
        known = self.memberships.get(meta.membership_at)
        if known is not None and known != meta.membership:
            self.fail(
                "membership travels whole in snapshots (paper §7)",
                host,
                f"{meta.membership} of {meta.membership_at}, but it set {known}",
            )

    # -- messages -----------------------------------------------------------------------------------------------------

    def sent(self, sender: NodeId, to: NodeId, message: Message) -> None:
        """What a message promises is durable when it leaves (paper §5: state is stored before the answer)."""
        check = self._promises.get(type(message))
        if check is not None:
            check(self.world.hosts[sender], message)

    def _check_grant(self, host: Host, reply: VoteReply) -> None:
        if not reply.granted or reply.pre:
            return
        if host.ledger.vote != reply.vote or reply.request != reply.vote:
            self.fail(
                "a vote is durable before it is told (paper §5.2)",
                host,
                f"granted {reply.vote} to {reply.request.leader}; on the disk is {host.ledger.vote}",
            )
        self._cast(host, reply.vote)

    def _check_request(self, host: Host, request: RequestVote) -> None:
        if request.pre:
            return
        if host.ledger.vote != request.vote:
            self.fail(
                "a candidate's own vote is durable first (paper §5.2)",
                host,
                f"asks for {request.vote}; on the disk is {host.ledger.vote}",
            )
        if not host.holds(request.last):
            self.fail(
                "a candidate's log is durable as far as it claims (paper §5.4.1)",
                host,
                f"claims to end at {request.last}",
            )
        self._cast(host, request.vote)

    def _check_installed(self, host: Host, reply: SnapshotReply) -> None:
        if reply.status is SnapshotStatus.INSTALLED and reply.match > host.durable_index:
            self.fail(
                "a snapshot is durable before it is acknowledged (paper §7)",
                host,
                f"acknowledged {reply.match}, holds {host.durable_index}",
            )

    def _cast(self, host: Host, vote: Vote) -> None:
        """A vote that is told to others stays; in the standard order there is one a term."""
        voted = self.votes.setdefault((host.incarnation, vote.leader.term), vote.leader.node)
        if voted != vote.leader.node and host.world.plan.raft.vote_order == "standard":
            self.fail(
                "one vote a term (paper §5.2)",
                host,
                f"votes for {vote.leader.node} in term {vote.leader.term}, and voted for {voted} before",
            )

    def _check_ack(self, host: Host, reply: AppendReply) -> None:
        if not reply.match:
            return
        if reply.match > host.durable_index:
            self.fail(
                "an acknowledgement never precedes durability (paper §5.3)",
                host,
                f"acknowledged {reply.match} to {reply.vote.leader}; its disk holds up to {host.durable_index}",
            )
            return
        leader = self.world.hosts.get(reply.vote.leader.node)
        if leader is None or leader.member is None or leader.member.engine.vote != reply.vote:
            return
        wanted = leader.member.engine.log.id_at(reply.match)
        if wanted is not None and not host.holds(wanted):
            self.fail(
                "an acknowledged entry is the leader's (paper §5.3)",
                host,
                f"acknowledged {wanted}; its disk holds {host.ledger.id_at(reply.match)} there",
            )

    # -- what is committed --------------------------------------------------------------------------------------------

    def on_a_quorum(self, membership: Membership, log_id: LogId) -> bool:
        """The entry is durable on a majority of each set of voters."""
        holders = {name for name, host in self.world.hosts.items() if host.held(log_id)}
        return all(2 * len(holders.intersection(group)) > len(group) for group in membership.voters)


def _nothing() -> None:
    """A node that is gone is not looked at."""

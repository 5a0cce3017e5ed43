"""Governance: verifiers propose changes of the chain and vote on them.

    propose  {"change": CHANGE}                            see `abci_app.core.changes`
    vote     {"proposal": NUMBER, "approve": BOOL}

A proposal is its proposer's yes. It passes at the end of the first block at which yes has more
than 2/3 of all power, and the change is made with that block. It is refused once no holds a third
and yes can no longer get there, and expires after the block `closes`. Powers are those of the
moment: a verifier's vote weighs what it holds now, that of one who left nothing. A vote is not
taken back, and follows its verifier through a rotation of its key.

What passed and can no longer be made has failed. The set of verifiers changes once a block: what
else passed waits for the next block's count.

    open ──> passed | refused | expired | failed

What this costs is bounded: open proposals by `max_open_proposals` of each verifier, and kept ones
by `KEPT_PROPOSALS`, for a new proposal takes the place of the one so many numbers before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from abci_app.core import fields
from abci_app.core.changes import MOVES_POWER, Change, check_form, check_possible, make_change
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.state import Reader, View, load
from abci_app.core.verifiers import Verifier, all_verifiers, require_verifier
from planetserve.scoring.parameters import Parameters
from planetserve.statekeys import NEXT_PROPOSAL_KEY, OPEN_PROPOSALS_KEY, proposal_key

FIRST_NUMBER = 1
KEPT_PROPOSALS = 1_024

OPEN, PASSED, REFUSED, EXPIRED, FAILED = "open", "passed", "refused", "expired", "failed"


@dataclass(frozen=True, slots=True)
class Proposal:
    """Made at `height`, takes votes up to and including block `closes`; `votes` by the hex of the
    voter's id. `settled` is the height at which `outcome` was found, 0 while it is open."""

    number: int
    proposer: bytes
    height: int
    closes: int
    change: Change
    votes: Mapping[str, bool]
    outcome: str = OPEN
    settled: int = 0

    def vote_of(self, verifier: Verifier) -> bool | None:
        """True is yes, None no vote yet."""
        for identifier in _ids_of(verifier):
            vote = self.votes.get(identifier.hex())
            if vote is not None:
                return vote
        return None

    def to_wire(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "proposer": self.proposer,
            "height": self.height,
            "closes": self.closes,
            "change": dict(self.change),
            "votes": dict(self.votes),
            "outcome": self.outcome,
            "settled": self.settled,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a proposal in this block."""

    number: int
    outcome: str
    change: Change


@dataclass(frozen=True, slots=True)
class Count:
    """Powers: all there is, and what voted yes and no."""

    total: int
    yes: int
    no: int

    @property
    def passes(self) -> bool:
        return 3 * self.yes > 2 * self.total

    @property
    def refused(self) -> bool:
        return 3 * self.no >= self.total


PROPOSE_FIELDS = frozenset({"change"})
VOTE_FIELDS = frozenset({"proposal", "approve"})


def propose(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Put a change to the vote."""
    fields.exact(data, PROPOSE_FIELDS)
    change = check_form(data["change"])
    proposer = require_verifier(view, context.sender)
    listed = _open_list(view)
    limit = context.parameters.max_open_proposals
    own = _ids_of(proposer)
    if sum(identifier in own for _, identifier in listed) >= limit:
        raise Rejected(Code.TOO_MANY_PROPOSALS, f"{limit} are allowed")
    closes = context.height + context.parameters.voting_blocks
    check_possible(view, context.parameters, change, closes)
    number = load(view, NEXT_PROPOSAL_KEY) or FIRST_NUMBER
    _make_room(view, number - KEPT_PROPOSALS)
    votes = {proposer.id.hex(): True}
    save_proposal(view, Proposal(number, proposer.id, context.height, closes, change, votes))
    view.save(NEXT_PROPOSAL_KEY, number + 1)
    _save_open_list(view, [*listed, (number, bytes(proposer.id))])


def vote(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Say yes or no to an open proposal, once."""
    fields.exact(data, VOTE_FIELDS)
    number, approve = fields.integer(data, "proposal"), data["approve"]
    if type(approve) is not bool:
        raise Rejected(Code.INVALID_FIELD, "approve is true or false")
    voter = require_verifier(view, context.sender)
    proposal = load_proposal(view, number)
    if proposal is None:
        raise Rejected(Code.UNKNOWN_PROPOSAL)
    if proposal.outcome != OPEN or context.height > proposal.closes:
        raise Rejected(Code.PROPOSAL_CLOSED)
    if proposal.vote_of(voter) is not None:
        raise Rejected(Code.ALREADY_VOTED)
    save_proposal(view, replace(proposal, votes={**proposal.votes, voter.id.hex(): approve}))


def tally(view: View, height: int, parameters: Parameters) -> tuple[Outcome, ...]:
    """At a block's end: settle the open proposals that have come to an end, all with the powers
    before any of them, and make the changes that have passed in the order of their numbers."""
    listed = _open_list(view)
    if not listed:
        return ()
    verifiers = all_verifiers(view)
    outcomes: list[Outcome] = []
    moved = False
    for number, _ in listed:
        proposal = require_proposal(view, number)
        outcome = _ending(proposal, count(proposal, verifiers), height)
        moves_power = proposal.change["kind"] in MOVES_POWER
        if outcome is None or (outcome == PASSED and moves_power and moved):
            continue
        if outcome == PASSED:
            if not _made(view, parameters, proposal.change, height):
                outcome = FAILED
            else:
                moved = moved or moves_power
        save_proposal(view, replace(proposal, outcome=outcome, settled=height))
        outcomes.append(Outcome(number, outcome, proposal.change))
    if outcomes:
        settled = {outcome.number for outcome in outcomes}
        _save_open_list(view, [item for item in listed if item[0] not in settled])
    return tuple(outcomes)


def moves_power(outcome: Outcome) -> bool:
    """Whether a change of the set of verifiers was made."""
    return outcome.outcome == PASSED and outcome.change["kind"] in MOVES_POWER


def count(proposal: Proposal, verifiers: Iterable[Verifier]) -> Count:
    """Weigh the votes with the powers that `verifiers` have now."""
    total = yes = no = 0
    for verifier in verifiers:
        total += verifier.power
        approves = proposal.vote_of(verifier)
        if approves is not None:
            yes += verifier.power * approves
            no += verifier.power * (not approves)
    return Count(total, yes, no)


def load_proposal(reader: Reader, number: int) -> Proposal | None:
    record = load(reader, proposal_key(number))
    return None if record is None else Proposal(**record)


def require_proposal(reader: Reader, number: int) -> Proposal:
    """One that the state must hold. Raises `LookupError`."""
    proposal = load_proposal(reader, number)
    if proposal is None:
        raise LookupError(f"the state lists proposal {number} and does not hold it")
    return proposal


def save_proposal(view: View, proposal: Proposal) -> None:
    view.save(proposal_key(proposal.number), proposal.to_wire())


def open_proposals(reader: Reader) -> list[Proposal]:
    """In the order of their numbers."""
    return [require_proposal(reader, number) for number, _ in _open_list(reader)]


def _ending(proposal: Proposal, counted: Count, height: int) -> str | None:
    if counted.passes:
        return PASSED
    if counted.refused:
        return REFUSED
    return EXPIRED if height >= proposal.closes else None


def _made(view: View, parameters: Parameters, change: Change, height: int) -> bool:
    staged = View(view)
    try:
        make_change(staged, parameters, change, height)
    except Rejected:
        return False
    view.apply(staged.writes)
    return True


def _make_room(view: View, number: int) -> None:
    former = load_proposal(view, number) if number >= FIRST_NUMBER else None
    if former is None:
        return
    if former.outcome == OPEN:
        raise Rejected(
            Code.TOO_MANY_PROPOSALS, f"{KEPT_PROPOSALS} are kept and the oldest is still open"
        )
    view.delete(proposal_key(number))


def _open_list(reader: Reader) -> list[tuple[int, bytes]]:
    """[[number, proposer's id], ...] in ascending order; absent when no proposal is open."""
    return [(number, proposer) for number, proposer in load(reader, OPEN_PROPOSALS_KEY) or ()]


def _save_open_list(view: View, listed: list[tuple[int, bytes]]) -> None:
    if listed:
        view.save(OPEN_PROPOSALS_KEY, listed)
    else:
        view.delete(OPEN_PROPOSALS_KEY)


def _ids_of(verifier: Verifier) -> tuple[bytes, ...]:
    return (verifier.id, *verifier.former)

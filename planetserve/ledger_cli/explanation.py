"""An explanation of a reputation in lines for people: evidence first, then what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from planetserve.fixedpoint import ONE_PPM
from planetserve.ledger_cli.display import aligned, decimal, plural, short
from planetserve.ledger_cli.explain import Explained
from planetserve.ledger_cli.life import Conviction
from planetserve.ledger_cli.lookup import name_in
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED, NodeRecord
from planetserve.scoring.credit import median_of, quorum_ppm, reaches_quorum
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import (
    ALARMED,
    KEPT,
    PUNISHED,
    Reputation,
    abnormal_in,
    alarm_below_ppm,
    cusum_after,
    good_from_ppm,
    probation_epochs,
)

Names = Mapping[bytes, str]
OTHER_MODEL = "update     serves another model since the epoch before: its probes must pass anew"


def abilities(
    node: NodeRecord,
    reputation: Reputation | None,
    parameters: Parameters,
    chance: int | None,
    height: int,
) -> list[tuple[str, str]]:
    """What a node can do at `height`, and what would change that. `chance` is the share of the
    probers that judge it, None for a node that nobody scores."""
    dialled = node.status == TRUSTED or node.admitted(height)
    pairs = [("routed to", _routed(node, reputation, parameters, dialled))]
    pairs.append(("dialled", "yes" if dialled else "no: no verifier vouches for it now"))
    if chance is not None:
        pairs.append(("probed", _probed(chance, reputation, parameters) if dialled else "no"))
    return pairs


def _routed(
    node: NodeRecord, reputation: Reputation | None, parameters: Parameters, dialled: bool
) -> str:
    if node.status == TRUSTED:
        return "yes"
    if node.status == CANDIDATE and not dialled:
        return "no: a role of it is not endorsed by any verifier, or no longer"
    if node.status not in (CANDIDATE, UNTRUSTED) or reputation is None:
        return f"no: it is {node.status}"
    streak = max(reputation.streak, 0)
    if reputation.trusted:
        needed = plural(parameters.admission_epochs, "epoch")
        return (
            f"no: its admission probes have not passed; it takes C >= "
            f"{decimal(parameters.admission_ppm)} in {needed} in a row and R >= "
            f"{decimal(parameters.untrusted_below_ppm)}, so far {streak}"
        )
    tau = decimal(good_from_ppm(reputation, parameters))
    return (
        f"no: it lost trust; back with R >= {decimal(parameters.trusted_from_ppm)} after "
        f"{plural(probation_epochs(reputation.convictions, parameters), 'epoch')} in a row "
        f"with C >= {tau}, so far {streak}"
    )


def _probed(chance: int, reputation: Reputation | None, parameters: Parameters) -> str:
    if chance < ONE_PPM:
        return f"yes, each prober with chance {decimal(chance)} an epoch"
    if reputation is not None and reputation.alarm:
        return f"yes, by every prober: under alarm until {reputation.alarm} more good epochs"
    return "yes, by every prober"


def thresholds(reputation: Reputation, parameters: Parameters) -> list[tuple[str, str]]:
    """Where the node is between the limits."""
    abnormal = abnormal_in(reputation.window_ppm, parameters)
    pairs = [
        (
            "R",
            f"{decimal(reputation.ppm)}; trust is lost below "
            f"{decimal(parameters.untrusted_below_ppm)}",
        ),
        (
            "CUSUM",
            f"{decimal(reputation.cusum_ppm)}; trust is lost at "
            f"{decimal(parameters.cusum_limit_ppm)}",
        ),
        ("window", _counted(reputation.window_ppm, abnormal, parameters)),
    ]
    if reputation.convictions:
        length = plural(probation_epochs(reputation.convictions, parameters), "epoch")
        pairs.append(
            (
                "convicted",
                f"{plural(reputation.convictions, 'time')}; the way back takes {length}",
            )
        )
    return pairs


def epoch_lines(item: Explained, names: Names) -> Iterator[str]:
    """One settled epoch: scores with who gave them, the rule with its numbers, the verdict."""
    settled = item.settled
    yield f"epoch {settled.epoch}, heights {settled.start} to {settled.height}"
    for conviction in item.arrival.convictions:
        yield f"  {conviction_line(conviction, names)}"
    if item.arrival.other_model:
        yield f"  {OTHER_MODEL}"
    rows = [
        [
            f"  {decimal(score.score_ppm)}",
            f"by {name_in(names, score.prober)}",
            f"power {score.power}",
            plural(score.samples, "sample"),
            f"transcripts {short(score.digest)}",
        ]
        for score in settled.scores
    ]
    yield from aligned(rows) if rows else ()
    yield f"  quorum     {_quorum(item)}"
    yield f"  C          {_credit(item)}"
    if settled.reason in (KEPT, ALARMED):
        yield f"  R          {decimal(settled.after.ppm)} as before: {settled.reason}"
    else:
        yield f"  R          {formula(item)} = {decimal(settled.after.ppm)}"
        yield f"             {settled.reason}"
        yield f"  window     {_window(item)}"
        yield f"  CUSUM      {cusum_formula(item)} = {_cusum_sum(item)}"
    yield f"  streak     {_streak(item)}"
    verdict = f": {settled.verdict}" if settled.verdict else ""
    yield f"  status     {settled.after.status}{verdict}"
    if not item.arrival.known:
        yield "             (began as recorded: what came before this epoch is dropped)"
    for difference in item.differences:
        yield f"  DIFFERS    {difference}"


def formula(item: Explained) -> str:
    """The right side of R's formula, with its numbers."""
    settled, parameters = item.settled, item.settled.parameters
    if settled.credit_ppm is None:
        return decimal(settled.before.ppm)
    weight = parameters.smoothing_ppm
    old = f"{decimal(weight, 1)} x {decimal(settled.before.ppm)}"
    credit = decimal(settled.credit_ppm)
    if settled.reason != PUNISHED:
        return f"{old} + {decimal(ONE_PPM - weight, 1)} x {credit}"
    window, gamma = parameters.window_epochs, decimal(parameters.tolerance_ppm, 1)
    return f"{old} + {credit} x ({window} + 1) / ({window} + {settled.abnormal} / {gamma} + 2)"


def cusum_formula(item: Explained) -> str:
    settled, parameters = item.settled, item.settled.parameters
    credit = "0" if settled.credit_ppm is None else decimal(settled.credit_ppm)
    reference = decimal(parameters.cusum_reference_ppm)
    allowance = decimal(-parameters.cusum_allowance_ppm)
    before = decimal(settled.before.cusum_ppm)
    return f"max(0, {before} + max({reference} - {credit}, {allowance}))"


def conviction_line(conviction: Conviction, names: Names) -> str:
    return (
        f"evidence   at height {conviction.height} by {name_in(names, conviction.reporter)}: "
        f"{conviction.breach}; R fell to 0"
    )


def _streak(item: Explained) -> str:
    settled, parameters = item.settled, item.settled.parameters
    if settled.verdict:
        return "counted anew from here, for the status has changed"
    good = good_from_ppm(settled.before, parameters)
    return f"{plural(max(settled.after.streak, 0), 'epoch')} in a row with C >= {decimal(good)}"


def _quorum(item: Explained) -> str:
    settled, parameters = item.settled, item.settled.parameters
    revealed = sum(score.power for score in settled.scores)
    chance = settled.chance_ppm
    quorum = quorum_ppm(chance, parameters)
    needed = quorum * settled.total_power * chance // ONE_PPM
    drawn = "" if chance == ONE_PPM else f" x chance {decimal(chance)}"
    reached = reaches_quorum(settled.scores, settled.total_power, chance, parameters)
    return (
        f"power {revealed} of {settled.total_power} revealed, {decimal(needed)} needed "
        f"({decimal(quorum)} x {settled.total_power}{drawn}): "
        f"{'reached' if reached else 'missed'}"
    )


def _credit(item: Explained) -> str:
    settled, parameters = item.settled, item.settled.parameters
    reached = reaches_quorum(settled.scores, settled.total_power, settled.chance_ppm, parameters)
    if settled.reason == ALARMED:
        found = decimal(median_of(settled.scores))
        return (
            f"{found} is a sample's median, and below {decimal(alarm_below_ppm(parameters))} a "
            "sample only raises the alarm"
        )
    if settled.credit_ppm is None:
        return f"none: no half of all power lies on one side of R = {decimal(settled.before.ppm)}"
    credit = decimal(settled.credit_ppm)
    if not reached:
        side = "below" if settled.credit_ppm < settled.before.ppm else "above"
        return f"{credit}: more than half of all power lies {side} R, even without the quorum"
    return f"{credit}, the median by power: {_halves(item)}"


def _halves(item: Explained) -> str:
    scores, credit = item.settled.scores, item.settled.credit_ppm or 0
    upto = sum(score.power for score in scores if score.score_ppm <= credit)
    total = sum(score.power for score in scores)
    return f"power {upto} of {total} scored no higher"


def _window(item: Explained) -> str:
    settled = item.settled
    return _counted(settled.after.window_ppm, settled.abnormal, settled.parameters)


def _cusum_sum(item: Explained) -> str:
    """The formula's value, and what an end of probation leaves of it."""
    settled, parameters = item.settled, item.settled.parameters
    credit = settled.credit_ppm or 0
    value = cusum_after(settled.before.cusum_ppm, credit, parameters)
    if value == settled.after.cusum_ppm:
        return decimal(value)
    return f"{decimal(value)}, of which {decimal(settled.after.cusum_ppm)} stays"


def _counted(window_ppm: Sequence[int], abnormal: int, parameters: Parameters) -> str:
    """A window, and how many of its epochs the rule minds."""
    credits = " ".join(decimal(credit) for credit in window_ppm) or "none yet"
    tolerated = parameters.tolerance_ppm * parameters.window_epochs // ONE_PPM
    return (
        f"{credits}; {abnormal} below {decimal(parameters.abnormal_below_ppm)}, more than "
        f"{tolerated} of {parameters.window_epochs} are punished"
    )


def difference_lines(differences: Sequence[str]) -> list[str]:
    """Said loudly: the validators have agreed on what the rule does not give."""
    if not differences:
        return []
    bar = "!" * 78
    lines = [f"!! {difference}" for difference in differences]
    return [bar, "!! The ledger's record does not follow from its own evidence:", *lines, bar]

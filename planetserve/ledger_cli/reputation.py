"""`ps-ledger reputation`: what a node's standing is and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, NodeName, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask
from planetserve.ledger_cli.display import (
    plural,
    share,
    show_json,
    show_lines,
    show_pairs,
    show_table,
    show_verified,
)
from planetserve.ledger_cli.nodes import node_json

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.ledger_cli.explain import Explained, Explanation
    from planetserve.ledger_cli.history import History, Present

DEFAULT_EPOCHS = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that one answer is made of. `chance_ppm` is the share of the probers that judges
    the node now, None when nobody scores it; `known_rules` is whether the chain follows the rules
    that this program can apply again."""

    present: Present
    chance_ppm: int | None
    history: History
    explanation: Explanation
    names: Mapping[bytes, str]
    known_rules: bool


@app.command()
def reputation(
    node: NodeName,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the evidence and the rule with its numbers.")
    ] = False,
    epochs: Annotated[
        int, typer.Option(min=1, max=1_000, help="How many of the last settled epochs.")
    ] = DEFAULT_EPOCHS,
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """A node's reputation and the settled epochs that made it.

    Each number is computed again from the evidence; a ledger that recorded another one is refused
    with exit code 4.
    """
    from planetserve.errors import ProofRefused

    answer = ask(network, lambda ledger: read_answer(ledger, node, epochs))
    shown = answer.explanation.epochs[-epochs:]
    differences = answer.explanation.differences
    with answers_of_expected_form():
        if as_json:
            show_json(_json(answer, shown, explain=explain))
        elif explain:
            _show_explained(answer, shown, differences)
        else:
            _show_table(answer, shown)
    if differences:
        raise ProofRefused(
            "the ledger's record does not follow from its own evidence: " + "; ".join(differences)
        )


async def read_answer(ledger: LedgerClient, text: str, epochs: int) -> Answer:
    """Raises `UsageError` when `text` is no node."""
    from planetserve.ledger_cli.explain import explain
    from planetserve.ledger_cli.history import read_history, read_life, read_present
    from planetserve.ledger_cli.lookup import every_node, names_of
    from planetserve.ledger_cli.nodes import find_or_follow
    from planetserve.scoring import VERSION
    from planetserve.scoring.judgement import chance_ppm

    proven = await ledger.read(stores=["routes", "verifiers", "waiting"])
    found = every_node(proven)
    node = await find_or_follow(ledger, found, text)
    present = await read_present(ledger, proven.height, node.id)
    reputation = present.reputation
    last = None if reputation is None else reputation.last
    history = await read_history(ledger, last, present.height, epochs)
    life = await read_life(ledger, present, history.results)
    known_rules = present.version == VERSION
    with answers_of_expected_form():
        return Answer(
            present=present,
            chance_ppm=None
            if reputation is None
            else chance_ppm(reputation, present.parameters.full_below_ppm, present.sample_ppm),
            history=history,
            explanation=explain(history.results, life, reputation, judge=known_rules),
            names=names_of(found, proven.stores["verifiers"].values()),
            known_rules=known_rules,
        )


def _show_table(answer: Answer, shown: Sequence[Explained]) -> None:
    node = answer.present.node
    show_pairs(
        [
            ("node", f"{node.name} {node.id.hex()}"),
            ("roles", ", ".join(node.roles)),
            ("status", node.status),
            ("reputation", share(node.reputation_ppm)),
        ]
    )
    rows = [
        [
            item.settled.epoch,
            share(item.settled.credit_ppm),
            f"{share(item.settled.before.ppm)} -> {share(item.settled.after.ppm)}",
            f"{item.settled.abnormal} of {item.settled.parameters.window_epochs}",
            ", ".join(share(score.score_ppm) for score in item.settled.scores),
            item.settled.verdict or item.settled.reason,
        ]
        for item in shown
    ]
    if rows:
        show_table(["epoch", "credit C", "reputation R", "abnormal", "scores", "why"], rows)
    show_lines([_end(answer, shown)])
    show_verified(answer.present.height)


def _show_explained(answer: Answer, shown: Sequence[Explained], differences: Sequence[str]) -> None:
    from planetserve.ledger_cli.explanation import (
        OTHER_MODEL,
        abilities,
        conviction_line,
        difference_lines,
        epoch_lines,
        thresholds,
    )

    present, now = answer.present, answer.explanation.now
    node, reputation, parameters = present.node, present.reputation, present.parameters
    serves = f", serves {node.model}" if node.model else ""
    pairs = [
        ("node", f"{node.name} {node.id.hex()}"),
        ("roles", f"{', '.join(node.roles)}{serves}"),
        ("status", node.status),
        *abilities(node, reputation, parameters, answer.chance_ppm, present.height),
    ]
    if reputation is not None:
        pairs += thresholds(reputation, parameters)
    show_pairs(pairs)
    for item in shown:
        typer.echo()
        show_lines(list(epoch_lines(item, answer.names)))
    typer.echo()
    show_lines(
        [
            *(conviction_line(item, answer.names) for item in now.convictions),
            *([OTHER_MODEL] if now.other_model else []),
            _end(answer, shown),
            _checked(answer, shown),
        ]
    )
    show_lines(difference_lines(differences))
    show_verified(answer.present.height)


def _end(answer: Answer, shown: Sequence[Explained]) -> str:
    """Why the history begins where it does."""
    from planetserve.ledger_cli.history import DROPPED, FIRST

    reputation = answer.present.reputation
    if reputation is None:
        return "nobody scores this node: only model nodes are probed"
    if reputation.last is None:
        return "no epoch has settled a score of this node yet"
    if not shown:
        return "its scores are older than what the ledger keeps"
    if len(shown) < len(answer.history.results) or answer.history.end not in (DROPPED, FIRST):
        return "there are older epochs; --epochs N shows more"
    if answer.history.end == FIRST:
        return f"epoch {shown[0].settled.epoch} is the node's first with scores"
    limit = answer.present.parameters.history_epochs
    return f"what was before epoch {shown[0].settled.epoch} is dropped: {limit} epochs are kept"


def _checked(answer: Answer, shown: Sequence[Explained]) -> str:
    if not answer.known_rules:
        return (
            "the chain follows newer rules than this program: numbers are proven as recorded, "
            "not computed again"
        )
    return f"computed again from the evidence: {plural(len(shown), 'epoch')}"


def _json(answer: Answer, shown: Sequence[Explained], *, explain: bool) -> dict[str, Any]:
    from planetserve.ledger_cli.explanation import abilities

    present, now = answer.present, answer.explanation.now
    reputation = present.reputation
    content: dict[str, Any] = {
        "height": present.height,
        "verified_height": present.height,
        "node": node_json(present.node),
        "reputation": None if reputation is None else reputation.to_wire(),
        "history": [_settled_json(answer, item, explain=explain) for item in shown],
        "history_begins": answer.history.end
        if len(shown) == len(answer.history.results)
        else "asked",
    }
    if explain:
        can = abilities(
            present.node, reputation, present.parameters, answer.chance_ppm, present.height
        )
        content |= {
            "can": {name.replace(" ", "_"): text for name, text in can},
            "chance_ppm": answer.chance_ppm,
            "parameters": present.parameters.to_wire(),
            "convictions": [asdict(item) for item in now.convictions],
            "other_model": now.other_model,
            "recomputed": answer.known_rules,
            "differences": list(answer.explanation.differences),
        }
    return content


def _settled_json(answer: Answer, item: Explained, *, explain: bool) -> dict[str, Any]:
    from planetserve.ledger_cli.explanation import cusum_formula, formula
    from planetserve.ledger_cli.lookup import name_in

    settled = item.settled
    content = asdict(settled)
    del content["parameters"]
    content |= {
        "before": settled.before.to_wire(),
        "after": settled.after.to_wire(),
        "status": settled.after.status,
        "window_epochs": settled.parameters.window_epochs,
    }
    content["scores"] = [
        {**asdict(score), "name": name_in(answer.names, score.prober)} for score in settled.scores
    ]
    if explain:
        content["explained"] = {
            "parameters": settled.parameters.to_wire(),
            "formula": formula(item),
            "cusum_formula": cusum_formula(item),
            "after": item.after.to_wire(),
            "convictions": [asdict(conviction) for conviction in item.arrival.convictions],
            "other_model": item.arrival.other_model,
            "complete": item.arrival.known,
            "differences": list(item.differences),
        }
    return content

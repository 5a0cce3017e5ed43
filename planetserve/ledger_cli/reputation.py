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
    from planetserve.ledger_cli.explain import Conviction, Explained, Explanation
    from planetserve.ledger_cli.history import History
    from planetserve.records import NodeRecord

DEFAULT_EPOCHS = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that one answer is made of, proven at `height` or after. `reputation` is the
    node's record, None for one that nobody scores; `known_rules` is whether the chain follows the
    rules that this program can apply again."""

    node: NodeRecord
    reputation: Mapping[str, Any] | None
    parameters: Mapping[str, int]
    chance_ppm: int | None
    history: History
    explanation: Explanation
    names: Mapping[bytes, str]
    known_rules: bool
    height: int


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
    differences = answer.explanation.all_differences if answer.known_rules else ()
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
    from planetserve.assignment import chance_ppm
    from planetserve.ledger_cli.explain import explain
    from planetserve.ledger_cli.history import read_convictions, read_history
    from planetserve.ledger_cli.lookup import every_node, names_of
    from planetserve.ledger_cli.nodes import find_or_follow
    from planetserve.ledger_cli.rule import VERSION
    from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY, reputation_key

    names = ["reputation", "routes", "verifiers", "waiting"]
    proven = await ledger.read([CHAIN_KEY, EPOCH_KEY], names)
    stores = proven.stores
    found = every_node(proven)
    node = await find_or_follow(ledger, found, text)
    record = stores["reputation"].get(reputation_key(node.id))
    with answers_of_expected_form():
        main, epoch = proven.records[CHAIN_KEY], proven.records[EPOCH_KEY]
        parameters = main["params"]
        last = None if record is None or record["last"] is None else tuple(record["last"])
        chance = (
            None
            if record is None
            else chance_ppm(record, parameters["full_below_ppm"], epoch["sample_ppm"])
        )
        known = names_of(found, stores["verifiers"].values())
        known_rules = main["version"] == VERSION
    window = parameters["window_epochs"]
    history = await read_history(ledger, last, proven.height, epochs, window)
    convictions: tuple[Conviction, ...] = ()
    if record is not None and record["convictions"]:
        convictions = await read_convictions(ledger, proven.height, node.id)
    with answers_of_expected_form():
        explanation = explain(
            history.results,
            convictions,
            node.id,
            record or {"convictions": 0},
            parameters,
            proven.height,
        )
    return Answer(
        node=node,
        reputation=record,
        parameters=parameters,
        chance_ppm=chance,
        history=history,
        explanation=explanation,
        names=known,
        known_rules=known_rules,
        height=proven.height,
    )


def _show_table(answer: Answer, shown: Sequence[Explained]) -> None:
    node = answer.node
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
            f"{share(item.settled.before_ppm)} -> {share(item.settled.after_ppm)}",
            f"{item.settled.abnormal} of {item.settled.parameters['window_epochs']}",
            ", ".join(share(score.score_ppm) for score in item.settled.scores),
            item.settled.verdict or item.settled.reason,
        ]
        for item in shown
    ]
    if rows:
        show_table(["epoch", "credit C", "reputation R", "abnormal", "scores", "why"], rows)
    show_lines([_end(answer, shown)])
    show_verified(answer.height)


def _show_explained(answer: Answer, shown: Sequence[Explained], differences: Sequence[str]) -> None:
    from planetserve.ledger_cli.explanation import (
        OTHER_MODEL,
        abilities,
        conviction_line,
        difference_lines,
        epoch_lines,
        thresholds,
    )

    node, record, parameters = answer.node, answer.reputation, answer.parameters
    serves = f", serves {node.model}" if node.model else ""
    pairs = [
        ("node", f"{node.name} {node.id.hex()}"),
        ("roles", f"{', '.join(node.roles)}{serves}"),
        ("status", node.status),
        *abilities(node, record, parameters, answer.chance_ppm, answer.height),
    ]
    if record is not None:
        pairs += thresholds(record, parameters)
    show_pairs(pairs)
    for item in shown:
        typer.echo()
        show_lines(list(epoch_lines(item, answer.names)))
    typer.echo()
    show_lines(
        [
            *(conviction_line(item, answer.names) for item in answer.explanation.since_last),
            *([OTHER_MODEL] if answer.explanation.other_model else []),
            _end(answer, shown),
            _checked(answer, shown),
        ]
    )
    show_lines(difference_lines(differences))
    show_verified(answer.height)


def _end(answer: Answer, shown: Sequence[Explained]) -> str:
    """Why the history begins where it does."""
    from planetserve.ledger_cli.history import DROPPED, FIRST

    if answer.reputation is None:
        return "nobody scores this node: only model nodes are probed"
    if answer.reputation["last"] is None:
        return "no epoch has settled a score of this node yet"
    if not shown:
        return "its scores are older than what the ledger keeps"
    if len(shown) < len(answer.history.results) or answer.history.end not in (DROPPED, FIRST):
        return "there are older epochs; --epochs N shows more"
    if answer.history.end == FIRST:
        return f"epoch {shown[0].settled.epoch} is the node's first with scores"
    limit = answer.parameters["history_epochs"]
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

    content: dict[str, Any] = {
        "height": answer.height,
        "verified_height": answer.height,
        "node": node_json(answer.node),
        "reputation": answer.reputation,
        "history": [_settled_json(answer, item, explain=explain) for item in shown],
        "history_begins": answer.history.end
        if len(shown) == len(answer.history.results)
        else "asked",
    }
    if explain:
        can = abilities(
            answer.node, answer.reputation, answer.parameters, answer.chance_ppm, answer.height
        )
        content |= {
            "can": {name.replace(" ", "_"): text for name, text in can},
            "chance_ppm": answer.chance_ppm,
            "parameters": dict(answer.parameters),
            "convictions": [asdict(item) for item in answer.explanation.since_last],
            "other_model": answer.explanation.other_model,
            "recomputed": answer.known_rules,
            "differences": list(answer.explanation.all_differences),
        }
    return content


def _settled_json(answer: Answer, item: Explained, *, explain: bool) -> dict[str, Any]:
    from planetserve.ledger_cli.explanation import cusum_formula, formula
    from planetserve.ledger_cli.lookup import name_in

    settled = item.settled
    content = asdict(settled)
    parameters = content.pop("parameters")
    content["window_epochs"] = parameters["window_epochs"]
    content["scores"] = [
        {**asdict(score), "name": name_in(answer.names, score.prober)} for score in settled.scores
    ]
    if explain:
        content["explained"] = {
            "parameters": dict(parameters),
            "formula": formula(item),
            "cusum_formula": cusum_formula(item),
            "window_ppm": list(item.outcome.after.window_ppm),
            "window_whole": item.outcome.after.whole,
            "after_ppm": item.outcome.after.ppm,
            "cusum_after_ppm": item.outcome.after.cusum_ppm,
            "convictions": [asdict(conviction) for conviction in item.since_before],
            "other_model": item.other_model,
            "complete": item.complete,
            "differences": list(item.differences),
        }
    return content

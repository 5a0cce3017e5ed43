"""`ps-client`: ask from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planetserve import cli
from planetserve.errors import AnswerCutShort, UsageError
from planetserve.text import printable

if TYPE_CHECKING:
    from planetserve.client import Answer

app = typer.Typer(
    help="Ask open LLMs over the overlay; nobody on the way learns both who asks and what.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def client() -> None:
    """Ask open LLMs over the overlay; nobody on the way learns both who asks and what."""


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads standard input.")],
    network: Annotated[
        Path | None, typer.Option(help="The network file; else PLANETSERVE_NETWORK or .localnet/.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, else the default.")] = None,
    system: Annotated[
        str, typer.Option(help="Tells the model how to answer; empty for the model's own way.")
    ] = "You are a helpful assistant.",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 for the likeliest words.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a sampled answer.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on standard error where it came from.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask one question and print the answer as it comes.

    Exit codes: 0 answered, 1 failed, 2 wrong use, 3 nothing to connect to, 4 proof refused,
    5 answer cut short.

    Example: ps-client ask "What is the capital of France?" --verbose
    """
    if question == "-":
        question = sys.stdin.read()
    if not question.strip():
        raise UsageError("the question is empty")
    from planetserve.client import Client

    with Client(network) as connection:
        stream = connection.stream(
            question,
            model=model,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        try:
            for piece in stream:
                if not as_json:
                    sys.stdout.write(printable(piece))
                    sys.stdout.flush()
        except AnswerCutShort:
            if not as_json:
                sys.stdout.write("\n")
            raise
        answer = stream.answer
    if as_json:
        import json

        print(json.dumps(answer.to_json()))
        return
    print()
    if verbose:
        _explain(answer)


def _explain(answer: Answer) -> None:
    usage = answer.usage
    lines = [
        f"route set   height {answer.route_height}, hash {answer.route_hash[:16]}",
        *(
            f"path {number}      {' > '.join(printable(name) for name in path)}"
            for number, path in enumerate(answer.paths, 1)
        ),
        f"answered by {printable(answer.node)} ({answer.node_id.hex()[:12]}), signature verified",
        f"tokens      {usage.prompt_tokens} asked, {usage.completion_tokens} answered",
        f"time        first token {answer.first_token_s:.2f} s, whole {answer.total_s:.2f} s",
    ]
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    cli.run(app)

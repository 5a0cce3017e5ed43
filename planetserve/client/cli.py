"""`ps-client`: ask from the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planetserve import cli
from planetserve.errors import AnswerCutShort, RequestFailed, UsageError
from planetserve.text import printable

if TYPE_CHECKING:
    from planetserve.client import Answer
    from planetserve.client.synchronous import SyncAnswerStream

app = typer.Typer(
    help="Ask open LLMs over the overlay; nobody on the way learns both who asks and what.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def client() -> None:
    """Ask open LLMs over the overlay; nobody on the way learns both who asks and what."""


NetworkOption = Annotated[
    Path | None, typer.Option(help="The network file; else PLANETSERVE_NETWORK or .localnet/.")
]
ModelOption = Annotated[str | None, typer.Option(help="The model, else the default.")]
SystemOption = Annotated[
    str, typer.Option(help="Tells the model how to answer; empty for the model's own way.")
]
TokensOption = Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")]
TemperatureOption = Annotated[float, typer.Option(help="0 for the likeliest words.")]
SeedOption = Annotated[int | None, typer.Option(help="Repeats a sampled answer.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say on standard error where it came from.")
]
CoverOption = Annotated[
    bool,
    typer.Option("--cover", help="Send traffic that answers no question, 8 KB/s and more."),
]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask; - reads standard input.")],
    network: NetworkOption = None,
    model: ModelOption = None,
    system: SystemOption = "You are a helpful assistant.",
    max_tokens: TokensOption = 256,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    verbose: VerboseOption = False,
    cover: CoverOption = False,
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
    from overlay.client import PathSettings
    from planetserve.client import Client

    with Client(network, PathSettings(keep_ahead=False), cover=cover) as connection:
        stream = connection.stream(
            question,
            model=model,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
        )
        if as_json:
            for _ in stream:
                pass
            import json

            print(json.dumps(stream.answer.to_json()), flush=True)
        else:
            _show(stream)
            if verbose:
                _explain(stream.answer)


ADVICE = (
    "note: not relaying for others, which would hide your questions among theirs; name an address "
    "that others reach with --bind HOST:PORT, or say --no-relay"
)


@app.command()
def chat(
    network: NetworkOption = None,
    model: ModelOption = None,
    system: SystemOption = "You are a helpful assistant.",
    max_tokens: TokensOption = 256,
    temperature: TemperatureOption = 0.0,
    verbose: VerboseOption = False,
    cover: CoverOption = False,
    relay: Annotated[
        bool, typer.Option(help="Relay for others meanwhile, if there is an address to bind.")
    ] = True,
    bind: Annotated[
        str, typer.Option(envvar="PLANETSERVE_BIND", help="HOST:PORT to relay for others at.")
    ] = "",
    public: Annotated[
        str,
        typer.Option(
            envvar="PLANETSERVE_PUBLIC",
            help="HOST:PORT that others reach `bind` at, if it differs.",
        ),
    ] = "",
    key: Annotated[
        Path | None,
        typer.Option(
            help="The relay's key file, made when there is none; else trusted/relay.key beside "
            "the network file."
        ),
    ] = None,
) -> None:
    """Ask questions that follow each other, one a line, until the input ends.

    They share paths, which no other question uses. An answer that fails is said, and the
    conversation goes on. With an address to bind it relays for others as long as it runs, so that
    first hops see no difference between its own questions and others'.
    """
    from overlay.relaying import RelaySettings
    from planetserve.client import Client
    from planetserve.client.relaying import key_beside
    from planetserve.network import find_network

    network = find_network(network)
    relaying = None
    if relay and bind:
        relaying = RelaySettings(bind, key or key_beside(network), public=public)
    elif relay:
        print(ADVICE, file=sys.stderr)
    with (
        Client(network, cover=cover, relay=relaying) as connection,
        connection.conversation(system) as conversation,
    ):
        if connection.exposed:
            print(f"note: {connection.exposed}", file=sys.stderr)
        for question in _lines():
            try:
                stream = conversation.stream(
                    question, model=model, max_tokens=max_tokens, temperature=temperature
                )
                _show(stream)
                if verbose:
                    _explain(stream.answer)
            except (RequestFailed, AnswerCutShort) as error:
                cli.print_error(str(error))


def _lines() -> Iterator[str]:
    """The lines of standard input that say something; a terminal is prompted for each."""
    while True:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _show(stream: SyncAnswerStream) -> None:
    """Print the answer as it comes, and a line's end however it ends."""
    try:
        for piece in stream:
            sys.stdout.write(printable(piece))
            sys.stdout.flush()
    except AnswerCutShort:
        sys.stdout.write("\n")
        raise
    sys.stdout.write("\n")
    sys.stdout.flush()


def _explain(answer: Answer) -> None:
    usage = answer.usage
    lines = [
        f"route set   height {answer.route_height}, hash {answer.route_hash[:16]}",
        *(
            f"path {number}      {' > '.join(printable(name) for name in path)}"
            for number, path in enumerate(answer.paths, 1)
        ),
        *(f"gave way    {rule}" for rule in answer.relaxed),
        f"answered by {printable(answer.node)} ({answer.node_id.hex()[:12]}), signature verified",
        f"tokens      {usage.prompt_tokens} asked, {usage.completion_tokens} answered",
        f"time        first token {answer.first_token_s:.2f} s, whole {answer.total_s:.2f} s",
    ]
    print("\n".join(lines), file=sys.stderr)


def main() -> None:
    cli.run(app)

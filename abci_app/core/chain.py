"""What every rule may need to know of its chain: its parameters and the running epoch."""

from __future__ import annotations

from dataclasses import dataclass

from abci_app.core.state import Reader, View, load
from planetserve.scoring.parameters import Parameters, parameters_from
from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY, PENDING_KEY


class GenesisError(ValueError):
    """The genesis state cannot start a chain; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The running epoch: its number from 0, its first height, the seed of its assignments, the
    share of the probers that judge a node in good standing, and the verifiers' ids and powers, in
    ascending order of their consensus keys. What verifiers vote in an epoch weighs from the next
    on: nobody can bend a judgement or a seed when its outcome is known."""

    number: int
    start: int
    seed: bytes
    sample_ppm: int
    powers: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """What every rule may need to know of its chain; `version` counts the upgrades of the rules,
    from 1."""

    chain_id: str
    version: int
    parameters: Parameters
    epoch: Epoch


def load_chain(reader: Reader) -> Chain:
    """Raises `LookupError` before genesis."""
    record, epoch = load(reader, CHAIN_KEY), load(reader, EPOCH_KEY)
    if record is None or epoch is None:
        raise LookupError("the state has no genesis")
    return Chain(
        record["chain_id"],
        record["version"],
        Parameters(**record["params"]),
        Epoch(
            epoch["epoch"],
            epoch["start"],
            epoch["seed"],
            epoch["sample_ppm"],
            tuple((verifier, power) for verifier, power in epoch["powers"]),
        ),
    )


def save_chain(view: View, chain: Chain) -> None:
    view.save(
        CHAIN_KEY,
        {
            "chain_id": chain.chain_id,
            "version": chain.version,
            "params": chain.parameters.to_wire(),
        },
    )
    view.save(
        EPOCH_KEY,
        {
            "epoch": chain.epoch.number,
            "start": chain.epoch.start,
            "seed": chain.epoch.seed,
            "sample_ppm": chain.epoch.sample_ppm,
            "powers": [list(item) for item in chain.epoch.powers],
        },
    )


def parameters_of_next_epoch(view: View, parameters: Parameters) -> Parameters:
    """Take over the changes that verifiers have voted since the last epoch."""
    pending = load(view, PENDING_KEY)
    if pending is None:
        return parameters
    view.delete(PENDING_KEY)
    return parameters_from({**parameters.to_wire(), **pending})

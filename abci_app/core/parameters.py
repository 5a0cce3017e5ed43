"""The network's parameters: fixed at genesis, kept in state, the same for every validator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from abci_app.core.fixedpoint import ONE_PPM
from abci_app.core.state import CHAIN_KEY, Reader, load


class GenesisError(ValueError):
    """The genesis state cannot start a chain; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Heights count blocks; `_ppm` are millionths.

    The reputation rule and its constants are the paper's (section 4): `smoothing_ppm` is the
    weight of the old reputation, `abnormal_below_ppm` its tau, `window_epochs` its W,
    `tolerance_ppm` its gamma.
    """

    epoch_blocks: int = 25
    commit_blocks: int = 15
    quorum_ppm: int = 666_667
    initial_reputation_ppm: int = 500_000
    smoothing_ppm: int = 400_000
    abnormal_below_ppm: int = 400_000
    window_epochs: int = 5
    tolerance_ppm: int = 200_000
    untrusted_below_ppm: int = 300_000
    max_commits_per_epoch: int = 1_000
    max_endorsements_per_epoch: int = 100
    max_credential_blocks: int = 10_000_000
    max_candidates: int = 1_000
    candidate_blocks: int = 100_000

    def to_wire(self) -> dict[str, int]:
        return asdict(self)


LIMITS: dict[str, tuple[int, int]] = {
    "epoch_blocks": (3, 1_000_000),
    "commit_blocks": (1, 1_000_000),
    "quorum_ppm": (ONE_PPM // 2, ONE_PPM),
    "initial_reputation_ppm": (0, ONE_PPM),
    "smoothing_ppm": (0, ONE_PPM),
    "abnormal_below_ppm": (0, ONE_PPM),
    "window_epochs": (1, 1_000),
    "tolerance_ppm": (1, ONE_PPM),
    "untrusted_below_ppm": (0, ONE_PPM),
    "max_commits_per_epoch": (1, 1_000_000),
    "max_endorsements_per_epoch": (1, 1_000_000),
    "max_credential_blocks": (1, 1_000_000_000),
    "max_candidates": (1, 1_000_000),
    "candidate_blocks": (1, 1_000_000_000),
}


def parameters_from(values: Mapping[str, Any]) -> Parameters:
    """Parameters of a genesis document; what it leaves out has its default.

    Raises `GenesisError` for an unknown name, a wrong type or a value out of range.
    """
    known = {field.name for field in fields(Parameters)}
    for name, value in values.items():
        if name not in known:
            raise GenesisError(f"no parameter is called {name!r}")
        low, high = LIMITS[name]
        if type(value) is not int or not low <= value <= high:
            raise GenesisError(f"parameter {name} must be an integer from {low} to {high}")
    parameters = Parameters(**values)
    if parameters.commit_blocks > parameters.epoch_blocks - 2:
        raise GenesisError("commit_blocks must leave two blocks of an epoch to reveal and settle")
    return parameters


@dataclass(frozen=True, slots=True)
class Chain:
    """What every rule may need to know of its chain."""

    chain_id: str
    parameters: Parameters


def load_chain(reader: Reader) -> Chain:
    """Raises `LookupError` before genesis."""
    record = load(reader, CHAIN_KEY)
    if record is None:
        raise LookupError("the state has no genesis")
    return Chain(record["chain_id"], Parameters(**record["params"]))

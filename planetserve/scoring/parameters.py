"""The network's parameters: what verifiers may change by vote, and within which limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from planetserve.fixedpoint import ONE_PPM


class InvalidParameters(ValueError):
    """Parameters with which no chain can run; the message says which is wrong."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """Heights count blocks; `_ppm` are millionths.

    The reputation rule and its constants are the paper's (section 4): `smoothing_ppm` is the
    weight of the old reputation, `abnormal_below_ppm` its tau, `window_epochs` its W,
    `tolerance_ppm` its gamma. `cusum_*` are the reference value, the allowance and the limit of a
    CUSUM beside it. `untrusted_below_ppm` to `probation_epochs` are when a node loses trust and
    regains it; `admission_*` what a model node's first probes must show.

    `probers_per_node` is how many probers are drawn for a node in good standing; below
    `full_below_ppm` all of them judge it, as they do for `alarm_epochs` after a bad credit. A
    prober whose scores lie further than `distance_ppm` from the median loses trust.
    `max_credentials` is how many are kept at a time, shared by the verifiers.
    """

    epoch_blocks: int = 25
    commit_blocks: int = 15
    quorum_ppm: int = 666_667
    initial_reputation_ppm: int = 500_000
    smoothing_ppm: int = 400_000
    abnormal_below_ppm: int = 400_000
    window_epochs: int = 5
    tolerance_ppm: int = 200_000
    cusum_reference_ppm: int = 500_000
    cusum_allowance_ppm: int = 50_000
    cusum_limit_ppm: int = 1_000_000
    untrusted_below_ppm: int = 300_000
    trusted_from_ppm: int = 500_000
    probation_epochs: int = 5
    admission_ppm: int = 500_000
    admission_epochs: int = 1
    probers_per_node: int = 8
    full_below_ppm: int = 600_000
    alarm_epochs: int = 8
    distance_ppm: int = 250_000
    trust_loss_ppm: int = 200_000
    trust_gain_ppm: int = 50_000
    history_epochs: int = 1_000
    max_commits_per_epoch: int = 1_000
    max_endorsements_per_epoch: int = 100
    max_credentials: int = 25_000
    max_credential_blocks: int = 10_000_000
    max_candidates: int = 1_000
    candidate_blocks: int = 10_000
    max_models_per_verifier: int = 100
    max_open_proposals: int = 8
    voting_blocks: int = 10_000

    def to_wire(self) -> dict[str, int]:
        return asdict(self)


LIMITS: dict[str, tuple[int, int]] = {
    "epoch_blocks": (3, 1_000_000),
    "commit_blocks": (1, 1_000_000),
    "quorum_ppm": (666_667, ONE_PPM),
    "initial_reputation_ppm": (0, ONE_PPM),
    "smoothing_ppm": (0, ONE_PPM),
    "abnormal_below_ppm": (0, ONE_PPM),
    "window_epochs": (1, 1_000),
    "tolerance_ppm": (1, ONE_PPM),
    "cusum_reference_ppm": (0, ONE_PPM),
    "cusum_allowance_ppm": (1, ONE_PPM),
    "cusum_limit_ppm": (ONE_PPM // 10, 1_000 * ONE_PPM),
    "untrusted_below_ppm": (0, 9 * ONE_PPM // 10),
    "trusted_from_ppm": (0, ONE_PPM),
    "probation_epochs": (1, 1_000),
    "admission_ppm": (0, ONE_PPM),
    "admission_epochs": (1, 1_000),
    "probers_per_node": (1, 1_000),
    "full_below_ppm": (0, ONE_PPM),
    "alarm_epochs": (1, 1_000),
    "distance_ppm": (1, ONE_PPM),
    "trust_loss_ppm": (0, ONE_PPM),
    "trust_gain_ppm": (0, ONE_PPM),
    "history_epochs": (1, 1_000_000),
    "max_commits_per_epoch": (1, 1_000_000),
    "max_endorsements_per_epoch": (1, 1_000_000),
    "max_credentials": (1, 25_000),
    "max_credential_blocks": (1, 1_000_000_000),
    "max_candidates": (1, 1_000_000),
    "candidate_blocks": (1, 1_000_000_000),
    "max_models_per_verifier": (1, 10_000),
    "max_open_proposals": (1, 100),
    "voting_blocks": (3, 10_000_000),
}


def parameters_from(values: Mapping[str, Any]) -> Parameters:
    """Checked parameters; what `values` leaves out has its default.

    Raises `InvalidParameters` for an unknown name, a wrong type or a value out of range.
    """
    known = {field.name for field in fields(Parameters)}
    for name, value in values.items():
        if name not in known:
            raise InvalidParameters(f"no parameter is called {name!r}")
        low, high = LIMITS[name]
        if type(value) is not int or not low <= value <= high:
            raise InvalidParameters(f"parameter {name} must be an integer from {low} to {high}")
    parameters = Parameters(**values)
    reveal_blocks = parameters.epoch_blocks - parameters.commit_blocks - 1
    if reveal_blocks < max(1, parameters.epoch_blocks // 8):
        raise InvalidParameters(
            "commit_blocks must leave an eighth of an epoch to reveal, and its last block to settle"
        )
    if parameters.trusted_from_ppm < parameters.untrusted_below_ppm:
        raise InvalidParameters("trusted_from_ppm must not lie below untrusted_below_ppm")
    return parameters

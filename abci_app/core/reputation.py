"""The paper's reputation rule (section 4) in millionths."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from abci_app.core.fixedpoint import ONE_PPM, clamp_ppm, floor_ratio
from abci_app.core.parameters import Parameters
from abci_app.core.state import Reader, View, load, reputation_key

KEPT = "no quorum: reputation kept"
SMOOTHED = "smoothed with this epoch's credit"
PUNISHED = "punished: too many abnormal epochs in the window"
REASONS = (KEPT, SMOOTHED, PUNISHED)


@dataclass(frozen=True, slots=True)
class Reputation:
    """`ppm` is R; `window_ppm` are the credits C of the node's last settled epochs, oldest
    first."""

    ppm: int
    window_ppm: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """One application of the rule: the reputation after it, how many of the window's epochs
    were abnormal, and which of `REASONS` says what happened."""

    reputation: Reputation
    abnormal: int
    reason: str


def initial_reputation(parameters: Parameters) -> Reputation:
    return Reputation(parameters.initial_reputation_ppm)


def is_trusted(reputation: Reputation, parameters: Parameters) -> bool:
    return reputation.ppm >= parameters.untrusted_below_ppm


def updated(reputation: Reputation, credit_ppm: int, parameters: Parameters) -> Update:
    """Apply the credit C of one settled epoch.

    With c epochs below tau among the last W: the epoch is punished when c / W > gamma, strictly.
    """
    window = (*reputation.window_ppm, credit_ppm)[-parameters.window_epochs :]
    abnormal = sum(credit < parameters.abnormal_below_ppm for credit in window)
    if abnormal * ONE_PPM > parameters.tolerance_ppm * parameters.window_epochs:
        ppm = punished_ppm(reputation.ppm, credit_ppm, abnormal, parameters)
        reason = PUNISHED
    else:
        ppm = smoothed_ppm(reputation.ppm, credit_ppm, parameters)
        reason = SMOOTHED
    return Update(Reputation(ppm, window), abnormal, reason)


def smoothed_ppm(old_ppm: int, credit_ppm: int, parameters: Parameters) -> int:
    """a R + (1 - a) C."""
    smoothing = parameters.smoothing_ppm
    weighted = smoothing * old_ppm + (ONE_PPM - smoothing) * credit_ppm
    return clamp_ppm(floor_ratio(weighted, ONE_PPM))


def punished_ppm(old_ppm: int, credit_ppm: int, abnormal: int, parameters: Parameters) -> int:
    """a R + C (W + 1) / (W + c / gamma + 2)."""
    window, gamma = parameters.window_epochs, parameters.tolerance_ppm
    # The second denominator times gamma is whole, which keeps the sum exact until it is rounded.
    scaled = (window + 2) * gamma + abnormal * ONE_PPM
    kept = parameters.smoothing_ppm * old_ppm * scaled
    earned = ONE_PPM * credit_ppm * (window + 1) * gamma
    return clamp_ppm(floor_ratio(kept + earned, ONE_PPM * scaled))


def load_reputation(reader: Reader, node: bytes) -> Reputation | None:
    record = load(reader, reputation_key(node))
    return None if record is None else Reputation(record["ppm"], tuple(record["window_ppm"]))


def save_reputation(view: View, node: bytes, reputation: Reputation) -> None:
    view.save(reputation_key(node), asdict(reputation))

"""What each verifier has done in the running epoch, so that caps need no counting of records."""

from __future__ import annotations

from dataclasses import dataclass

from abci_app.core.state import Reader, View, load
from planetserve.statekeys import quota_key


@dataclass(frozen=True, slots=True)
class Quota:
    """`proof` is the prober's VRF proof for the epoch, empty until its first reveal."""

    commits: int = 0
    reveals: int = 0
    endorsements: int = 0
    proof: bytes = b""


def load_quota(reader: Reader, verifier: bytes) -> Quota:
    record = load(reader, quota_key(verifier))
    return Quota() if record is None else Quota(**record)


def save_quota(view: View, verifier: bytes, quota: Quota) -> None:
    view.save_ordered(
        quota_key(verifier),
        {
            "commits": quota.commits,
            "endorsements": quota.endorsements,
            "proof": quota.proof,
            "reveals": quota.reveals,
        },
    )

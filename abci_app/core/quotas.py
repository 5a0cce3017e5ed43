"""What each verifier has done in an epoch, so that caps need no counting of records."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from abci_app.core.state import Reader, View, load, quota_key


@dataclass(frozen=True, slots=True)
class Quota:
    commits: int = 0
    reveals: int = 0
    endorsements: int = 0


def load_quota(reader: Reader, epoch: int, verifier: bytes) -> Quota:
    record = load(reader, quota_key(epoch, verifier))
    return Quota() if record is None else Quota(**record)


def save_quota(view: View, epoch: int, verifier: bytes, quota: Quota) -> None:
    view.save(quota_key(epoch, verifier), asdict(quota))

"""Validators that signed two things at once, as CometBFT reports them with a block.

The signatures are proof, so the rule is the hardest: the verifier leaves the set. Where so much
power cannot leave at once (`abci_app.core.changes`), it keeps half and the verifiers vote on the
rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from abci_app.core.changes import check_power, remove
from abci_app.core.codes import Rejected
from abci_app.core.state import View
from abci_app.core.verifiers import Verifier, all_verifiers, save_verifier
from planetserve.scoring.parameters import Parameters

ADDRESS_BYTES = 20


def punish(
    view: View, parameters: Parameters, addresses: Sequence[bytes], height: int
) -> list[Verifier]:
    """Take those of the addresses out who are verifiers still; who they were."""
    caught = []
    for verifier in all_verifiers(view) if addresses else ():
        if address_of(verifier) not in addresses:
            continue
        caught.append(verifier)
        others = [other.power for other in all_verifiers(view) if other.id != verifier.id]
        try:
            check_power(others, verifier.power, 0)
        except Rejected:
            half = max(1, verifier.power // 2)
            save_verifier(view, replace(verifier, power=half, voted_power=half))
        else:
            remove(view, parameters, verifier, height)
    return caught


def address_of(verifier: Verifier) -> bytes:
    """How CometBFT names a validator."""
    return hashlib.sha256(verifier.consensus_key).digest()[:ADDRESS_BYTES]

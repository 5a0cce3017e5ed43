"""How scores become a credit and a credit a reputation: the ledger's rule, and its readers'.

The state machine applies it (`abci_app.core.settlement`); whoever reads a proven result can apply
it again to the evidence that the result holds (`ps-ledger reputation`). docs/protocol.md states it
under "Reputation", docs/adr/0008-one-rule-for-ledger-and-readers.md says why it stands here.

Integers only, in millionths, rounded down once a formula.
"""

from __future__ import annotations

VERSION = 1
"""Of the rules that this package holds; see `planetserve.records.ChainStatus.version`."""

"""Commit and reveal: probers bind themselves to scores before any of them is seen.

A commitment is bound to the chain, the prober and the score, so a copied one cannot be opened by
the copier. Reveals are taken when commits no longer are, until the block before the epoch's last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.nodes import load_node
from abci_app.core.quotas import load_quota, save_quota
from abci_app.core.reputation import load_reputation
from abci_app.core.state import View, commit_key, reveal_key
from abci_app.core.verifiers import require_verifier
from planetserve.transactions import score_commitment

COMMIT_FIELDS = frozenset({"epoch", "commitment"})
REVEAL_FIELDS = frozenset({"epoch", "node", "score_ppm", "samples", "digest", "salt"})
DIGEST_BYTES = 32
MAX_SAMPLES = 1_000_000


@dataclass(frozen=True, slots=True)
class Reveal:
    """An opened commitment: the credit that one prober gives a node, over how many replies, and
    the digest of their transcripts."""

    score_ppm: int
    samples: int
    digest: bytes


def commit(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Bind the sender to one score of the current epoch."""
    fields.exact(data, COMMIT_FIELDS)
    epoch = fields.integer(data, "epoch")
    commitment = fields.octets(data, "commitment", DIGEST_BYTES)
    prober = require_verifier(view, context.sender)
    _require_window(context, epoch, context.window.start, context.window.commit_end)
    quota = load_quota(view, epoch, prober.id)
    if quota.commits >= context.parameters.max_commits_per_epoch:
        raise Rejected(Code.COMMIT_LIMIT)
    key = commit_key(epoch, prober.id, commitment)
    if view.get(key) is not None:
        raise Rejected(Code.ALREADY_COMMITTED)
    view.save(key, context.height)
    save_quota(view, epoch, prober.id, replace(quota, commits=quota.commits + 1))


def reveal(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Open one commitment of the sender. A node that has ever served a model can be scored, so
    dropping the role for a while hides nothing."""
    fields.exact(data, REVEAL_FIELDS)
    epoch, node = fields.integer(data, "epoch"), fields.node(data)
    opened = Reveal(
        score_ppm=fields.score(data),
        samples=fields.integer(data, "samples", 1, MAX_SAMPLES),
        digest=fields.octets(data, "digest", DIGEST_BYTES),
    )
    fields.octets(data, "salt", 32)
    prober = require_verifier(view, context.sender)
    _require_window(context, epoch, context.window.commit_end, context.window.reveal_end)
    if load_node(view, node) is None:
        raise Rejected(Code.UNKNOWN_NODE)
    if load_reputation(view, node) is None:
        raise Rejected(Code.ROLE_NOT_ANNOUNCED, "the node has never served a model")
    commitment = score_commitment(context.chain.chain_id, context.key, data)
    if view.get(commit_key(epoch, prober.id, commitment)) is None:
        raise Rejected(Code.NO_COMMITMENT)
    key = reveal_key(epoch, node, prober.id)
    if view.get(key) is not None:
        raise Rejected(Code.ALREADY_REVEALED)
    view.save(key, asdict(opened))
    quota = load_quota(view, epoch, prober.id)
    save_quota(view, epoch, prober.id, replace(quota, reveals=quota.reveals + 1))


def _require_window(context: Context, epoch: int, start: int, end: int) -> None:
    if epoch != context.epoch:
        raise Rejected(Code.WRONG_EPOCH, f"epoch {context.epoch} is running")
    if not start <= context.height < end:
        raise Rejected(Code.WINDOW_CLOSED, f"open from height {start} to {end - 1}")

"""Commit and reveal: probers bind themselves to scores before any of them is seen.

A commitment names its node, so a prober has one a node and cannot choose among several; it is
bound to the chain, the prober and the score, so a copied one cannot be opened by the copier.
Reveals are taken when commits no longer are, until the block before the epoch's last. A reveal
shows the prober's ticket too: only an assigned prober's score counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.quotas import Quota, load_quota, save_quota
from abci_app.core.reputation import load_reputation
from abci_app.core.state import View, load
from abci_app.core.verifiers import Verifier, require_verifier
from planetserve import vrf
from planetserve.assignment import is_assigned, ticket_input
from planetserve.scoring.judgement import chance_ppm
from planetserve.statekeys import commit_key, node_key, reputation_key, reveal_key
from planetserve.transactions import COMMIT, score_commitment

COMMIT_FIELDS = frozenset({"epoch", "node", "commitment"})
REVEAL_FIELDS = frozenset({"epoch", "node", "score_ppm", "samples", "digest", "salt", "proof"})
DIGEST_BYTES = 32
MAX_SAMPLES = 1_000_000

verified_output = lru_cache(maxsize=512)(vrf.verify)
"""`vrf.verify`, remembered: each of a prober's reveals brings the same proof."""


def check_duty(context: Context, kind: str, data: Mapping[str, Any]) -> None:
    """What can be said of a commitment or a reveal without the state: whether its fields are
    right and its part of the epoch runs. Raises `Rejected`."""
    if kind == COMMIT:
        epoch, _, _ = _read_commit(data)
        _require_commits(context, epoch)
    else:
        epoch, *_ = _read_reveal(data)
        _require_reveals(context, epoch)


def commit(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Bind the sender to one score of a node in the running epoch."""
    epoch, node, commitment = _read_commit(data)
    prober = require_verifier(view, context.sender)
    _require_commits(context, epoch)
    if prober.benched >= epoch:
        raise Rejected(Code.BENCHED)
    _require_scored(view, node)
    quota = load_quota(view, prober.id)
    if quota.commits >= context.parameters.max_commits_per_epoch:
        raise Rejected(Code.COMMIT_LIMIT)
    key = commit_key(prober.id, node)
    if view.get(key) is not None:
        raise Rejected(Code.ALREADY_COMMITTED)
    view.save_ordered(key, {"commitment": commitment, "height": context.height})
    save_quota(view, prober.id, replace(quota, commits=quota.commits + 1))


def reveal(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Open one commitment of the sender. A node that has ever served a model can be scored, so
    dropping the role for a while hides nothing. One that was forgotten meanwhile has no record of
    conduct to add to, but an open commitment is a fault, which no node may bring on its probers."""
    epoch, node, score_ppm, samples, digest, proof = _read_reveal(data)
    prober = require_verifier(view, context.sender)
    _require_reveals(context, epoch)
    committed = load(view, commit_key(prober.id, node))
    commitment = score_commitment(context.chain.chain_id, context.key, data)
    if committed is None or committed["commitment"] != commitment:
        raise Rejected(Code.NO_COMMITMENT)
    key = reveal_key(node, prober.id)
    if view.get(key) is not None:
        raise Rejected(Code.ALREADY_REVEALED)
    quota = load_quota(view, prober.id)
    output = _ticket(context, prober, quota, proof)
    if not _is_drawn(view, context, node, output):
        raise Rejected(Code.NOT_ASSIGNED)
    view.save_ordered(key, [score_ppm, samples, digest])
    save_quota(view, prober.id, replace(quota, reveals=quota.reveals + 1, proof=proof))


def _ticket(context: Context, prober: Verifier, quota: Quota, proof: bytes) -> bytes:
    """The prober's VRF output for the epoch."""
    if quota.proof and quota.proof != proof:
        raise Rejected(Code.BAD_VRF_PROOF, "an epoch's reveals carry one and the same proof")
    epoch = context.chain.epoch
    alpha = ticket_input(context.chain.chain_id, epoch.number, epoch.seed)
    try:
        return verified_output(prober.key, alpha, proof)
    except vrf.VrfError:
        raise Rejected(Code.BAD_VRF_PROOF) from None


def _is_drawn(view: View, context: Context, node: bytes, output: bytes) -> bool:
    """Whether a prober's ticket assigns the node to it."""
    reputation = load_reputation(view, node)
    if reputation is None:
        return True
    full_below_ppm = context.parameters.full_below_ppm
    chance = chance_ppm(reputation, full_below_ppm, context.chain.epoch.sample_ppm)
    return is_assigned(output, node, chance)


def _require_scored(view: View, node: bytes) -> None:
    """Whether a node can be scored."""
    if view.get(node_key(node)) is None:
        raise Rejected(Code.UNKNOWN_NODE)
    if view.get(reputation_key(node)) is None:
        raise Rejected(Code.ROLE_NOT_ANNOUNCED, "the node has never served a model")


def _read_commit(data: Mapping[str, Any]) -> tuple[int, bytes, bytes]:
    """Epoch, node and commitment."""
    fields.exact(data, COMMIT_FIELDS)
    epoch, node = fields.integer(data, "epoch"), fields.node(data)
    return epoch, node, fields.octets(data, "commitment", DIGEST_BYTES)


def _read_reveal(data: Mapping[str, Any]) -> tuple[int, bytes, int, int, bytes, bytes]:
    """Epoch, node, score, samples, digest and proof."""
    fields.exact(data, REVEAL_FIELDS)
    epoch, node = fields.integer(data, "epoch"), fields.node(data)
    score_ppm = fields.score(data)
    samples = fields.integer(data, "samples", 1, MAX_SAMPLES)
    digest = fields.octets(data, "digest", DIGEST_BYTES)
    fields.octets(data, "salt", 32)
    return epoch, node, score_ppm, samples, digest, fields.octets(data, "proof", vrf.PROOF_BYTES)


def _require_commits(context: Context, epoch: int) -> None:
    window = context.window
    _require_window(context, epoch, window.start, window.commit_end)


def _require_reveals(context: Context, epoch: int) -> None:
    window = context.window
    _require_window(context, epoch, window.commit_end, window.reveal_end)


def _require_window(context: Context, epoch: int, start: int, end: int) -> None:
    if epoch != context.epoch:
        raise Rejected(Code.WRONG_EPOCH, f"epoch {context.epoch} is running")
    if not start <= context.height < end:
        raise Rejected(Code.WINDOW_CLOSED, f"open from height {start} to {end - 1}")

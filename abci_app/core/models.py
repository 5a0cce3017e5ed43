"""Models: the names that nodes may claim to serve, each with its reference settings.

A verifier registers a model once and for all. What the name means never changes, for replies that
nodes have signed are judged by it (`planetserve.evidence`); other weights, another quantization
or another build of the engine are another name. The data of a transaction:

    model  {"name": TEXT, "weights_digest": 32 bytes, "quantization": TEXT,
            "context_tokens": INTEGER, "deterministic": BOOL}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.state import Reader, View, load, records
from abci_app.core.verifiers import require_verifier
from planetserve.statekeys import model_key

MODEL_FIELDS = frozenset(
    {"name", "weights_digest", "quantization", "context_tokens", "deterministic"}
)
MAX_QUANTIZATION_CHARACTERS = 32
MAX_CONTEXT_TOKENS = 1 << 30


@dataclass(frozen=True, slots=True)
class Model:
    """`weights_digest` is the SHA-256 of the weights' file, `quantization` its word for their
    precision ("Q8_0", "bf16"), `context_tokens` the longest prompt and reply together.

    `deterministic` says that with the reference settings replies at temperature 0 are
    reproducible to the byte, on every machine and under every load: one request at a time or
    kernels that do not depend on the batch, and no cached prompts that change a sum. A node that
    gives two answers to one such request can lose its reputation over it.

    `registered` is a height, `by` the id of the verifier, 20 zero bytes for genesis or a vote.
    """

    name: str
    weights_digest: bytes
    quantization: str
    context_tokens: int
    deterministic: bool
    registered: int
    by: bytes


def model_from_data(data: Mapping[str, Any], *, registered: int, by: bytes) -> Model:
    """The model that a transaction or a genesis entry describes. Raises `Rejected`."""
    fields.exact(data, MODEL_FIELDS)
    deterministic = data["deterministic"]
    if type(deterministic) is not bool:
        raise Rejected(Code.INVALID_FIELD, "deterministic is true or false")
    return Model(
        name=fields.text(data, "name", 1, fields.MAX_MODEL_CHARACTERS),
        weights_digest=fields.octets(data, "weights_digest", 32),
        quantization=fields.text(data, "quantization", 1, MAX_QUANTIZATION_CHARACTERS),
        context_tokens=fields.integer(data, "context_tokens", 1, MAX_CONTEXT_TOKENS),
        deterministic=deterministic,
        registered=registered,
        by=by,
    )


def register_model(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Add a model under a name that is not taken. The number that one verifier may ever add is
    capped; its former keys count as it."""
    model = model_from_data(data, registered=context.height, by=bytes(context.sender))
    verifier = require_verifier(view, context.sender)
    if model.deterministic:
        # Nodes can be convicted over it, so that one verifier's word is not enough.
        raise Rejected(Code.INVALID_FIELD, "a deterministic model takes a vote")
    if load_model(view, model.name) is not None:
        raise Rejected(Code.MODEL_EXISTS)
    own = {verifier.id, *verifier.former}
    limit = context.parameters.max_models_per_verifier
    if sum(known.by in own for known in all_models(view)) >= limit:
        raise Rejected(Code.MODEL_LIMIT, f"{limit} are allowed")
    save_model(view, model)


def load_model(reader: Reader, name: str) -> Model | None:
    record = load(reader, model_key(name))
    return None if record is None else Model(**record)


def save_model(view: View, model: Model) -> None:
    view.save(model_key(model.name), asdict(model))


def all_models(reader: Reader) -> list[Model]:
    """In ascending order of their names."""
    return [Model(**record) for _, record in records(reader, b"models/")]

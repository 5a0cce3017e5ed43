"""What signed replies prove against the node that signed them, judged by values alone.

A serving node signs a `planetserve.messages.ReplyStatement` of each reply. Whoever holds a
request and what a node signed over it can show it to the ledger; every validator judges it here
and comes to the same end: no float, clock or engine is involved. Two kinds of evidence count.

conflict
    Two statements over one request that leaves nothing to chance, with different texts or finish
    reasons. It must ask for temperature 0 and for a model that the ledger calls deterministic.

forbidden
    One statement that its request or the claimed model's record rules out: another model than
    the request asked for, more completion tokens than it allowed, a finish reason that the
    protocol does not have, or more tokens than fit into the model's context.

An honest node must be out of reach of every collector of its replies. What could frame one, and
why it does not:

- Replays. A statement names its chain and the digest of the request's bytes, so that it serves
  against nothing else; the same statement twice, or two that differ only in how many tokens were
  cached, is no conflict. A chain id names one genesis: a chain that starts anew needs a new one.
- Retries and lost connections. A reply that was cancelled, failed or cut short is not signed. A
  client that asks again, of the same node or of another, gets a statement of the same text where
  the model is deterministic, and conflicts count between statements of one key only.
- Entry nodes. They may change a request before they pass it on. Then the serving node signs the
  digest of what it was given, and evidence is judged against those bytes.
- Chance. Sampling, batching and cached prompts change the text that an engine gives at
  temperature 0, and so does another build of it. `deterministic` is for models whose registered
  settings exclude all of that. A name is registered once and never changes its meaning.
- Requests that two readers understand differently. A body that names a field twice, nests deep or
  gives a number in an unusual form is not judged. Where it gives two limits of tokens the larger
  one counts; where it gives none, or 0, no number of tokens is too many, and where it gives no
  temperature no two replies conflict.
- Names. A request for a name that the ledger does not know asks for some operator's alias, and
  which model that is only he can say.
- Counting. Engines may sample one token that never enters the context, so one more than the
  context holds is allowed. A serving node applies `breach_of` before it signs, and fails a reply
  of an engine that overran rather than vouch for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from planetserve.chat import is_unicode
from planetserve.errors import RemoteProtocolError
from planetserve.messages import (
    FINISH_REASONS,
    ReplyStatement,
    decode_statement,
    verify_statement,
)

CONFLICT = "conflict"
FORBIDDEN = "forbidden"
KINDS = (CONFLICT, FORBIDDEN)
STATEMENTS = {CONFLICT: 2, FORBIDDEN: 1}
"""How many statements each kind consists of."""

MAX_REQUEST_BYTES = 13 << 10
"""Leaves room in a transaction for two statements and their signatures."""

MAX_NESTING = 32
MAX_DIGITS = 18
ZERO = re.compile(r"0\.0+")
QUOTED_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
"""A quoted text, its end missing or not, or a bracket outside of such."""

OTHER_MODEL = "the reply is of another model than was asked for"
TOO_MANY_TOKENS = "the reply has more tokens than the request allowed"
UNKNOWN_FINISH = "the reply ended for a reason that the protocol does not have"
CONTEXT_EXCEEDED = "the prompt and the reply do not fit into the model's context"
TWO_ANSWERS = "a deterministic model gave two answers to one request"


class NotEvidence(RemoteProtocolError):
    """What was shown proves nothing. The message is one of a fixed set, the same everywhere."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the ledger's record of a model promises."""

    context_tokens: int
    deterministic: bool


TermsOf = Callable[[str], "Terms | None"]
"""The terms of a model by its name; None where the ledger knows none."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request settles about its reply. `max_tokens` is None where it sets no limit;
    `greedy` is true where it asks for temperature 0."""

    model: str
    max_tokens: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """An encoded `ReplyStatement` and the 64-byte signature over it."""

    statement: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Judgement:
    """Misconduct that was shown: over which request (SHA-256), of which claimed model, and what
    it consists of."""

    request: bytes
    model: str
    breach: str


def judge(
    chain_id: str,
    key: bytes,
    kind: str,
    request: bytes,
    statements: Sequence[SignedStatement],
    terms_of: TermsOf,
) -> Judgement:
    """Judge evidence against the node that signs with `key`; `request` is the body that was
    asked with. Raises `NotEvidence` when misconduct does not follow from it."""
    if STATEMENTS.get(kind) != len(statements):
        raise NotEvidence("a conflict is two statements, a forbidden reply one")
    if len(request) > MAX_REQUEST_BYTES:
        raise NotEvidence(f"a request of more than {MAX_REQUEST_BYTES} bytes is not judged")
    digest = hashlib.sha256(request).digest()
    signed = [_authentic(chain_id, key, digest, item) for item in statements]
    asked = read_request(request)
    if kind == CONFLICT:
        return _judge_conflict(asked, signed[0], signed[1], terms_of)
    (statement,) = signed
    if terms_of(asked.model) is None:
        raise NotEvidence("the request is for a model that the ledger does not know")
    breach = breach_of(asked, statement, terms_of(statement.model))
    if breach is None:
        raise NotEvidence("nothing forbids this reply")
    return Judgement(digest, statement.model, breach)


def breach_of(asked: Asked, statement: ReplyStatement, terms: Terms | None) -> str | None:
    """What forbids a reply with this statement, None where nothing does. `terms` are those of the
    statement's model, None where they are not known."""
    usage = statement.usage
    if statement.model != asked.model:
        return OTHER_MODEL
    if asked.max_tokens is not None and usage.completion_tokens > asked.max_tokens:
        return TOO_MANY_TOKENS
    if statement.finish_reason not in FINISH_REASONS:
        return UNKNOWN_FINISH
    if terms is not None:
        tokens = usage.prompt_tokens + usage.completion_tokens
        if tokens > terms.context_tokens + 1:
            return CONTEXT_EXCEEDED
    return None


def read_request(body: bytes) -> Asked:
    """What the JSON of a chat request (see `planetserve.chat`) settles, read without floats and
    without anything that differs between interpreters. Raises `NotEvidence` for a body that two
    readers might understand differently."""
    if _nests_too_deep(body):
        raise NotEvidence("the request nests too deep to be judged")
    try:
        fields = json.loads(
            body.decode(),
            object_pairs_hook=_without_duplicates,
            parse_int=_integer,
            parse_float=_Fraction,
            parse_constant=_refuse_constant,
        )
    except ValueError:
        raise NotEvidence("the request cannot be read in one way only") from None
    model = fields.get("model") if isinstance(fields, dict) else None
    if not isinstance(model, str) or not is_unicode(model):
        raise NotEvidence("the request names no model")
    return Asked(model, _max_tokens(fields), _is_zero(fields.get("temperature")))


def _judge_conflict(
    asked: Asked, first: ReplyStatement, second: ReplyStatement, terms_of: TermsOf
) -> Judgement:
    if not first.model == second.model == asked.model:
        raise NotEvidence("a conflict is between replies of the model that was asked for")
    terms = terms_of(asked.model)
    if terms is None or not terms.deterministic:
        raise NotEvidence("the ledger does not call the model deterministic")
    if not asked.greedy:
        raise NotEvidence("the request does not ask for temperature 0")
    if (first.text, first.finish_reason) == (second.text, second.finish_reason):
        raise NotEvidence("the two replies are the same")
    return Judgement(first.request, asked.model, TWO_ANSWERS)


def _authentic(
    chain_id: str, key: bytes, request_digest: bytes, signed: SignedStatement
) -> ReplyStatement:
    if not verify_statement(key, signed.statement, signed.signature):
        raise NotEvidence("a statement is not signed with the accused node's key")
    try:
        statement = decode_statement(signed.statement)
    except RemoteProtocolError:
        raise NotEvidence("a statement has the wrong form") from None
    if statement.chain_id != chain_id or statement.request != request_digest:
        raise NotEvidence("a statement is about another chain or request")
    return statement


@dataclass(frozen=True, slots=True)
class _Fraction:
    """A JSON number that is not a small integer, as it was written."""

    text: str


def _integer(text: str) -> int | _Fraction:
    # How long an integer Python converts is a setting of the process.
    return int(text) if len(text) <= MAX_DIGITS else _Fraction(text)


def _is_zero(value: object) -> bool:
    if isinstance(value, _Fraction):
        return ZERO.fullmatch(value.text) is not None
    return type(value) is int and value == 0


def _max_tokens(fields: dict[str, Any]) -> int | None:
    limits = [fields.get(name) for name in ("max_tokens", "max_completion_tokens")]
    if not all(limit is None or type(limit) is int for limit in limits):
        raise NotEvidence("the request's limit of tokens cannot be read in one way only")
    # A server reads a limit of 0 as none.
    return max((limit for limit in limits if limit), default=None)


def _nests_too_deep(body: bytes) -> bool:
    """Counted before parsing: how deep a parser gets depends on the interpreter and its stack."""
    depth = 0
    for match in QUOTED_OR_BRACKET.finditer(body):
        byte = body[match.start()]
        if byte in b"[{":
            depth += 1
            if depth > MAX_NESTING:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is named twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

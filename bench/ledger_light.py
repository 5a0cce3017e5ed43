"""What a reader pays: to follow the chain over 1,000 headers, and to verify a record's proof.

The chain is made here, signed by 100 validators of which one is replaced every ten heights, so
that nobody who signed the first header signs the last and the client must stop on the way. Its
servers' answers are read from JSON as they come from a socket; the transfer is not measured.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

from nacl.signing import SigningKey

from abci_app.core.apphash import advance, app_hash
from abci_app.core.queries import Stores, answer
from bench.figures import Figure
from planetserve.encoding import encode
from planetserve.light.blocks import (
    COMMIT,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    Vote,
    light_block,
    validator_set,
)
from planetserve.light.proven import check_state
from planetserve.light.reading import light_block_json, read_light_block
from planetserve.light.verifier import Rules, bisection
from planetserve.merkle import EMPTY_HASH
from planetserve.statekeys import STORES, reputation_key

CHAIN_ID = "light-bench"
HEADERS = 1_000
VALIDATORS = (4, 100)
REPLACED_EVERY = 10
RECORDS = 100_000
REPEATS = 5
SECOND_NS = 1_000_000_000
RULES = Rules(CHAIN_ID, period_s=1_000_000)


def light_figures() -> list[Figure]:
    few, many = VALIDATORS
    _, fixed_s = _skip(few, 0)
    steps, moving_s = _skip(many, REPLACED_EVERY)
    return [
        Figure(f"1,000 headers skipped, {few} validators", fixed_s * 1e3, "ms", limit=100),
        Figure(
            f"1,000 headers skipped, {many} validators, {steps} steps",
            moving_s * 1e3,
            "ms",
            limit=100,
        ),
        Figure("proof verified, 100,000 records", _proof() * 1e3, "ms", limit=1),
    ]


def _skip(validators: int, replaced_every: int) -> tuple[int, float]:
    """How many headers are verified on the way to header 1,001 from header 1, and the median of
    the processor seconds that it takes."""
    signed: dict[int, str] = {}

    def shown(height: int) -> str:
        if height not in signed:
            block = _block(height, validators, replaced_every)
            signed[height] = json.dumps(light_block_json(block))
        return signed[height]

    trusted = _block(1, validators, replaced_every)
    now_ns = (HEADERS + 2) * SECOND_NS
    taken = []
    for repeat in range(1 + REPEATS):
        started_s = time.process_time()
        target = read_light_block(json.loads(shown(HEADERS + 1)))
        steps = bisection(trusted, target, RULES, now_ns)
        try:
            wanted = next(steps)
            while True:
                wanted = steps.send(read_light_block(json.loads(shown(wanted))))
        except StopIteration as done:
            verified: list[LightBlock] = done.value
        if repeat:  # the first run makes the headers that it asks for
            taken.append(time.process_time() - started_s)
    return len(verified), statistics.median(taken)


def _block(height: int, validators: int, replaced_every: int) -> LightBlock:
    members = _members(height, validators, replaced_every)
    following = _members(height + 1, validators, replaced_every)
    keys = {bytes(key.verify_key): key for key in members}
    chosen = validator_set(Validator(key, 10) for key in keys)
    header = Header(
        block_version=11,
        app_version=1,
        chain_id=CHAIN_ID,
        height=height,
        time_ns=height * SECOND_NS,
        last_block_id=BlockId(_digest(height - 1), 1, _digest(height - 1)),
        last_commit_hash=_digest(height),
        data_hash=_digest(height),
        validators_hash=chosen.hash(),
        next_validators_hash=validator_set(
            Validator(bytes(key.verify_key), 10) for key in following
        ).hash(),
        consensus_hash=_digest(0),
        app_hash=_digest(height),
        last_results_hash=_digest(height),
        evidence_hash=_digest(0),
        proposer_address=chosen.validators[0].address,
    )
    unsigned = tuple(Vote(COMMIT, item.address, header.time_ns, b"") for item in chosen.validators)
    commit = Commit(height, 0, BlockId(header.hash(), 1, _digest(height)), unsigned)
    votes = tuple(
        replace(vote, signature=keys[item.key].sign(commit.signed_bytes(CHAIN_ID, place)).signature)
        for place, (item, vote) in enumerate(zip(chosen.validators, unsigned, strict=True))
    )
    return light_block(header, replace(commit, votes=votes), chosen)


def _members(height: int, validators: int, replaced_every: int) -> list[SigningKey]:
    gone = height // replaced_every if replaced_every else 0
    return [SigningKey(_digest(number)) for number in range(gone, gone + validators)]


def _digest(number: int) -> bytes:
    return hashlib.sha256(b"light bench %d" % number).digest()


class _Committed:
    """One state of many reputations, held in memory with its trees."""

    def __init__(self, records: Mapping[bytes, bytes]) -> None:
        self._records = records
        empty = dict.fromkeys(STORES, EMPTY_HASH)
        self._roots, self._nodes = advance(lambda store, path: None, empty, records)

    @property
    def height(self) -> int:
        return 1

    @property
    def roots(self) -> Mapping[str, bytes]:
        return self._roots

    def get(self, key: bytes) -> bytes | None:
        return self._records.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(item for item in self._records.items() if item[0].startswith(prefix))

    def tree_node(self, store: str, path: bytes) -> bytes | None:
        return self._nodes.get((store, path))


def _proof() -> float:
    """The median of the processor seconds to verify one record among 100,000 against a header."""
    keys = [reputation_key(_digest(number)[:20]) for number in range(RECORDS)]
    state = _Committed({key: encode({"ppm": 500_000}) for key in keys})
    header = replace(_block(2, 1, 0).header, app_hash=app_hash(state.roots))
    taken = []
    for key in keys[:: RECORDS // 1_000]:
        asked = encode({"keys": [key], "stores": []})
        shown = answer(state, "/state", asked, Stores(), lambda height: None, proven=False)
        started_s = time.process_time()
        check_state(shown.value, 1, header, [key], [])
        taken.append(time.process_time() - started_s)
    return statistics.median(taken)

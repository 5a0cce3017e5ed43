"""Whether to believe a header, given one that is believed (CometBFT's light/verifier.go).

A header is signed by more than 2/3 of its validators' power. A reader who trusts an earlier header
believes a later one when that names the validators its predecessor announced, or when more than
the trust level of the earlier validators' power signed it too: at least one honest validator did,
as long as less than a third of the power lies.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from planetserve.errors import ForgedHeader, OldHeader
from planetserve.light.blocks import COMMIT, Commit, Header, LightBlock, ValidatorSet
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.signatures import verifies

MAX_BISECTION_STEPS = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """`period_s` is how long a header is believed after its time: shorter than validators stay
    answerable for what they sign. `drift_s` is how far ahead of ours a validator's clock may go;
    `level` is the share of the earlier validators' power that must have signed, 1/3 to 1."""

    chain_id: str
    period_s: int
    drift_s: int = 10
    level: tuple[int, int] = (1, 3)

    def expired(self, header: Header, now_ns: int) -> bool:
        return header.time_ns + self.period_s * NANOSECONDS <= now_ns


class _Signatures:
    """The votes of one commit, each checked once at most."""

    def __init__(self, chain_id: str, commit: Commit) -> None:
        self._chain_id = chain_id
        self._commit = commit
        self._checked: set[int] = set()

    def require(self, index: int, key: bytes) -> None:
        """Raises `ForgedHeader` unless the vote at `index` is signed with `key`."""
        if index in self._checked:
            return
        message = self._commit.signed_bytes(self._chain_id, index)
        if not verifies(key, message, self._commit.votes[index].signature):
            raise ForgedHeader(
                f"a signature below header {self._commit.height} is not its validator's"
            )
        self._checked.add(index)


def check_form(block: LightBlock, chain_id: str) -> None:
    """Raises `ForgedHeader` unless header, commit and validators belong together."""
    header, commit = block.header, block.commit
    if header.chain_id != chain_id:
        raise ForgedHeader(f"header {header.height} is of another chain than {chain_id}")
    if commit.block_id.hash != block.hash:
        raise ForgedHeader(f"the commit of height {header.height} is for another header")
    if commit.height != header.height:
        raise ForgedHeader(f"the commit of header {header.height} is of another height")
    if block.validators.hash() != header.validators_hash:
        raise ForgedHeader(f"header {header.height} has other validators than those shown")
    if len(commit.votes) != len(block.validators.validators):
        raise ForgedHeader(f"the commit of header {header.height} does not fit its validators")


def check_signed(block: LightBlock, rules: Rules) -> None:
    """Raises `ForgedHeader` unless the block's own validators decided it. Says nothing about
    whether they are the chain's."""
    check_form(block, rules.chain_id)
    _require_two_thirds(block, _Signatures(rules.chain_id, block.commit))


def verify(trusted: LightBlock, block: LightBlock, rules: Rules, now_ns: int) -> bool:
    """Whether `block`, later than `trusted`, is believed; False asks for one in between.

    Raises `OldHeader` when `trusted` is no longer believed, `ForgedHeader` when nothing in between
    can make the block believable.
    """
    earlier, header = trusted.header, block.header
    if rules.expired(earlier, now_ns):
        raise OldHeader(
            f"the trusted header {earlier.height} is older than the {rules.period_s} s for which "
            "one is trusted; name a newer one as trusted_height and trusted_hash in the network "
            "file"
        )
    check_form(block, rules.chain_id)
    if header.height <= earlier.height or header.time_ns <= earlier.time_ns:
        raise ForgedHeader(f"header {header.height} is not later than the trusted one")
    if header.time_ns >= now_ns + rules.drift_s * NANOSECONDS:
        raise ForgedHeader(
            f"header {header.height} is from the future; is this machine's clock right?"
        )
    signatures = _Signatures(rules.chain_id, block.commit)
    if header.height == earlier.height + 1:
        if header.validators_hash != earlier.next_validators_hash:
            raise ForgedHeader(
                f"header {header.height} has other validators than its predecessor announced"
            )
        if header.last_block_id.hash != trusted.hash:
            raise ForgedHeader(f"header {header.height} does not follow the trusted one")
    elif not _enough_trust(trusted.validators, block.commit, rules.level, signatures):
        return False
    # Last, since whoever forges a header chooses how many validators it has.
    _require_two_thirds(block, signatures)
    return True


def verify_before(later: LightBlock, header: Header) -> bool:
    """Whether `header` is the one before a believed header, which names it by its hash."""
    return header.height == later.height - 1 and header.hash() == later.header.last_block_id.hash


def bisection(
    trusted: LightBlock, target: LightBlock, rules: Rules, now_ns: int
) -> Generator[int, LightBlock, list[LightBlock]]:
    """Verify `target` over as few blocks in between as it takes: yields the height of each that it
    needs, is sent that block, and returns all that were verified, the target last.

    Raises what `verify` raises.
    """
    waiting = [target]
    verified: list[LightBlock] = []
    steps = 0
    while waiting:
        candidate = waiting[-1]
        if verify(trusted, candidate, rules, now_ns):
            trusted = waiting.pop()
            verified.append(trusted)
            continue
        steps += 1
        if steps > MAX_BISECTION_STEPS:
            raise ForgedHeader(
                f"no trust reaches header {target.height} in {MAX_BISECTION_STEPS} steps"
            )
        middle = (trusted.height + candidate.height) // 2
        block = yield middle
        if block.height != middle:
            raise ForgedHeader(f"header {block.height} was shown in place of {middle}")
        waiting.append(block)
    return verified


def _require_two_thirds(block: LightBlock, signatures: _Signatures) -> None:
    needed = 2 * block.validators.total_power
    power = 0
    for index, (vote, validator) in enumerate(
        zip(block.commit.votes, block.validators.validators, strict=True)
    ):
        if vote.flag != COMMIT:
            continue
        if vote.address != validator.address:
            raise ForgedHeader(f"a vote for header {block.height} names another validator")
        signatures.require(index, validator.key)
        power += validator.power
        if 3 * power > needed:
            return
    raise ForgedHeader(f"no more than 2/3 of its validators' power signed header {block.height}")


def _enough_trust(
    validators: ValidatorSet, commit: Commit, level: tuple[int, int], signatures: _Signatures
) -> bool:
    """Whether more than `level` of the power of earlier validators signed a commit."""
    numerator, denominator = level
    known = {validator.address: validator for validator in validators.validators}
    needed = numerator * validators.total_power
    power = 0
    counted = set()
    for index, vote in enumerate(commit.votes):
        validator = known.get(vote.address)
        if vote.flag != COMMIT or validator is None:
            continue
        if vote.address in counted:
            raise ForgedHeader(f"a validator votes twice for header {commit.height}")
        counted.add(vote.address)
        signatures.require(index, validator.key)
        power += validator.power
        if denominator * power > needed:
            return True
    return False

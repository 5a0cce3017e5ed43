"""ECVRF against the examples of RFC 9381, appendix B.3, and against forgers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from planetserve import vrf

EXAMPLES = {
    "example 16": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f"
        "479d9727d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
        "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff66b71dda49d2de59d03450451a"
        "f026798e8f81cd2e333de5cdf4f3e140fdd8ae",
    ),
    "example 17": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c"
        "92a465301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
        "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb5e33821bc613efb94db5e5b54c"
        "70a848a0bef4553a41befc57663b56373a5031",
    ),
    "example 18": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf8096bb474e53895c362d8628ee9f"
        "9ea3c0e52c7a5c691b6c18c9979866568add7a2d41b00b05081ed0f58ee5e31b3a970e",
        "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c452118fec1219202a0edcf038bb6"
        "373241578be7217ba85a2687f7a0310b2df19f",
    ),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=list(EXAMPLES))
def test_the_examples_of_the_rfc(example: tuple[str, str, str, str, str]) -> None:
    seed, key, alpha, proof, output = (bytes.fromhex(part) for part in example)
    assert vrf.prove(seed, alpha) == proof
    assert vrf.verify(key, alpha, proof) == output


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
@settings(max_examples=40)
def test_every_proof_verifies_for_its_key_and_input_only(seed: bytes, alpha: bytes) -> None:
    key = bytes(SigningKey(seed).verify_key)
    proof = vrf.prove(seed, alpha)
    assert vrf.verify(key, alpha, proof) == vrf.output(proof)
    other = bytes(SigningKey(bytes(a ^ 1 for a in seed)).verify_key)
    for wrong_key, wrong_alpha in ((other, alpha), (key, alpha + b"x")):
        with pytest.raises(vrf.VrfError):
            vrf.verify(wrong_key, wrong_alpha, proof)


@given(st.integers(0, vrf.PROOF_BYTES * 8 - 1))
@settings(max_examples=200)
def test_every_flipped_bit_is_refused(bit: int) -> None:
    seed, alpha = bytes(range(32)), b"input"
    damaged = bytearray(vrf.prove(seed, alpha))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(vrf.VrfError):
        vrf.verify(bytes(SigningKey(seed).verify_key), alpha, bytes(damaged))


@given(st.binary(max_size=100), st.binary(max_size=40))
def test_garbage_is_refused(proof: bytes, key: bytes) -> None:
    with pytest.raises(vrf.VrfError):
        vrf.verify(key, b"input", proof)


def test_the_same_proof_with_an_unreduced_scalar_is_refused() -> None:
    seed = bytes(32)
    proof = vrf.prove(seed, b"input")
    order = (1 << 252) + 27742317777372353535851937790883648493
    scalar = int.from_bytes(proof[48:], "little") + order
    malleable = proof[:48] + scalar.to_bytes(32, "little")
    with pytest.raises(vrf.VrfError, match="not reduced"):
        vrf.verify(bytes(SigningKey(seed).verify_key), b"input", malleable)


@pytest.mark.parametrize(
    "key",
    [b"\x01" + bytes(31), bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f", b"\xff" * 32],
    ids=["identity", "order four", "order two", "not canonical"],
)
def test_keys_of_small_order_are_refused(key: bytes) -> None:
    with pytest.raises(vrf.VrfError):
        vrf.verify(key, b"input", vrf.prove(bytes(32), b"input"))

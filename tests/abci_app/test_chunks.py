"""A state as chunks and back, with bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core import chunks
from abci_app.core.chunks import ChunkError, Manifest, read_chunk, read_manifest, split
from planetserve.encoding import encode
from planetserve.merkle import sha256

STATES = st.dictionaries(
    st.tuples(st.sampled_from([b"nodes/", b"accounts/", b"routes/"]), st.binary(min_size=1)).map(
        b"".join
    ),
    st.binary(max_size=200),
    max_size=30,
)


@given(STATES, st.integers(50, 500))
def test_a_state_survives_and_has_one_form(state: dict[bytes, bytes], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "MAX_CHUNK_BYTES", limit)
        found = list(split(sorted(state.items())))
        assert found == list(split(sorted(dict(reversed(state.items())).items())))
        records: list[tuple[bytes, bytes]] = []
        for chunk in found:
            part = read_chunk(chunk, records[-1][0] if records else b"")
            assert len(chunk) <= limit or len(part) == 1
            records += part
    assert dict(records) == state


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        [[b"nodes/a"]],
        [[b"nodes/a", b"v", b"w"]],
        [[b"nodes/a", "text"]],
        [["nodes/a", b"v"]],
        [[b"nodes/b", b"v"], [b"nodes/a", b"v"]],
        [[b"nodes/a", b"v"], [b"nodes/a", b"v"]],
        [[b"nothing/a", b"v"]],
        [[b"nodes/", b"v"]],
        [[b"\xff/a", b"v"]],
    ],
)
def test_what_no_honest_chunk_holds_is_refused(content: object) -> None:
    with pytest.raises(ChunkError):
        read_chunk(encode(content), b"")


def test_chunks_follow_each_other() -> None:
    chunk = encode([[b"nodes/b", b"v"]])
    assert read_chunk(chunk, b"nodes/a")
    with pytest.raises(ChunkError, match="ascend"):
        read_chunk(chunk, b"nodes/b")
    with pytest.raises(ChunkError):
        read_chunk(chunk + b"\0", b"")


def test_a_manifest_survives() -> None:
    manifest = Manifest("chain", (sha256(b"a"), sha256(b"b")))
    assert read_manifest(manifest.encoded()) == manifest


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"chain_id": "c"},
        {"chain_id": b"c", "chunks": [bytes(32)]},
        {"chain_id": "c", "chunks": []},
        {"chain_id": "c", "chunks": [bytes(31)]},
        {"chain_id": "c", "chunks": [[]]},
        {"chain_id": "c", "chunks": [bytes(32)], "more": 1},
        {"chain_id": "c", "chunks": [bytes(32)] * (chunks.MAX_CHUNKS + 1)},
    ],
)
def test_manifests_of_other_forms_are_refused(content: object) -> None:
    with pytest.raises(ChunkError):
        read_manifest(encode(content))

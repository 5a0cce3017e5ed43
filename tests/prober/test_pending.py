"""Scores that outlive the process that committed to them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.errors import ConfigurationError
from prober import pending
from prober.epoch_round import Score

SCORES = st.lists(
    st.builds(
        Score,
        st.binary(min_size=20, max_size=20),
        st.integers(0, 1_000_000),
        st.integers(1, 1_000),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    )
)


@given(st.integers(0, 1 << 40), SCORES)
def test_what_is_saved_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, epoch: int, scores: list[Score]
) -> None:
    path = tmp_path_factory.getbasetemp() / "pending.json"
    pending.save(path, epoch, scores)
    assert pending.load(path) == (epoch, scores)
    assert not path.with_suffix(".new").exists()


def test_nothing_is_pending_where_there_is_no_file(tmp_path: Path) -> None:
    assert pending.load(tmp_path / "pending.json") == (-1, [])


def test_salts_are_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "pending.json"
    pending.save(path, 1, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"epoch": 1}',
        b'{"epoch": null, "scores": []}',
        b'{"epoch": 1, "scores": [{"node": "zz"}]}',
        b'{"epoch": 1, "scores": [{"node": 1, "score_ppm": 1, "samples": 1}]}',
    ],
)
def test_a_file_that_cannot_be_read_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pending.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="Remove it to go on"):
        pending.load(path)
    assert path.read_bytes() == content

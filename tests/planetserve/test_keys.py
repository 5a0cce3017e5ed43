"""Identities and their files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from planetserve.errors import KeyFileError, KeyInUseError
from planetserve.keylock import locked_key
from planetserve.keys import (
    identity_from,
    node_id,
    read_identity,
    read_or_create_identity,
    verify,
    write_identity,
)

IDENTITY = identity_from(bytes(range(96)))


def test_a_signature_holds_for_its_domain_and_message_only() -> None:
    signature = IDENTITY.sign("domain", b"message")
    assert verify(IDENTITY.public_key, "domain", b"message", signature)
    assert not verify(IDENTITY.public_key, "other", b"message", signature)
    assert not verify(IDENTITY.public_key, "domain", b"messagf", signature)
    assert not verify(IDENTITY.public_key, "domain", b"message", signature[:-1])
    assert not verify(b"short", "domain", b"message", signature)


def test_the_id_is_a_hash_of_the_key_and_the_repr_shows_no_secret() -> None:
    assert IDENTITY.id == node_id(IDENTITY.public_key)
    assert len(IDENTITY.id) == 20
    for secret in (IDENTITY.seed, IDENTITY.onion_secret, IDENTITY.transport_secret):
        assert secret.hex() not in repr(IDENTITY)


def test_a_key_file_round_trips_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"
    write_identity(path, IDENTITY)
    assert read_identity(path) == IDENTITY
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="never overwritten"):
        write_identity(path, IDENTITY)


def test_an_open_key_file_is_refused_with_its_fix(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    write_identity(path, IDENTITY)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        read_identity(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "x"}', "\x00"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "node.key"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(KeyFileError, match="not a key file"):
        read_identity(path)


def test_a_missing_file_is_said_or_made(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    with pytest.raises(KeyFileError, match="cannot read"):
        read_identity(path)
    assert read_or_create_identity(path) == read_or_create_identity(path)


def test_a_second_user_of_a_key_learns_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "prober.key"
    write_identity(path, IDENTITY)
    program = (
        "import sys; from pathlib import Path; from planetserve.keylock import locked_key\n"
        "with locked_key(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(KeyInUseError, match=rf"process {holder.pid}\)"), locked_key(path):
            pass
    finally:
        holder.communicate(b"")
    with locked_key(path):
        pass

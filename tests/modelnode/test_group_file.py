"""The file of a fixed group: what is made is read; what is no group is refused, saying why."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.group_file import (
    FILE_NAME,
    FIXED_CHAIN_ID,
    GroupFile,
    is_address,
    make_group,
    read_group_file,
)
from planetserve.errors import ConfigurationError, KeyFileError
from planetserve.keys import identity_from, read_identity
from planetserve.messages import MAX_CHAIN_ID_CHARACTERS


def text_of(file: GroupFile, change: tuple[str, str]) -> str:
    text = file.to_toml()
    assert change[0] in text
    return text.replace(*change, 1)


@pytest.fixture
def made(tmp_path: Path) -> GroupFile:
    make_group(tmp_path, "a model: ü", 3, 20_000)
    return read_group_file(tmp_path / FILE_NAME)


def test_every_key_is_a_member_that_the_others_can_reach(tmp_path: Path) -> None:
    keys = make_group(tmp_path / "new", "m", 3, 20_000)
    file = read_group_file(tmp_path / "new" / FILE_NAME)
    members = file.as_members()
    for number, key in enumerate(keys):
        identity = read_identity(key)
        assert file.member(identity).group == f"127.0.0.1:{20_000 + number}"
        assert members.admitted[identity.transport_public] == identity.id
        assert members.trusted[number].endpoint == f"tcp://127.0.0.1:{20_000 + number}"
    with pytest.raises(ConfigurationError, match="no member with this key"):
        file.member(identity_from(bytes(96)))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    make_group(tmp_path, "m", 1, 20_000)
    with pytest.raises(ConfigurationError, match="exists"):
        make_group(tmp_path, "m", 1, 20_000)
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(KeyFileError):
        make_group(tmp_path, "m", 1, 20_000)


@pytest.mark.parametrize(
    ("model", "count", "port"),
    [("", 1, 1), ('a"b', 1, 1), ("m", 0, 1), ("m", 257, 1), ("m", 2, 65_533)],
)
def test_settings_that_make_no_group(tmp_path: Path, model: str, count: int, port: int) -> None:
    with pytest.raises(ConfigurationError):
        make_group(tmp_path, model, count, port)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("model =", "modell =", "model must be"),
        ("[[member]]", "[[members]]", "only"),
        ('name = "node-2"', 'name = "node-1"', "share"),
        ("127.0.0.1:20001", "127.0.0.1:20000", "share"),
        ("127.0.0.1:20001", "127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:20001", "127.0.0.1:99999", "HOST:PORT"),
        ('name = "node-1"', "name = 1", "name must be"),
        ('name = "node-1"', 'nick = "node-1"', "not exactly"),
        ('node = "', 'node = "00', "40 hex digits"),
        ('transport_key = "', 'transport_key = "x', "64 hex digits"),
        ('model = "', "model = ", "not TOML"),
    ],
)
def test_a_file_that_is_no_group(
    made: GroupFile, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    path = tmp_path / "other.toml"
    path.write_text(text_of(made, (old, new)))
    with pytest.raises(ConfigurationError, match=reason):
        read_group_file(path)


def test_a_key_file_of_another_transport_key(made: GroupFile, tmp_path: Path) -> None:
    identity = read_identity(tmp_path / "node-1.key")
    path = tmp_path / "other.toml"
    text = made.to_toml()
    path.write_text(text.replace(identity.transport_public.hex(), "ab" * 32))
    with pytest.raises(ConfigurationError, match="another transport key"):
        read_group_file(path).member(identity)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="make-group"):
        read_group_file(tmp_path / "none.toml")


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_names_of_models_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, model: str
) -> None:
    folder = tmp_path_factory.mktemp("group")
    try:
        make_group(folder, model, 1, 20_000)
    except ConfigurationError:
        return
    assert read_group_file(folder / FILE_NAME).model == model


def test_addresses_are_told_from_files() -> None:
    for text in ("127.0.0.1:80", "[::1]:8080", "host:1"):
        assert is_address(text)
    for text in ("group.toml", "folder/group.toml", "a:b", "h:99999", ":1"):
        assert not is_address(text)


def test_what_is_signed_in_a_fixed_group_is_no_evidence_on_a_chain() -> None:
    assert len(FIXED_CHAIN_ID) > MAX_CHAIN_ID_CHARACTERS

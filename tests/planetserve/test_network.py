"""The network file and how it is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planetserve.errors import ConfigurationError, NetworkNotFound
from planetserve.network import Network, load_network

NETWORK = Network(
    "chain-1",
    "ab" * 32,
    ("http://127.0.0.1:1", "http://[::1]:2"),
    "tiny",
    allow_cheats=True,
    genesis_validators_hash="cd" * 32,
    trusted_height=7,
    trusted_hash="ef" * 32,
    trust_period_s=100,
)


def test_it_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    path.write_text(NETWORK.to_toml())
    assert load_network(path) == NETWORK


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    network = replace(NETWORK, default_model='a\n"\\\x00\x1b\x7f\u00e9')
    path.write_text(network.to_toml())
    assert load_network(path) == network
    assert network.to_toml().count("\n") == NETWORK.to_toml().count("\n")


def test_what_it_trusts_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    lines = NETWORK.to_toml().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "trust" not in line))
    network = load_network(path)
    assert network.genesis_validators_hash == "cd" * 32
    assert (network.trusted_height, network.trusted_hash) == (1, "")
    assert network.trust_period_s == 10 * 24 * 3600


def test_it_is_found_above_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".localnet").mkdir()
    (tmp_path / ".localnet" / "network.toml").write_text(NETWORK.to_toml())
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_network(environment={}) == NETWORK


def test_the_environment_names_it(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text(NETWORK.to_toml())
    assert load_network(environment={"PLANETSERVE_NETWORK": str(path)}) == NETWORK


def test_without_one_the_error_says_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkNotFound, match="make localnet") as caught:
        load_network(environment={})
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("chain_id", "chain_ix"), "chain_id must be there"),
        (("= true", '= "yes"'), "allow_cheats must be there, of type bool"),
        (('"http://127.0.0.1:1", "http://[::1]:2"', ""), "at least one"),
        (('"http://127.0.0.1:1"', '"ftp://x"'), "at least one http"),
        (("chain_id =", "chain_id"), "not TOML"),
        (("cd" * 32, "cd"), "genesis_validators_hash must be 64 hex"),
        (("ef" * 32, "zz" * 32), "trusted_hash must be 64 hex"),
        (("trusted_height = 7", "trusted_height = 0"), "trusted_height must be at least 1"),
        (("trust_period_s = 100", "trust_period_s = true"), "trust_period_s must be of type int"),
    ],
)
def test_a_malformed_file_is_refused(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    path = tmp_path / "network.toml"
    path.write_text(NETWORK.to_toml().replace(*change))
    with pytest.raises(ConfigurationError, match=complaint):
        load_network(path)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkNotFound, match="cannot read"):
        load_network(tmp_path / "nothing.toml")

"""A client that relays: where its key is, and what its user is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from overlay.core.guards import GuardRules
from planetserve.client import cli
from planetserve.client.relaying import exposed, key_beside
from planetserve.records import RouteSet
from tests.overlay.relays import relay

OLD = tuple(relay(number, registered=0) for number in range(1, 30))
OWN = relay(40, registered=5_000)
NODE = OWN.id


@pytest.mark.parametrize(("height", "left"), [(5_000, "7,200"), (12_199, "1")])
def test_a_young_relay_is_told_that_it_hides_nothing(height: int, left: str) -> None:
    said = exposed(NODE, RouteSet(height, bytes(32), (*OLD, OWN)))
    assert f"for {left} blocks more" in said
    assert "your questions are your own" in said


def test_an_old_relay_is_told_nothing() -> None:
    assert exposed(NODE, RouteSet(12_200, bytes(32), (*OLD, OWN))) == ""


def test_where_all_are_young_others_begin_with_it_too() -> None:
    few = RouteSet(5_001, bytes(32), (*OLD[: GuardRules().most - 1], OWN))
    assert exposed(NODE, few) == ""


def test_who_is_not_endorsed_is_told_so() -> None:
    assert "endorsed" in exposed(NODE, RouteSet(20_000, bytes(32), OLD))


def test_the_key_is_beside_the_first_hops() -> None:
    assert key_beside(Path("/net/network.json")) == Path("/net/trusted/relay.key")


@pytest.mark.parametrize(("options", "advised"), [([], True), (["--no-relay"], False)])
def test_chat_says_that_it_does_not_relay(
    tmp_path: Path, options: list[str], advised: bool
) -> None:
    file = tmp_path / "network.json"
    file.write_text("{}")
    result = CliRunner().invoke(cli.app, ["chat", "--network", str(file), *options])
    assert result.exit_code != 0  # that file names no network
    assert ("--bind HOST:PORT" in result.stderr) == advised
    assert not list(tmp_path.glob("**/relay.key"))

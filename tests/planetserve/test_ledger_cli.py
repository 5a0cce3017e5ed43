"""`ps-ledger` without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer

from abci_app.core.codes import MEANINGS
from planetserve.cli import run
from planetserve.errors import (
    NetworkNotFound,
    PlanetServeError,
    ProofRefused,
    RemoteProtocolError,
    UsageError,
)
from planetserve.keys import identity_from
from planetserve.ledger_cli import codes, main
from planetserve.ledger_cli.conversation import answers_of_expected_form
from planetserve.ledger_cli.display import decimal, show_table
from planetserve.ledger_cli.lookup import find_node, find_target, successor
from planetserve.ledger_cli.nodes import node_json
from planetserve.records import TRUSTED, NodeRecord, RouteSet


def node(number: int, name: str) -> NodeRecord:
    identity = identity_from(bytes([number]) * 96)
    return NodeRecord(
        id=identity.id,
        key=identity.public_key,
        name=name,
        roles=("relay",),
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": "tcp://127.0.0.1:1"},
        model="",
        operator="",
        registered=1,
        credential_expires=9,
        reputation_ppm=None,
        status=TRUSTED,
    )


FIRST, SECOND = node(1, "first"), node(2, "second")
ROUTES = RouteSet(5, bytes(32), (FIRST, SECOND))


def test_nodes_are_found_by_name_and_by_the_beginning_of_their_id() -> None:
    assert find_node(ROUTES, "second") is SECOND
    assert find_node(ROUTES, FIRST.id.hex()[:6]) is FIRST
    assert find_node(ROUTES, FIRST.id.hex().upper()) is FIRST
    assert find_node(ROUTES, FIRST.key.hex()) is FIRST
    for text in ("third", "", FIRST.id.hex()[:3]):
        with pytest.raises(UsageError, match="ps-ledger nodes"):
            find_node(ROUTES, text)


def test_a_name_that_two_nodes_have_asks_for_an_id() -> None:
    twin = dataclasses.replace(SECOND, name="first")
    with pytest.raises(UsageError, match=FIRST.id.hex()):
        find_node(RouteSet(5, bytes(32), (FIRST, twin)), "first")


def test_names_that_look_like_ids_lead_nobody_astray() -> None:
    whole = dataclasses.replace(SECOND, name=FIRST.id.hex())
    assert find_node(RouteSet(5, bytes(32), (FIRST, whole)), FIRST.id.hex()) is FIRST
    prefix = FIRST.id.hex()[:8]
    part = dataclasses.replace(SECOND, name=prefix)
    with pytest.raises(UsageError, match="2 nodes match"):
        find_node(RouteSet(5, bytes(32), (FIRST, part)), prefix)


def test_a_target_need_not_be_registered() -> None:
    stranger = identity_from(bytes([9]) * 96)
    by_key = find_target(ROUTES, stranger.public_key.hex())
    assert (by_key.id, by_key.key, by_key.record) == (stranger.id, stranger.public_key, None)
    by_id = find_target(ROUTES, stranger.id.hex())
    assert (by_id.id, by_id.key, by_id.label) == (stranger.id, None, stranger.id.hex()[:12])
    assert find_target(ROUTES, "first").key == FIRST.key
    with pytest.raises(UsageError, match="ps-ledger nodes"):
        find_target(ROUTES, stranger.id.hex()[:10])


def test_a_key_that_was_rotated_away_is_followed() -> None:
    nodes: list[dict[str, Any]] = [
        {"key": SECOND.key, "former": [[FIRST.id, 7]]},
        {"key": FIRST.key, "former": []},
    ]
    for text in (FIRST.id.hex(), FIRST.key.hex(), FIRST.id.hex()[:6]):
        assert successor(nodes, text) == SECOND.key
    for text in (SECOND.id.hex(), "first", FIRST.id.hex()[:3]):
        assert successor(nodes, text) is None


@pytest.mark.parametrize(
    ("ppm", "text"),
    [
        (680_000, ".680"),
        (1_000_000, "1.000"),
        (0, ".000"),
        (666_667, ".666667"),
        (-50_000, "-.050"),
        (26_666_680, "26.66668"),
    ],
)
def test_millionths_are_shown_exactly(ppm: int, text: str) -> None:
    assert decimal(ppm) == text


def test_the_form_of_a_node_that_programs_rely_on() -> None:
    assert node_json(FIRST) == {
        "id": FIRST.id.hex(),
        "name": "first",
        "roles": ["relay"],
        "status": "trusted",
        "reputation_ppm": None,
        "credential_expires": 9,
        "endpoints": {"overlay": "tcp://127.0.0.1:1"},
    }


def test_tables_are_plain_when_piped_and_show_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(["name", "n"], [["a\x1b[2Jb", 1], ["[bold]c", 23]])
    assert capsys.readouterr().out.splitlines() == ["name     n", "a?[2Jb   1", "[bold]c  23"]


def test_an_answer_of_the_wrong_form_is_the_servers_fault() -> None:
    answer: dict[str, int] = {}
    with pytest.raises(RemoteProtocolError), answers_of_expected_form():
        _ = answer["height"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlanetServeError("x"), 1),
        (UsageError("x"), 2),
        (NetworkNotFound("x"), 3),
        (ProofRefused("x"), 4),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application = typer.Typer()

    @application.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr("sys.argv", ["ps-test"])
    monkeypatch.setattr("planetserve.cli._discard_output", lambda: None)
    with pytest.raises(SystemExit) as ending:
        run(application)
    assert ending.value.code == code
    assert "Traceback" not in capfd.readouterr().err


def test_without_a_network_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANETSERVE_NETWORK", raising=False)
    monkeypatch.setattr("sys.argv", ["ps-ledger", "nodes"])
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 3
    message = capsys.readouterr().err
    assert message.startswith("error: no network file: looked for .localnet/network.toml")
    assert message.count("\n") == 1


def test_every_result_code_of_a_transaction_is_explained() -> None:
    assert {int(code): text for code, text in MEANINGS.items() if code < 70} == codes.MEANINGS
    assert codes.meaning(999) == "a code of a newer version"

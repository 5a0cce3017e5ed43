"""`ps-ledger verify`: what is trusted, on what grounds, and which servers agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask
from planetserve.ledger_cli.display import (
    plural,
    show_json,
    show_pairs,
    show_table,
    show_verified,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.blocks import LightBlock
    from planetserve.light.proven import Proven
    from planetserve.network import Network

NANOSECONDS = 1_000_000_000
AGREES, REFUSED, SILENT = "agrees", "refused", "no answer"


@dataclass(frozen=True, slots=True)
class Server:
    """What one RPC server said to the verified header: `verdict` is one of the words above."""

    address: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    network: Network
    block: LightBlock
    proven: Proven
    servers: tuple[Server, ...]


@app.command()
def verify(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """What is trusted and why, the newest verified header, who signed it, which servers agree.

    Exit code 4 when any server shows a header that the validators did not sign.
    """
    from planetserve.errors import ProofRefused
    from planetserve.network import find_network

    check = ask(network, read_check)
    place = trust_place(find_network(network), check.network)
    with answers_of_expected_form():
        if as_json:
            show_json(_json(check, place))
        else:
            _show(check, place)
    liars = [server for server in check.servers if server.verdict == REFUSED]
    if liars:
        raise ProofRefused(
            "take out of the network file who shows what the validators did not sign: "
            + "; ".join(f"{server.address}: {server.reason}" for server in liars)
        )


async def read_check(ledger: LedgerClient) -> Check:
    """Prove the newest state, then ask every server for the header that it was proven with."""
    import asyncio

    from planetserve.errors import ForkDetected, NetworkNotFound, ProofRefused, RemoteProtocolError
    from planetserve.rpc import RpcError

    proven = await ledger.read(stores=["verifiers"])
    block = ledger.block(proven.header)
    if block is None:
        raise ProofRefused("no header could be verified")

    async def opinion(address: str) -> Server:
        try:
            await ledger.confirm(address, block)
        except ForkDetected:
            raise
        except ProofRefused as error:
            return Server(address, REFUSED, str(error))
        except TimeoutError:
            return Server(address, SILENT, "too slow")
        except (NetworkNotFound, RemoteProtocolError, RpcError) as error:
            return Server(address, SILENT, str(error))
        return Server(address, AGREES, "")

    servers = await asyncio.gather(*(opinion(address) for address in ledger.network.rpc))
    return Check(ledger.network, block, proven, tuple(servers))


def trust_place(network_file: Path, network: Network) -> Path:
    from planetserve.light.trust import trust_file

    return trust_file(network_file, network)


def _show(check: Check, place: Path) -> None:
    network, header = check.network, check.block.header
    show_pairs(
        [
            ("chain", network.chain_id),
            ("trusted", _root_of_trust(network)),
            ("period", f"a header is believed for {_duration(network.trust_period_s)}"),
            ("remembered", f"{place}{'' if place.exists() else ' (not written yet)'}"),
            ("header", f"height {header.height} of {_time(header.time_ns)}"),
            ("hash", check.block.hash.hex()),
            ("app hash", f"{header.app_hash.hex()}, of the state after {check.proven.height}"),
        ]
    )
    names = _names(check)
    signed = _signed(check.block)
    total = check.block.validators.total_power
    rows = [
        [
            names.get(validator.key, "-"),
            validator.address.hex(),
            validator.power,
            f"{100 * validator.power / total:.1f} %",
            "yes" if validator.address in signed else "no",
        ]
        for validator in check.block.validators.validators
    ]
    show_table(["validator", "address", "power", "share", "signed"], rows)
    power = _signed_power(check.block)
    typer.echo(f"signed with power {power} of {total}; more than {2 * total // 3} is needed")
    show_table(
        ["server", "says", "reason"], [[s.address, s.verdict, s.reason] for s in check.servers]
    )
    agreeing = sum(server.verdict == AGREES for server in check.servers)
    typer.echo(f"{agreeing} of {plural(len(check.servers), 'server')} show this header")
    if len(check.servers) == 1:
        typer.echo("a fork cannot be seen through one server: name more in the network file")
    show_verified(check.proven.height)


def _json(check: Check, place: Path) -> dict[str, Any]:
    network, block = check.network, check.block
    names, signed = _names(check), _signed(block)
    return {
        "height": check.proven.height,
        "verified_height": check.proven.height,
        "chain_id": network.chain_id,
        "trust": {
            "height": network.trusted_height,
            "hash": network.trusted_hash or None,
            "genesis_validators_hash": network.genesis_validators_hash or None,
            "period_s": network.trust_period_s,
            "file": str(place),
        },
        "header": {
            "height": block.height,
            "time": _time(block.header.time_ns),
            "hash": block.hash,
            "app_hash": block.header.app_hash,
            "validators_hash": block.header.validators_hash,
        },
        "validators": [
            {
                "name": names.get(validator.key),
                "address": validator.address,
                "key": validator.key,
                "power": validator.power,
                "signed": validator.address in signed,
            }
            for validator in block.validators.validators
        ],
        "signed_power": _signed_power(block),
        "total_power": block.validators.total_power,
        "store_roots": dict(check.proven.roots),
        "servers": [
            {"address": s.address, "verdict": s.verdict, "reason": s.reason} for s in check.servers
        ],
    }


def _root_of_trust(network: Network) -> str:
    if network.trusted_hash:
        return f"header {network.trusted_height} with hash {network.trusted_hash}"
    return (
        f"header {network.trusted_height}, if its validators are those of genesis "
        f"({network.genesis_validators_hash[:16]})"
    )


def _names(check: Check) -> Mapping[bytes, str]:
    """By consensus key."""
    verifiers = check.proven.stores["verifiers"].values()
    return {bytes(record["consensus_key"]): str(record["name"]) for record in verifiers}


def _signed(block: LightBlock) -> set[bytes]:
    from planetserve.light.blocks import COMMIT

    return {vote.address for vote in block.commit.votes if vote.flag == COMMIT}


def _signed_power(block: LightBlock) -> int:
    signed = _signed(block)
    return sum(v.power for v in block.validators.validators if v.address in signed)


def _time(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // NANOSECONDS, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _duration(seconds: int) -> str:
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            return plural(seconds // size, word)
    return plural(seconds, "second")

"""Upgrades of the rules, at a height that the verifiers have voted.

`chain/main` holds the version of the rules that the state follows. A vote puts the next one and
its height into `chain/upgrade`; when that block comes every validator migrates its state in the
same way and goes on under the new rules. A program that lacks them must stop there, before the
block changes anything, and say what to install: with other rules than the rest of the network it
would compute another state.

To add a version: write its `migrate`, enter it into `UPGRADES`, and let the rules that differ ask
`Chain.version`. A program keeps the rules of each version it still lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from abci_app.core.state import Reader, View, load
from planetserve.errors import ConfigurationError
from planetserve.statekeys import CHAIN_KEY, UPGRADE_KEY


class UpgradeNeeded(ConfigurationError):
    """The chain's rules are newer than this program."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The rules of `version` take over before the transactions of block `height`."""

    version: int
    height: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """`migrate` turns a state of the version before into one of `version`: purely, and with the
    same writes on every validator."""

    version: int
    migrate: Callable[[View], None]


def _begin(view: View) -> None:
    """The first version's state is made by genesis."""


UPGRADES: Mapping[int, Upgrade] = {1: Upgrade(1, _begin)}
"""The versions of the rules that this program follows."""


def scheduled(reader: Reader) -> Scheduled | None:
    """The upgrade that was voted and is still to come."""
    record = load(reader, UPGRADE_KEY)
    return None if record is None else Scheduled(record["version"], record["height"])


def schedule(view: View, upgrade: Scheduled) -> None:
    """Put an upgrade in place of the one that was scheduled before, if one was."""
    view.save(UPGRADE_KEY, {"version": upgrade.version, "height": upgrade.height})


def cancel(view: View) -> None:
    """Call off the upgrade that was scheduled."""
    view.delete(UPGRADE_KEY)


def due(reader: Reader, height: int) -> Scheduled | None:
    """The upgrade that belongs to block `height`, if one does."""
    coming = scheduled(reader)
    return coming if coming is not None and coming.height <= height else None


def run_upgrade(view: View, height: int, upgrades: Mapping[int, Upgrade] = UPGRADES) -> int | None:
    """At the start of block `height`, carry out the upgrade that is due; its version, None when
    there is none. Raises `UpgradeNeeded`, before any write, when `upgrades` lacks it."""
    upgrade = require_due(view, height, upgrades)
    if upgrade is None:
        return None
    upgrade.migrate(view)
    view.save(CHAIN_KEY, {**load(view, CHAIN_KEY), "version": upgrade.version})
    view.delete(UPGRADE_KEY)
    return upgrade.version


def require_due(
    reader: Reader, height: int, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> Upgrade | None:
    """What block `height` begins with. Raises `UpgradeNeeded` when `upgrades` lacks it."""
    coming = due(reader, height)
    if coming is None:
        return None
    upgrade = upgrades.get(coming.version)
    if upgrade is None:
        raise UpgradeNeeded(
            f"from block {coming.height} on the chain follows version {coming.version} of its "
            f"rules and this program knows {_known(upgrades)}; install a PlanetServe release "
            f"that supports version {coming.version} and start again: nothing was changed"
        )
    return upgrade


def require_known(version: int, upgrades: Mapping[int, Upgrade] = UPGRADES) -> None:
    """Raises `UpgradeNeeded` when a state follows rules that this program lacks."""
    if version not in upgrades:
        raise UpgradeNeeded(
            f"the state follows version {version} of the ledger's rules and this program knows "
            f"{_known(upgrades)}; install a PlanetServe release that supports version {version}: "
            "nothing was changed"
        )


def _known(upgrades: Mapping[int, Upgrade]) -> str:
    return ", ".join(str(version) for version in sorted(upgrades))

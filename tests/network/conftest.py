from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.localnetwork import LocalNetwork, free_base_port

SMALL = """\
chain_id = "planetserve-small"
base_port = 26600
model = "smollm2-135m-instruct"
block_interval_ms = 500

[validators]
count = 1
power = 10
probers = 1

[relays]
count = 1
"""


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that share the local network come last of the tests here, so that its twenty
    processes run beside no others."""
    places = [place for place, item in enumerate(items) if item.path.parent == HERE]
    moved = sorted((items[place] for place in places), key=_shares_the_network)
    for place, item in zip(places, moved, strict=True):
        items[place] = item


def _shares_the_network(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "localnet" in item.fixturenames


@pytest.fixture(scope="package")
def localnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalNetwork]:
    """The default topology, up and ready. A test that ends one of its processes starts it again."""
    network = LocalNetwork(tmp_path_factory.mktemp("net") / ".localnet", free_base_port())
    try:
        network.up()
        yield network
    finally:
        network.down()


@pytest.fixture
def small_network(tmp_path: Path) -> Iterator[LocalNetwork]:
    """One validator with its prober and one relay, not yet up."""
    topology = tmp_path / "small.toml"
    topology.write_text(SMALL)
    folder, base_port = tmp_path / ".localnet", free_base_port()
    network = LocalNetwork(folder, base_port, ["--topology", str(topology)])
    yield network
    network.down()

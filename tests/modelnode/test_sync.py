"""What a group tells each other arrives everywhere, whatever the network does."""

from __future__ import annotations

import random

import pytest

from bench.sync_world import Conversations, Network, talk
from planetserve.keys import NodeId

CONVERGENCE_S = 2.0


def trees_agree(network: Network) -> bool:
    stats = [node.tree.stats() for node in network.nodes.values()]
    return len({(each.chunks, each.owned_chunks) for each in stats}) == 1


def test_everybody_hears_everything() -> None:
    network = Network(8)
    talk(network, Conversations(random.Random(1)), 10.0, 100)
    assert network.run_until_converged(CONVERGENCE_S) <= 1.0
    assert trees_agree(network)
    assert network.nodes[network.ids[0]].tree.stats().owned_chunks > 500
    assert not any(node.faults for node in network.nodes.values())


@pytest.mark.parametrize("seed", range(3))
def test_it_converges_after_a_partition(seed: int) -> None:
    network = Network(8, seed)
    conversations = Conversations(random.Random(seed))
    talk(network, conversations, 5.0, 40)
    network.part(network.ids[: 3 + seed])
    talk(network, conversations, 30.0, 100)
    assert network.behind()
    network.join()
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert trees_agree(network)


def test_it_converges_while_messages_are_lost_doubled_and_out_of_order() -> None:
    network = Network(8)
    network.loss, network.doubled, network.jitter_s = 0.15, 0.15, 0.1
    conversations = Conversations(random.Random(2))
    talk(network, conversations, 10.0, 60)
    network.loss = 0.0
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert trees_agree(network)


def test_a_node_that_starts_late_gets_a_snapshot() -> None:
    network = Network(4)
    late = network.ids[3]
    network.reachable = lambda one, other: late not in (one, other)
    talk(network, Conversations(random.Random(3)), 60.0, 400)
    # So long ago that the deltas are gone.
    for node in network.nodes.values():
        node.sync.log._recent.clear()
    network.join()
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert network.nodes[late].tree.stats().owned_chunks > 1_000
    talk(network, Conversations(random.Random(4)), 5.0, 20)
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    network.run(25.0)
    assert not any(node.faults for node in network.nodes.values())


def test_a_snapshot_names_every_node_that_holds_a_path() -> None:
    network = Network(3)
    first, second, late = network.ids
    network.reachable = lambda one, other: late not in (one, other)
    for owner, path in ((first, b"abcd"), (second, b"abcdef"), (first, b"abcdefgh")):
        network.nodes[first].send(owner, path, network.now_s)
        network.run(1.0)
    network.nodes[first].sync.log._recent.clear()
    network.join()
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert network.nodes[late].tree.match(b"abcdefgh") == {0: 4, 1: 3}


def test_a_restarted_node_begins_a_new_epoch() -> None:
    network = Network(4)
    conversations = Conversations(random.Random(5))
    talk(network, conversations, 5.0, 40)
    network.restart(network.ids[0])
    talk(network, conversations, 5.0, 40)
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert not any(node.faults for node in network.nodes.values())


def holders(network: Network, reader: NodeId, owner: NodeId) -> int:
    return network.nodes[reader].tree.owned_chunks(network.ids.index(owner))


def test_a_node_that_lost_its_cache_is_dropped_everywhere() -> None:
    network = Network(4)
    talk(network, Conversations(random.Random(6)), 10.0, 80)
    emptied, *others = network.ids
    assert all(holders(network, reader, emptied) for reader in network.ids)
    network.nodes[emptied].empty(network.now_s)
    network.run(1.0)
    assert [holders(network, reader, emptied) for reader in network.ids] == [0, 0, 0, 0]
    assert all(holders(network, reader, owner) for reader in others for owner in others)
    # What those who told it keep for new readers names it no more.
    for node in network.nodes.values():
        assert not any(owner == emptied for owner, _ in node.sync.log.held())
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S


def test_a_missed_loss_of_a_cache_is_seen_in_the_snapshot() -> None:
    network = Network(3)
    talk(network, Conversations(random.Random(8)), 10.0, 60)
    emptied, reader, _ = network.ids
    network.run(1.0)
    before = holders(network, reader, emptied)
    network.reachable = lambda one, other: {one, other} != {emptied, reader}
    network.nodes[emptied].empty(network.now_s)
    network.run(3.0)
    network.nodes[emptied].sync.log._recent.clear()
    network.join()
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    network.run(1.0)
    assert before > 0
    assert holders(network, reader, emptied) == 0


@pytest.mark.parametrize("roaming", [False, True])
def test_a_request_costs_few_bytes(roaming: bool) -> None:
    """Of sync to one peer, with 2.5 requests a second at each of eight entry nodes."""
    network = Network(8)
    requests = 600
    talk(network, Conversations(random.Random(9)), requests / 20, requests, roaming=roaming)
    network.run(1.0)
    sent = sum(node.sync.counts.sent_bytes for node in network.nodes.values())
    assert sent / (len(network.ids) - 1) / requests <= 64


def test_a_conversation_that_comes_to_another_entry_is_not_told_anew() -> None:
    network = Network(3)
    first, second, reader = (network.nodes[node] for node in network.ids)
    long = random.Random(1).randbytes(2_000)
    first.send(reader.id, long, network.now_s)
    network.run(2.0)
    before = second.sync.counts.sent_bytes
    second.send(reader.id, long + b"more", network.now_s)
    network.run(0.9)
    assert second.sync.counts.sent_bytes - before < 200
    assert network.run_until_converged(CONVERGENCE_S) <= CONVERGENCE_S
    assert reader.tree.match(long + b"more") == {2: 1_002}


def test_a_path_that_a_reader_has_not_heard_is_fetched() -> None:
    network = Network(3)
    first, second, reader = (network.nodes[node] for node in network.ids)
    network.run(2.0)
    network.reachable = lambda one, other: {one, other} != {first.id, reader.id}
    path = random.Random(1).randbytes(200)
    first.send(reader.id, path, network.now_s)
    network.run(2.0)
    second.send(reader.id, path + b"more", network.now_s)
    network.run(2.0)
    assert reader.tree.match(path + b"more") == {2: 102}
    assert not any(node.faults for node in network.nodes.values())

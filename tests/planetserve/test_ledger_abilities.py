"""What a node can do, told from a ledger's own records."""

from __future__ import annotations

from abci_app.core.state import load
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.ledger_cli.explanation import abilities, thresholds
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED, NodeRecord
from planetserve.statekeys import route_key, waiting_key
from planetserve.transactions import REGISTER
from tests.abci_app.world import FOUNDER, MODEL, VERIFIERS, World, registration
from tests.planetserve.test_ledger_explain import founded, reputation_of, score


def route_of(world: World, identity: Identity) -> NodeRecord:
    endorsed = load(world.state, route_key(identity.id))
    return NodeRecord.from_wire(endorsed or load(world.state, waiting_key(identity.id)))


def abilities_of(world: World, identity: Identity, chance: int | None) -> dict[str, str]:
    reputation = reputation_of(world, identity.id)
    parameters = world.chain.parameters
    node = route_of(world, identity)
    return dict(abilities(node, reputation, parameters, chance, world.height))


def test_what_a_node_can_do() -> None:
    world = founded()
    assert abilities_of(world, FOUNDER, 80_000) == {
        "routed to": "yes",
        "dialled": "yes",
        "probed": "yes, each prober with chance .080 an epoch",
    }
    assert world.code_of(MODEL, REGISTER, registration(MODEL, role="model")) == 0
    assert route_of(world, MODEL).status == CANDIDATE
    assert abilities_of(world, MODEL, 1_000_000) == {
        "routed to": "no: a role of it is not endorsed by any verifier, or no longer",
        "dialled": "no: no verifier vouches for it now",
        "probed": "no",
    }
    data = transactions.endorse(node=MODEL.id, role="model", expires=world.height + 50)
    assert world.code_of(VERIFIERS[0], transactions.ENDORSE, data) == 0
    candidate = abilities_of(world, MODEL, 1_000_000)
    assert candidate["routed to"].startswith("no: its admission probes have not passed")
    assert (candidate["dialled"], candidate["probed"]) == ("yes", "yes, by every prober")
    world.advance_to(world.window.end)
    for _ in range(2):
        score(world, FOUNDER.id, 0, 0, 0, 0)
    assert route_of(world, FOUNDER).status == UNTRUSTED
    fallen = abilities_of(world, FOUNDER, 1_000_000)
    assert fallen["routed to"] == (
        "no: it lost trust; back with R >= .500 after 5 epochs in a row with C >= .400, so far 0"
    )
    assert fallen["probed"] == "yes, by every prober: under alarm until 8 more good epochs"
    reputation = reputation_of(world, FOUNDER.id)
    limits = dict(thresholds(reputation, world.chain.parameters))
    assert limits["CUSUM"] == "1.000; trust is lost at 1.000"
    assert route_of(world, FOUNDER).status != TRUSTED

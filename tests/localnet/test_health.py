from localnet.health import Health, is_complete, status_document
from planetserve.keys import node_id
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED, NodeRecord, RouteSet
from tests.localnet.test_state import STATE


def node(number: int, role: str, status: str) -> NodeRecord:
    key = bytes([number]) * 32
    return NodeRecord(
        id=node_id(key),
        key=key,
        name=f"node-{number}",
        roles=(role,),
        onion_key=key,
        transport_key=key,
        endpoints={},
        model="m" if role == "model" else "",
        operator="",
        registered=1,
        credential_expires=100,
        reputation_ppm=None,
        status=status,
    )


def routes(*nodes: NodeRecord) -> RouteSet:
    return RouteSet(1, b"", nodes)


def test_candidates_are_waited_for() -> None:
    relay, model = node(1, "relay", TRUSTED), node(2, "model", TRUSTED)
    assert is_complete(routes(relay, model), relays=1, model_nodes=1)
    assert not is_complete(routes(relay, node(2, "model", CANDIDATE)), relays=1, model_nodes=1)
    assert not is_complete(routes(node(1, "relay", CANDIDATE), model), relays=1, model_nodes=1)


def test_a_model_node_that_lost_its_trust_was_admitted() -> None:
    assert is_complete(routes(node(2, "model", UNTRUSTED)), relays=0, model_nodes=1)


def test_the_document_has_what_programs_rely_on() -> None:
    healths = {"relay-1": Health(True), "relay-2": Health(False, "it was ended by signal 9")}
    assert status_document(STATE, False, healths) == {
        "ready": False,
        "processes": [
            {
                "name": "relay-1",
                "role": "relay",
                "pid": 7,
                "healthy": True,
                "addresses": {"http": "127.0.0.1:1"},
                "log": "/log",
            },
            {
                "name": "relay-2",
                "role": "relay",
                "pid": None,
                "healthy": False,
                "addresses": {},
                "log": "/log",
            },
        ],
    }

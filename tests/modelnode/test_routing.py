"""What an entry makes of its group: prefixes are found again, liars weighed, choices explained."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack

from modelnode.core.choosing import Choice
from modelnode.core.chunks import Scheme
from modelnode.core.hr_tree import HRTree
from modelnode.core.load import Report
from modelnode.question import Question
from modelnode.routing import CHOICES_KEPT, Router, explain
from planetserve.chat import ChatRequest, Message
from planetserve.keys import NodeId
from planetserve.messages import Usage

NODES = tuple(NodeId(bytes([number]) * 20) for number in range(1, 5))
OWN = NODES[0]
SYSTEM = "You know all about rivers. " * 40


def question(*turns: str, system: str = SYSTEM) -> Question:
    roles = ("user", "assistant")
    messages = [Message("system", system)]
    messages += [Message(roles[number % 2], turn) for number, turn in enumerate(turns)]
    return Question(b"", ChatRequest("m", tuple(messages), 64))


class Entry:
    """A router whose clock is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.down: set[NodeId] = set()
        self.router = Router(
            OWN,
            Scheme("text", 64),
            HRTree(7),
            lambda: self.now_s,
            random.Random(1).randrange,
            lambda node: node not in self.down,
        )
        self.router.set_members(NODES)
        for node in NODES:
            self.hear(node)

    def hear(self, node: NodeId, queued_tokens: int = 0) -> None:
        self.router.heard(node, Report(0, 0, 8, queued_tokens, 500, 3_000, 300))

    def ask(self, asked: Question) -> Choice:
        return self.router.choose(self.router.route(asked), ())

    def serve(self, asked: Question, text: str = "Yes.", cached: int | None = None) -> NodeId:
        route = self.router.route(asked)
        chosen = self.router.choose(route, ()).chosen
        assert chosen is not None
        usage = Usage(route.prompt.tokens, 10, chosen.claimed_tokens if cached is None else cached)
        with self.router.assignment(route):
            self.router.first_token(route)
            self.router.served(route, text, usage)
        return chosen.node


def test_a_conversation_and_its_system_prompt_find_their_node_again() -> None:
    entry = Entry()
    first = entry.serve(question("Which is the longest?"), "The Nile, or the Amazon.")
    again = entry.ask(question("Which is the longest?", "The Nile, or the Amazon.", "And here?"))
    assert again.node == first
    other = entry.ask(question("Which is the shortest?"))
    assert other.node == first
    assert other.chosen is not None
    assert 0 < other.chosen.claimed_tokens <= len(SYSTEM) // 4 + 2


def test_the_reply_is_part_of_what_the_node_holds() -> None:
    entry = Entry()
    text = "A long answer about rivers. " * 30
    entry.serve(question("Which?"), text)
    again = entry.ask(question("Which?", text, "And?"))
    assert again.chosen is not None
    assert again.chosen.cost.uncached_tokens < 40


def test_what_a_node_says_of_itself_is_found() -> None:
    entry, teller = Entry(), Entry()
    path = teller.router.prompt(question("Which is the longest?").request).chain.path
    entry.router.learn(NODES[2], path, NODES[2])
    found = entry.ask(question("Which is the shortest?"))
    assert found.node == NODES[2]
    stranger = NodeId(b"\x99" * 20)
    for node, told_by in ((stranger, NODES[2]), (NODES[1], stranger)):
        entry.router.learn(node, path, told_by)
    again = entry.ask(question("Which is the shortest?"))
    assert [c.node for c in again.candidates if c.claimed_tokens] == [NODES[2]]


def test_what_the_own_engine_holds_need_not_be_computed() -> None:
    entry = Entry()
    prompt = entry.router.prompt(question("Which is the longest?").request)
    assert entry.router.cached_here(prompt) == 0
    entry.router.hold(prompt.chain.path)
    assert prompt.tokens - 16 <= entry.router.cached_here(prompt) <= prompt.tokens


def test_a_burst_is_spread_before_anybody_reports() -> None:
    """Each prompt alone, of 270 tokens at half a millisecond: nobody serves two while one is
    free."""
    entry = Entry()
    served = []
    with ExitStack() as running:
        for number in range(4):
            route = entry.router.route(question("Which?", system=f"{number} " + SYSTEM))
            served.append(entry.router.choose(route, ()).node)
            running.enter_context(entry.router.assignment(route))
    assert set(served) == set(NODES)


def test_what_went_with_a_restart_is_not_believed() -> None:
    entry = Entry()
    node = entry.serve(question("Which?"))
    entry.router.emptied(node)
    choice = entry.ask(question("Which?"))
    assert all(not candidate.claimed_tokens for candidate in choice.candidates)


def test_a_node_that_left_and_came_back_begins_anew() -> None:
    entry = Entry()
    node = entry.serve(question("Which?"))
    for _ in range(3):
        entry.router.set_members([other for other in NODES if other != node])
        entry.router.set_members(NODES)
    for other in NODES:
        entry.hear(other)
    choice = entry.ask(question("Which?"))
    assert len(choice.candidates) == len(NODES)
    assert all(not candidate.claimed_tokens for candidate in choice.candidates)


def test_a_node_that_claims_what_it_does_not_hold_gets_no_more_for_it() -> None:
    entry = Entry()
    liar = entry.serve(question("Which?"), cached=0)
    for _ in range(40):
        entry.serve(question("Which?"), cached=0)
        for node in NODES:
            if node != liar:
                entry.router.emptied(node)
    assert entry.router.claims.weight(liar) < 0.5


def test_no_more_is_believed_of_a_cache_than_it_can_hold() -> None:
    entry = Entry()
    entry.serve(question("Which?"))
    entry.router.heard(OWN, Report(0, 0, 8, cache_tokens=160))
    for number in range(40):
        path = entry.router.prompt(question(f"{number}", system=f"{number}" * 900).request)
        entry.router.learn(OWN, path.chain.path, OWN)
    assert entry.router._tree.owned_chunks(entry.router._indices.of(OWN)) <= 10


def test_a_node_whose_engine_does_not_serve_is_passed_over() -> None:
    entry = Entry()
    node = entry.serve(question("Which?"))
    entry.router.heard(node, Report(0, 0, 8, serving=False))
    assert entry.ask(question("Which?")).node != node
    entry.hear(node)
    assert entry.ask(question("Which?")).node == node


def test_gates_hold_whatever_the_tree_says() -> None:
    entry = Entry()
    node = entry.serve(question("Which?"))
    entry.down.add(node)
    assert entry.ask(question("Which?")).node != node
    entry.down.clear()
    entry.router.lost(NODES[1])
    assert NODES[1] not in {candidate.node for candidate in entry.ask(question("Who?")).candidates}


def test_choices_are_explained_without_a_word_of_the_prompt() -> None:
    entry = Entry()
    for number in range(CHOICES_KEPT + 5):
        entry.now_s = float(number)
        entry.serve(question(f"Which? {number}"))
    shown = explain(entry.router.choices, entry.now_s + 1)
    assert len(shown) == CHOICES_KEPT
    assert shown[0]["age_s"] == 1.0
    candidates = shown[0]["candidates"]
    assert isinstance(candidates, list)
    assert {c["node"] for c in candidates} == {node.hex() for node in NODES}
    assert "rivers" not in json.dumps(shown)

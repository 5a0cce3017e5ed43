"""The ABCI server over a real socket: order, queries beside blocks, faults, floods, endings."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.application import Application
from abci_app.core.codes import Code
from abci_app.handlers import Handlers
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.server import MAX_CONNECTIONS, AbciServer
from abci_app.store import open_store
from abci_app.wire import FrameDecoder, encode_frame
from planetserve.encoding import encode
from planetserve.errors import ConfigurationError
from tests.abci_app.test_handlers import init_chain, validators
from tests.abci_app.world import CHAIN_ID


class Peer:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._decoder = FrameDecoder()
        self._waiting: list[abci.Response] = []

    def send(self, *requests: abci.Request) -> None:
        frames = b"".join(encode_frame(request.SerializeToString()) for request in requests)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(frames)

    def receive(self) -> abci.Response | None:
        """The next answer, or None when the connection has ended."""
        while not self._waiting:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._waiting += map(abci.Response.FromString, self._decoder.feed(data))
        return self._waiting.pop(0)


class Running:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.sock"
        self.store = open_store(folder / "ledger", CHAIN_ID)
        self.application = Application(self.store, CHAIN_ID)
        self.handlers = Handlers(self.application, LedgerMetrics())
        init_chain(self.handlers, validators())
        self.application.finalize(1, [])
        self.application.commit()
        self.failures: list[Exception] = []
        self.failed = threading.Event()
        self.server = AbciServer(self.handlers, self._fail)
        self.server.listen(f"unix://{self.path}")
        self.server.serve()

    def _fail(self, error: Exception) -> None:
        self.failures.append(error)
        self.failed.set()

    def close(self) -> None:
        self.server.close()
        self.store.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    node = Running(tmp_path)
    yield node
    node.close()


def query() -> abci.Request:
    data = encode({"keys": [b"chain/main"], "stores": []})
    return abci.Request(query=abci.RequestQuery(path="/state", data=data))


FLUSH = abci.Request(flush=abci.RequestFlush())


def test_answers_come_in_the_order_of_requests(running: Running) -> None:
    peer = Peer(running.path)
    requests = [abci.Request(echo=abci.RequestEcho(message=str(n))) for n in range(50)]
    peer.send(*requests, FLUSH)
    answers = [peer.receive() for _ in range(51)]
    messages = [answer.echo.message for answer in answers[:-1] if answer is not None]
    assert messages == [str(number) for number in range(50)]
    last = answers[-1]
    assert last is not None
    assert last.WhichOneof("value") == "flush"


def test_a_query_is_answered_while_a_block_is_executed(running: Running) -> None:
    consensus, reader = Peer(running.path), Peer(running.path)
    with running.application.lock:
        consensus.send(abci.Request(finalize_block=abci.RequestFinalizeBlock(height=2)), FLUSH)
        reader.send(query(), FLUSH)
        answer = reader.receive()
        assert answer is not None
        assert answer.query.code == Code.OK
        info = Peer(running.path)
        info.send(abci.Request(info=abci.RequestInfo()))
        answer = info.receive()
        assert answer is not None
        assert answer.info.last_block_height == 1
    answer = consensus.receive()
    assert answer is not None
    assert answer.WhichOneof("value") == "finalize_block"


def test_a_failing_handler_stops_everything_and_answers_nothing(running: Running) -> None:
    consensus, reader = Peer(running.path), Peer(running.path)
    reader.send(query())
    assert reader.receive() is not None
    consensus.send(abci.Request(finalize_block=abci.RequestFinalizeBlock(height=7)), FLUSH)
    assert consensus.receive() is None
    assert running.failed.wait(10)
    assert [type(error) for error in running.failures] == [ValueError]
    reader.send(query())
    assert reader.receive() is None


@pytest.mark.parametrize(
    "data", [b"\xff" * 10, b"\x03\xff\xff\xff", b"\xff\xff\xff\xff\x0f", b"\x00", b"\x02\xf8\x07"]
)
def test_who_does_not_speak_the_protocol_is_cut_off_alone(running: Running, data: bytes) -> None:
    stranger, peer = Peer(running.path), Peer(running.path)
    stranger.socket.sendall(data)
    assert stranger.receive() is None
    peer.send(query())
    assert peer.receive() is not None
    assert not running.failures


def test_connections_are_few_and_their_places_return(running: Running) -> None:
    peers = [Peer(running.path) for _ in range(MAX_CONNECTIONS)]
    for peer in peers:
        peer.send(FLUSH)
        assert peer.receive() is not None
    extra = Peer(running.path)
    assert extra.receive() is None
    peers[0].socket.close()
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        late = Peer(running.path)
        late.send(FLUSH)
        if late.receive() is not None:
            return
    pytest.fail("the place of a closed connection was never given away again")


def test_long_answers_wait_for_their_reader_one_by_one(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = []

    def handle(request: abci.Request) -> abci.Response:
        handled.append(request)
        return abci.Response(query=abci.ResponseQuery(value=bytes(2 << 20)))

    monkeypatch.setattr(running.handlers, "handle", handle)
    peer = Peer(running.path)
    peer.send(*[query()] * 100)
    for number in range(1, 101):
        answer = peer.receive()
        assert answer is not None
        assert len(answer.query.value) == 2 << 20
        assert len(handled) <= number + 3


def test_a_peer_that_leaves_in_the_middle_harms_nobody(running: Running) -> None:
    for _ in range(5):
        peer = Peer(running.path)
        peer.send(*[query()] * 50)
        peer.socket.close()
    peer = Peer(running.path)
    peer.send(query())
    assert peer.receive() is not None
    assert not running.failures


def test_the_socket_of_a_killed_node_is_taken_over_and_ours_removed(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "app.sock"))
    stale.close()
    node = Running(tmp_path)
    peer = Peer(node.path)
    peer.send(FLUSH)
    assert peer.receive() is not None
    node.close()
    assert peer.receive() is None
    assert not node.path.exists()


@pytest.mark.parametrize("address", ["app.sock", "tcp://127.0.0.1:x", "unix:///no/such/dir/s"])
def test_addresses_that_cannot_be_served_are_named(running: Running, address: str) -> None:
    server = AbciServer(running.handlers, lambda error: None)
    with pytest.raises(ConfigurationError, match="cannot serve ABCI"):
        server.listen(address)


def test_a_file_that_is_no_socket_is_left_alone(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(ConfigurationError):
        AbciServer(running.handlers, lambda error: None).listen(f"unix://{path}")
    assert path.read_text() == "mine"

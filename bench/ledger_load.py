"""The load tool: clients that each wait for an answer before they send the next transaction.

Every client owns one connection to one RPC server and a queue of requests made and signed
beforehand. It posts `broadcast_tx_sync`, waits for the answer, and posts the next; what a mempool
refuses is posted again after a pause, so a full mempool slows the clients down and loses nothing.
That closed loop is what saturates a network: its rate is what consensus lets through, not what
the tool chose. One more connection asks one server for its height, and so sees when a block is
committed; a transaction's latency runs from the moment its first posting was written until the
height of its block was seen.

One thread on raw sockets does all of it, for it shares the machine with what it measures.
"""

from __future__ import annotations

import base64
import gc
import json
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PAUSE_S = 0.02
STATUS_INTERVAL_S = 0.02
ANSWER_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 1 << 20
STATUS_REQUEST = b"GET /status HTTP/1.1\r\nHost: load\r\n\r\n"
ACCEPTED = b'"result":{"code":0,'
HEIGHT = b'"latest_block_height":"'

Address = tuple[str, int]


class LoadError(RuntimeError):
    """A server answered nothing, or something that is no answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One transaction as the bytes of an HTTP request; `key` finds it again in a block."""

    key: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Load:
    """What a run saw, in seconds of the monotonic clock: when each transaction was sent, when
    each height was first seen, and how often a transaction was refused, by the answer's start."""

    started_s: float
    ended_s: float
    sent_s: Mapping[str, float]
    seen_s: Mapping[int, float]
    refused: Mapping[str, int]
    unsent: int


def make_request(transaction: bytes) -> Request:
    key = base64.b64encode(transaction).decode()
    body = json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_sync", "params": {"tx": key}}
    ).encode()
    head = (
        "POST / HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return Request(key, head.encode() + body)


@dataclass(slots=True)
class _Connection:
    address: Address
    queue: deque[Request] = field(default_factory=deque)
    received: bytearray = field(default_factory=bytearray)
    waiting_since_s: float = 0.0
    socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(self.address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def answer(self) -> bytes | None:
        """The body of a whole answer, once there is one."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise LoadError(f"{self.address[0]}:{self.address[1]} closed the connection")
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[:end]).lower()
        mark = head.find(b"content-length:")
        if mark < 0:
            raise LoadError("an answer without its length")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0])
        if length > MAX_ANSWER_BYTES:
            raise LoadError("an answer exceeds the size limit")
        if len(self.received) < end + 4 + length:
            return None
        body = bytes(self.received[end + 4 : end + 4 + length])
        self.received.clear()
        return body


def run_load(
    queues: Sequence[Sequence[Request]], addresses: Sequence[Address], duration_s: float
) -> Load:
    """Let one client a queue send for `duration_s` seconds or until the queues are empty. Clients
    take turns over the `addresses`; the first tells the heights, also for as long after the end
    as it takes to see two more."""
    clients = [
        _Connection(addresses[number % len(addresses)], deque(queue))
        for number, queue in enumerate(queues)
    ]
    watcher = _Connection(addresses[0])
    gc.collect()
    gc.disable()
    try:
        return _Run(clients, watcher, duration_s).run()
    finally:
        gc.enable()
        for connection in (*clients, watcher):
            connection.socket.close()


class _Run:
    def __init__(
        self, clients: Sequence[_Connection], watcher: _Connection, duration_s: float
    ) -> None:
        self._clients = clients
        self._watcher = watcher
        self._duration_s = duration_s
        self._poll = select.epoll()
        self._by_descriptor = {client.socket.fileno(): client for client in clients}
        self._sent_s: dict[str, float] = {}
        self._seen_s: dict[int, float] = {}
        self._refused: Counter[str] = Counter()
        self._paused: deque[tuple[float, _Connection]] = deque()
        self._asked = False
        self._ask_at_s = 0.0

    def run(self) -> Load:
        for connection in (*self._clients, self._watcher):
            self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        started_s = time.monotonic()
        until_s = started_s + self._duration_s
        active = 0
        for client in self._clients:
            active += self._post_next(client, started_s)
        ended_s = started_s
        last_wanted: int | None = None
        while True:
            now_s = time.monotonic()
            if active == 0 and last_wanted is None:
                ended_s = now_s
                last_wanted = max(self._seen_s, default=0) + 2
            if last_wanted is not None and max(self._seen_s, default=0) >= last_wanted:
                break
            while self._paused and self._paused[0][0] <= now_s:
                client = self._paused.popleft()[1]
                if now_s < until_s:
                    self._post(client, client.queue[0], now_s)
                else:
                    active -= 1
            if not self._asked and now_s >= self._ask_at_s:
                self._watcher.socket.sendall(STATUS_REQUEST)
                self._asked = True
                self._watcher.waiting_since_s = now_s
            for descriptor, _ in self._poll.poll(0.005):
                if descriptor == self._watcher.socket.fileno():
                    self._read_status()
                else:
                    active -= self._read_answer(self._by_descriptor[descriptor], until_s)
            self._check_patience(now_s)
        self._poll.close()
        unsent = sum(len(client.queue) for client in self._clients)
        return Load(started_s, ended_s, self._sent_s, self._seen_s, self._refused, unsent)

    def _post_next(self, client: _Connection, now_s: float) -> bool:
        if not client.queue:
            return False
        self._sent_s[client.queue[0].key] = now_s
        self._post(client, client.queue[0], now_s)
        return True

    def _post(self, client: _Connection, request: Request, now_s: float) -> None:
        client.waiting_since_s = now_s
        client.socket.sendall(request.content)

    def _read_answer(self, client: _Connection, until_s: float) -> bool:
        """Whether the client has come to its end."""
        body = client.answer()
        if body is None:
            return False
        now_s = time.monotonic()
        client.waiting_since_s = 0.0
        if ACCEPTED in body:
            client.queue.popleft()
            if now_s < until_s and self._post_next(client, now_s):
                return False
            # An idle connection is closed by its server after a while.
            self._poll.unregister(client.socket.fileno())
            return True
        self._refused[_reason(body)] += 1
        self._paused.append((now_s + PAUSE_S, client))
        return False

    def _read_status(self) -> None:
        body = self._watcher.answer()
        if body is None:
            return
        now_s = time.monotonic()
        self._asked = False
        self._ask_at_s = now_s + STATUS_INTERVAL_S
        self._watcher.waiting_since_s = 0.0
        start = body.find(HEIGHT)
        if start < 0:
            raise LoadError("a status without a height")
        start += len(HEIGHT)
        height = int(body[start : body.index(b'"', start)])
        for passed in range(max(self._seen_s, default=height - 1) + 1, height + 1):
            self._seen_s[passed] = now_s

    def _check_patience(self, now_s: float) -> None:
        for connection in (*self._clients, self._watcher):
            since_s = connection.waiting_since_s
            if since_s and now_s - since_s > ANSWER_TIMEOUT_S:
                raise LoadError(f"no answer within {ANSWER_TIMEOUT_S:g} s")


def _reason(body: bytes) -> str:
    try:
        answer = json.loads(body)
        if "error" in answer:
            return str(answer["error"].get("data", ""))[:60]
        return f"code {answer['result']['code']}: {answer['result']['log'][:60]}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:60].decode(errors="replace")

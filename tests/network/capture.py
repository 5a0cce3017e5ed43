"""What crosses the loopback interface, put together to TCP streams and ZeroMQ frames."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from pathlib import Path

Stream = tuple[int, int]
"""Source and destination port."""

_ETH_P_ALL = 3
_PACKET_OUTGOING = 4
_IPV4 = 0x0800
_GREETING_BYTES = 64


class Capture:
    """Records every TCP packet on loopback between `start` and `stop`. Needs CAP_NET_RAW."""

    def __init__(self) -> None:
        """Raises `PermissionError` without the capability."""
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.bind(("lo", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.settimeout(0.2)
        self._stopping = threading.Event()
        self._segments: dict[Stream, dict[int, bytes]] = defaultdict(dict)
        self._first: dict[Stream, int] = {}
        self._dialled: set[Stream] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def dialled(self) -> set[Stream]:
        """Connections whose first packet was seen: the dialling port and the dialled one."""
        return set(self._dialled)

    def bytes_of(self, stream: Stream) -> bytes:
        """What was sent over a connection that was seen from its first packet, without gaps."""
        expected = (self._first[stream] + 1) % (1 << 32)
        data = bytearray()
        segments = self._segments[stream]
        while expected in segments:
            data += segments[expected]
            expected = (expected + len(segments[expected])) % (1 << 32)
        return bytes(data)

    def everything(self) -> bytes:
        """All payloads of all packets, one after another."""
        return b"".join(part for parts in self._segments.values() for part in parts.values())

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                packet, address = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == _PACKET_OUTGOING:  # loopback shows each packet twice
                self._record(packet)

    def _record(self, packet: bytes) -> None:
        if struct.unpack_from("!H", packet, 12)[0] != _IPV4 or packet[23] != socket.IPPROTO_TCP:
            return
        ip_header = (packet[14] & 15) * 4
        total = struct.unpack_from("!H", packet, 16)[0]
        tcp = packet[14 + ip_header : 14 + total]
        source, destination, sequence = struct.unpack_from("!HHI", tcp)
        payload = tcp[(tcp[12] >> 4) * 4 :]
        flags = tcp[13]
        if flags & 0x02:  # SYN, with ACK in the answer
            self._first[(source, destination)] = sequence
            if not flags & 0x10:
                self._dialled.add((source, destination))
        if payload:
            parts = self._segments[(source, destination)]
            if len(payload) > len(parts.get(sequence, b"")):
                parts[sequence] = payload


def zmtp_frame_sizes(stream: bytes) -> list[int]:
    """The sizes of the traffic frames of a ZMTP 3 stream, after its greeting and handshake."""
    sizes = []
    at = _GREETING_BYTES
    while at + 2 <= len(stream):
        flags = stream[at]
        if flags & 2:
            size, head = int.from_bytes(stream[at + 1 : at + 9], "big"), 9
        else:
            size, head = stream[at + 1], 2
        if at + head + size > len(stream):
            break
        if not flags & 4:  # commands are the handshake's
            sizes.append(size)
        at += head + size
    return sizes


def local_ports(pid: int) -> set[int]:
    """The local TCP ports of a process's sockets now."""
    inodes = set()
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
        # A socket that takes both versions of IP is in the second table.
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:  # it ended
        return set()
    for entry in entries:
        try:
            target = str(entry.readlink())
        except OSError:  # closed while we looked
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    fields = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {int(field[1].split(":")[1], 16) for field in fields if field[9] in inodes}

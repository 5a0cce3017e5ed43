"""What a capture of all traffic and all logs shows of one question."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.network.capture import Capture, local_ports, zmtp_frame_sizes
from tests.network.localnetwork import LocalNetwork

QUESTION = "Please tell me about xylophone quartets in Ouagadougou."
MARKS = (b"xylophone", b"Ouagadougou")
CURVE_OVERHEAD_BYTES = 33
"""Of a cell as one encrypted ZeroMQ message: 8 of name, 8 of nonce, 16 of tag, 1 of flags."""


@pytest.fixture
def capture() -> Iterator[Capture]:
    try:
        recording = Capture()
    except PermissionError:
        pytest.skip("capturing packets needs CAP_NET_RAW")
    recording.start()
    yield recording
    recording.stop()


def test_first_relays_see_the_client_and_nobody_sees_the_question(
    localnet: LocalNetwork, capture: Capture
) -> None:
    overlay_ports = {}
    model_ports = set()
    for process in localnet.status()["processes"]:
        ports = {key: int(a.rpartition(":")[2]) for key, a in process["addresses"].items()}
        if process["role"] == "relay":
            overlay_ports[ports["overlay"]] = process["name"]
        elif process["role"] == "model":
            model_ports |= set(ports.values())

    asking = localnet.popen("ps-client", "ask", QUESTION, "--json", "--max-tokens", "60")
    own_ports: set[int] = set()
    while asking.poll() is None:
        own_ports |= local_ports(asking.pid)
    output, errors = asking.communicate()
    assert asking.returncode == 0, errors
    capture.stop()
    answer = json.loads(output)

    dialled = {port for source, port in capture.dialled() if source in own_ports}
    first_hops = {path[0] for path in answer["paths"]}
    assert {overlay_ports[port] for port in dialled if port in overlay_ports} == first_hops
    assert not dialled & model_ports

    sizes = set()
    for source, port in capture.dialled():
        if source in own_ports and port in overlay_ports:
            for stream in ((source, port), (port, source)):
                sizes |= set(zmtp_frame_sizes(capture.bytes_of(stream)))
    cells = {size for size in sizes if size > 128}  # the rest are heartbeats
    assert cells == {2048 + CURVE_OVERHEAD_BYTES}

    carried = capture.everything()
    assert len(carried) > 100_000
    for mark in MARKS:
        assert mark not in carried
        for log in (localnet.folder / "logs").iterdir():
            assert mark not in log.read_bytes()

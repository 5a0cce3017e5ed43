from pathlib import Path

import pytest

from localnet.processes import ProcessId
from localnet.state import READY, ProcessState, State, StateFile
from planetserve.errors import ConfigurationError, UsageError

NEVER = ProcessId(1, 0, "another boot")
RELAY = ProcessState(
    name="relay-1",
    role="relay",
    process=ProcessId(7, 8, "boot"),
    addresses={"http": "127.0.0.1:1"},
    health="http://127.0.0.1:1/health",
    log="/log",
)
ENDED = ProcessState("relay-2", "relay", None, {}, "", "/log", exit_code=-9)
STATE = State(READY, "ready", NEVER, 2, 0, (RELAY, ENDED))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    assert file.read() is None
    file.write(STATE)
    assert file.read() == STATE
    assert not STATE.running


def test_an_unknown_process_is_answered_with_the_known_ones() -> None:
    assert STATE.find("relay-2") == ENDED
    with pytest.raises(UsageError, match="there are relay-1, relay-2"):
        STATE.find("relay-9")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": "ready"}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"state\.json is damaged"):
        StateFile(tmp_path).read()


def test_one_supervisor_a_folder(tmp_path: Path) -> None:
    with (
        StateFile(tmp_path).held(),
        pytest.raises(UsageError, match="a local network runs in"),
        StateFile(tmp_path).held(),
    ):
        pytest.fail("held twice")
    with StateFile(tmp_path).held():
        pass


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.request_start("relay-2")
    assert file.take_requests() == ["relay-2"]
    assert file.take_requests() == []

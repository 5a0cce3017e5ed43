"""What vLLM says, as values: metrics, events of its cache, log-probabilities; and the options of
`ps-model` that choose an engine."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.engines.choice import EngineKind, EngineOptions
from modelnode.engines.protocol import TokenScore
from modelnode.engines.vllm import read_scores
from modelnode.engines.vllm_events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    EventReader,
    EventsMissed,
    decode_batch,
)
from modelnode.engines.vllm_metrics import VllmMetrics, read_metrics
from planetserve.errors import EngineError, RemoteProtocolError, UsageError

RECORDED = (Path(__file__).parent / "vllm_metrics.txt").read_text()
IDLE = VllmMetrics(prefix_queries=282, prefix_hits=128, block_tokens=32, capacity_tokens=46_592)


def busy() -> str:
    """What was recorded, as it would be with other numbers."""
    text = RECORDED
    for name, number in [
        ("num_requests_running", 1),
        ("num_requests_waiting", 2),
        ("kv_cache_usage_perc", 0.0625),
    ]:
        text = re.sub(rf"^(vllm:{name}{{.*}}) .*$", rf"\g<1> {number}", text, flags=re.MULTILINE)
    return text


def test_the_metrics_of_a_real_server() -> None:
    assert read_metrics(RECORDED) == IDLE
    assert read_metrics(busy()) == replace(IDLE, running=1, waiting=2, kv_usage=0.0625)


def test_the_engines_of_one_server_are_added_up() -> None:
    both = read_metrics(busy() + busy().replace('engine="0"', 'engine="1"'))
    assert (both.running, both.waiting, both.prefix_hits) == (2, 4, 256)
    assert (both.kv_usage, both.block_tokens, both.capacity_tokens) == (0.0625, 32, 93_184)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-3", "x", "1e300", ""])
def test_numbers_that_make_no_sense_are_not_there(value: str) -> None:
    text = f'vllm:num_requests_running{{engine="0"}} {value}\n'
    text += f'vllm:cache_config_info{{block_size="{value}",num_gpu_blocks="{value}"}} 1.0\n'
    assert read_metrics(text) == VllmMetrics()


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    read_metrics(text)
    read_metrics(f"vllm:cache_config_info{{{text}}} 1.0\n")


STORED = {
    "type": "BlockStored",
    "block_hashes": [b"\x01" * 32, b"\x02" * 32],
    "parent_block_hash": None,
    "token_ids": [1, 9690, 198, 2683],
    "block_size": 2,
    "lora_id": None,
    "medium": "GPU",
    "lora_name": None,
}
REMOVED = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}
CLEARED = {"type": "AllBlocksCleared"}


def batch(*events: Any) -> bytes:
    packed: bytes = msgpack.packb([1790000000.5, list(events), 0])
    return packed


def test_events_are_read_in_order() -> None:
    after = STORED | {"parent_block_hash": b"\x02" * 32}
    assert decode_batch(batch(STORED, after, REMOVED, CLEARED)) == [
        BlocksStored((b"\x01" * 32, b"\x02" * 32), None, (1, 9690, 198, 2683), 2),
        BlocksStored((b"\x01" * 32, b"\x02" * 32), b"\x02" * 32, (1, 9690, 198, 2683), 2),
        BlocksRemoved((7,)),
        CacheCleared(),
    ]


def test_blocks_outside_of_the_cache_and_new_kinds_of_events_are_left_out() -> None:
    assert decode_batch(batch(STORED | {"medium": "CPU"}, {"type": "BlockDreamtOf"})) == []


def test_a_gap_is_told_and_a_new_start_empties_the_cache() -> None:
    reader = EventReader()

    def read(number: int) -> list[Any]:
        return list(reader.read([b"", number.to_bytes(8, "big"), batch(REMOVED)]))

    removed = BlocksRemoved((7,))
    assert read(0) == [removed]
    assert read(1) == [removed]
    assert read(3) == [EventsMissed(), removed]
    assert read(4) == [removed]
    assert read(0) == [CacheCleared(), removed]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"", b"", b""],
        [b"", bytes(8), b""],
        [b"", bytes(8), b"\xc1"],
        [b"", bytes(8), msgpack.packb(7)],
        [b"", bytes(8), msgpack.packb([0, 7])],
        [b"", bytes(8), batch(["BlockStored"])],
        [b"", bytes(8), batch({"type": "BlockStored"})],
        [b"", bytes(8), batch(STORED | {"token_ids": ["x"]})],
        [b"", bytes(8), batch(STORED | {"block_hashes": [None]})],
        [b"", bytes(8), batch(STORED | {"block_size": True})],
    ],
)
def test_what_is_no_event_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        EventReader().read(frames)


def scores_of(*places: Any) -> bytes:
    return json.dumps({"choices": [{"prompt_logprobs": [None, {}, *places]}]}).encode()


PARIS = {
    "7042": {"logprob": -1.5, "rank": 3, "decoded_token": " Paris"},
    "260": {"logprob": -0.25, "rank": 1, "decoded_token": " the"},
}
STOP = {"30": {"logprob": -0.125, "rank": 1, "decoded_token": "."}}


def test_scores_of_the_reply_are_told_from_those_of_the_prompt() -> None:
    assert read_scores(scores_of({"9": {"logprob": -9.0}}, PARIS, STOP), [7042, 30]) == [
        TokenScore(7042, -1.5, -0.25),
        TokenScore(30, -0.125, -0.125),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"prompt_logprobs": null}]}',
        scores_of(),
        scores_of(STOP, PARIS),
        scores_of(PARIS, {"30": {"logprob": 0.5}}),
        scores_of(PARIS, {"30": {"logprob": math.nan}}),
        scores_of(PARIS, {"30": {}}),
    ],
)
def test_what_are_no_scores_is_the_engine_s_failure(answer: bytes) -> None:
    with pytest.raises(EngineError):
        read_scores(answer, [7042, 30])


def test_the_name_of_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "Small-1B"
    folder.mkdir()
    vllm = EngineKind.vllm
    assert EngineOptions(vllm, model=str(folder)).name == "Small-1B"
    assert EngineOptions(vllm, model="org/Small-1B").name == "org/Small-1B"
    assert EngineOptions(vllm, model="small", model_path=folder).name == "small"
    assert EngineOptions().name == "SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(EngineKind.openai, model="m"),
        EngineOptions(EngineKind.openai, url="http://x"),
        EngineOptions(EngineKind.vllm),
        EngineOptions(url="http://x"),
        EngineOptions(model_path=Path("x.gguf")),
        EngineOptions(passed_on=("--dtype",)),
        EngineOptions(EngineKind.vllm, model="m", url="http://x", passed_on=("--dtype",)),
        EngineOptions(EngineKind.openai, model="m", url="http://x", kv_events="tcp://x:1"),
        EngineOptions(EngineKind.vllm, model="m", url="http://x", passed_on=("--port=1",)),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: EngineOptions) -> None:
    with pytest.raises(UsageError):
        options.check()
    EngineOptions(EngineKind.vllm, model="m", url="http://x", kv_events="tcp://x:1").check()

"""The file of guards: kept, broken, foreign, locked, readable by others."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.build_times import BuildTimes
from overlay.core.guards import Barred, Guard, GuardList, Shun, Tally
from overlay.guard_file import GuardFile, Kept, guard_file, read_kept, write_kept

CHAIN = "planetserve-1"
DAYS = st.integers(0, 100_000)
TALLIES = st.integers(0, 40).flatmap(
    lambda attempts: st.builds(Tally, st.just(attempts), st.integers(0, attempts))
)
GUARDS = st.builds(
    Guard,
    st.binary(min_size=20, max_size=20),
    DAYS,
    st.none() | DAYS,
    st.none() | DAYS,
    TALLIES,
    TALLIES,
)
KEPT = st.builds(
    Kept,
    st.builds(
        GuardList,
        st.lists(GUARDS, max_size=12, unique_by=lambda guard: guard.node).map(tuple),
        st.lists(DAYS, max_size=2).map(tuple),
        barred=st.lists(
            st.builds(Barred, st.binary(min_size=20, max_size=20), DAYS),
            max_size=64,
            unique_by=lambda item: item.node,
        ).map(tuple),
    ),
    st.lists(st.integers(0, 60_000), max_size=40).map(
        lambda items: BuildTimes(tuple(item / 1000 for item in items))
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
SOME = Kept(
    GuardList(
        (Guard(bytes(range(20)), 20_000, 20_070, None, Tally(30, 29), Tally(4, 4)),),
        barred=(Barred(bytes(20), 20_001),),
    ),
    BuildTimes((0.125, 0.25)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return guard_file(tmp_path / "state", CHAIN)


@given(KEPT)
def test_round_trip(kept: Kept) -> None:
    assert read_kept(json.loads(json.dumps(write_kept(kept, CHAIN))), CHAIN) == kept


@given(JSON, st.sampled_from(sorted(write_kept(SOME, CHAIN))))
def test_any_content_is_read_or_refused(value: Any, key: str) -> None:
    content = write_kept(SOME, CHAIN) | {key: value}
    for item in (value, content):
        with suppress(ValueError):
            assert isinstance(read_kept(item, CHAIN), Kept)


@given(JSON, st.sampled_from(sorted(write_kept(SOME, CHAIN)["guards"][0])))
def test_any_guard_is_read_or_refused(value: Any, key: str) -> None:
    content = write_kept(SOME, CHAIN)
    content["guards"][0][key] = value
    with suppress(ValueError):
        assert len(read_kept(content, CHAIN).guards.guards) == 1


@given(JSON, st.sampled_from(["node", "day"]))
def test_any_barred_relay_is_read_or_refused(value: Any, key: str) -> None:
    content = write_kept(SOME, CHAIN)
    content["barred"][0][key] = value
    with suppress(ValueError):
        assert len(read_kept(content, CHAIN).guards.barred) == 1


def test_who_is_barred_is_bounded_and_named_once() -> None:
    content = write_kept(SOME, CHAIN)
    content["barred"] = [
        {"node": number.to_bytes(20, "big").hex(), "day": 1} for number in range(65)
    ]
    with pytest.raises(ValueError, match="too long"):
        read_kept(content, CHAIN)
    content["barred"] = content["barred"][:1] * 2
    with pytest.raises(ValueError, match="twice"):
        read_kept(content, CHAIN)


def test_a_file_that_bars_nobody_is_read_as_before() -> None:
    content = write_kept(SOME, CHAIN)
    del content["barred"]
    assert read_kept(content, CHAIN) == replace(SOME, guards=replace(SOME.guards, barred=()))


@pytest.mark.parametrize("node", ["aa " * 13 + " ", "AB" * 20, "xy" * 20])
def test_a_node_is_written_in_one_way_only(node: str) -> None:
    content = write_kept(SOME, CHAIN)
    content["guards"][0]["node"] = node
    assert len(node) == 40
    with pytest.raises(ValueError, match=r"node id|hexadecimal"):
        read_kept(content, CHAIN)


def test_the_file_does_not_say_how_much_its_user_asks() -> None:
    def written(asked: int) -> Any:
        guard = Guard(bytes(20), 1, 70, builds=Tally(asked, asked), uses=Tally(asked, asked // 2))
        return write_kept(Kept(GuardList((guard,)), BuildTimes((0.25,) * asked)), CHAIN)

    for asked in range(200):
        content = written(asked)
        for attempts, successes in (content["guards"][0]["builds"], content["guards"][0]["uses"]):
            assert attempts <= 40
            assert attempts > 20 or attempts in (asked, 20)  # the rules judge from 20 on
            assert successes <= attempts
        assert len(content["build_ms"]) <= 40
    assert written(80) == written(160)
    old = written(40)
    old["guards"][0]["uses"], old["build_ms"] = [160, 100], [250] * 200
    kept = read_kept(old, CHAIN)
    assert kept.guards.guards[0].uses == Tally(40, 25)
    assert len(kept.build_times.durations_s) == 40


def test_a_build_that_took_minutes_does_not_spoil_the_file() -> None:
    kept = Kept(build_times=BuildTimes((600.0,)))
    assert read_kept(write_kept(kept, CHAIN), CHAIN).build_times.durations_s == (60.0,)


def test_what_is_of_this_process_only_is_not_kept() -> None:
    guard = Guard(bytes(20), 1, 70, unreachable=2, retry_s=17.0)
    kept = Kept(GuardList((guard,), shuns=(Shun(bytes(20), bytes(20), 9.0),)))
    again = read_kept(write_kept(kept, CHAIN), CHAIN)
    assert again == Kept(GuardList((Guard(bytes(20), 1, 70),)))


def test_a_file_is_kept_and_is_its_owners_alone(path: Path) -> None:
    with GuardFile(path, CHAIN) as file:
        assert file.writes
        assert file.load() == Kept()
        file.save(SOME)
        file.save(SOME)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with GuardFile(path, CHAIN) as file:
        assert file.load() == SOME
    assert {item.name for item in path.parent.iterdir()} == {path.name, path.name + ".lock"}


def test_one_process_writes_and_others_read(path: Path) -> None:
    with GuardFile(path, CHAIN) as first:
        first.save(SOME)
        with GuardFile(path, CHAIN) as second:
            assert not second.writes
            assert second.load() == SOME
            second.save(Kept())
        assert first.load() == SOME
    with GuardFile(path, CHAIN) as third:
        assert third.writes


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20), b'{"format": "other"}'],
)
def test_a_broken_file_is_moved_aside_by_the_writer(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with GuardFile(path, CHAIN) as file:
        with GuardFile(path, CHAIN) as reader:
            assert reader.load() == Kept()
        assert path.exists()
        assert file.load() == Kept()
        assert not path.exists()
        assert path.with_name(path.name + ".broken").read_bytes() == content
        file.save(SOME)
        assert file.load() == SOME


def test_a_file_of_another_network_is_not_believed(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(write_kept(SOME, "another")))
    with GuardFile(path, CHAIN) as file:
        assert file.load() == Kept()
    assert guard_file(path.parent, "another") != path


def test_a_file_that_others_may_read_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps(write_kept(SOME, CHAIN)))
    path.chmod(0o644)
    with GuardFile(path, CHAIN) as file:
        assert file.load() == SOME
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_made_costs_the_file_only(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with GuardFile(guard_file(tmp_path / "state", CHAIN), CHAIN) as file:
        assert not file.writes
        assert file.load() == Kept()
        file.save(SOME)

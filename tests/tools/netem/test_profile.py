"""Profiles: what a file may say, and which link there is at which moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.netem.errors import BadProfile
from tools.netem.profile import Direction, Profile, load_profile, parse_profile, profile_names

NAMES = {
    *("lte-20mbps", "lte-straggler", "lossy-5", "lossy-10", "lossy-15", "lossy-20", "satellite"),
    *("gprs", "flapping", "blackhole", "burst", "burst-timed", "asymmetric"),
}

FLAPPING = """
title: Twenty by twenty
up: {rate_kbit: 1000, delay_ms: 50}
phases:
  - for_s: 20
  - {for_s: 10, cut: true}
"""


def test_every_named_profile_is_there_and_can_be_read() -> None:
    assert set(profile_names()) == NAMES
    for name in NAMES:
        profile = load_profile(name)
        assert profile.name == name
        assert profile.title


@pytest.mark.parametrize("percent", [5, 10, 15, 20])
def test_the_lossy_profiles_are_what_the_figures_say(percent: int) -> None:
    profile = load_profile(f"lossy-{percent}")
    for direction in (profile.up, profile.down):
        assert direction.rate_kbit == 1000
        assert direction.delay_ms == 50
        assert direction.loss_percent == percent


def test_a_straggler_goes_from_2_to_half_a_megabit_and_has_a_slow_tail() -> None:
    profile = load_profile("lte-straggler")
    rates = [profile.phase_link(phase).up.rate_kbit for phase in profile.phases]
    assert rates == [2000, 1000, 500, 50]


def test_phases_follow_each_other_for_ever_where_they_cycle() -> None:
    profile = parse_profile(FLAPPING, name="mine")
    assert profile.at(0.0) == (profile.link, 20.0)
    link, until_s = profile.at(20.0)
    assert link.cut
    assert until_s == 30.0
    assert not profile.at(3000.0)[0].cut
    assert profile.at(3025.0)[0].cut


def test_after_the_phases_of_a_profile_that_does_not_cycle_nothing_changes() -> None:
    profile = load_profile("blackhole")
    assert not profile.at(5.0)[0].cut
    assert profile.at(10.0)[0].cut
    assert profile.at(40.0) == (profile.link, None)
    assert profile.at(1e6) == (profile.link, None)


def test_a_phase_replaces_the_directions_that_it_names() -> None:
    profile = parse_profile(
        "{title: x, up: {delay_ms: 1}, down: {delay_ms: 2},"
        " phases: [{for_s: 1, up: {delay_ms: 9}}]}",
        name="mine",
    )
    link = profile.at(0.0)[0]
    assert (link.up.delay_ms, link.down.delay_ms) == (9, 2)


@given(st.lists(st.floats(0.05, 100), min_size=1, max_size=6), st.floats(0, 1e6), st.booleans())
def test_the_next_change_is_always_ahead(
    lengths: list[float],
    elapsed_s: float,
    cycle: bool,  # noqa: FBT001  # what hypothesis draws
) -> None:
    phases = tuple({"for_s": length} for length in lengths)
    profile = Profile.model_validate({"title": "x", "phases": phases, "cycle": cycle})
    _, change_s = profile.at(elapsed_s)
    assert change_s is None or change_s > elapsed_s
    assert change_s is not None or not cycle


def test_a_file_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "harbour.yaml"
    path.write_text(FLAPPING)
    assert load_profile(str(path)).name == "harbour"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("title: [", "is not YAML"),
        ("- title", "is no mapping"),
        ("up: {}", "title: Field required"),
        ("{title: x, upp: {}}", "upp: Extra inputs"),
        ("{title: x, up: {rate_kbit: -1}}", "up.rate_kbit"),
        ("{title: x, up: {rate_kbit: '1000'}}", "up.rate_kbit"),
        ("{title: x, up: {loss_percent: 101}}", "up.loss_percent"),
        ("{title: x, up: {delay_ms: 5, jitter_ms: 6}}", "jitter_ms is above delay_ms"),
        (
            "{title: x, up: {loss_percent: 1,bursts: {bad_begins_percent: 1,bad_ends_percent: 5}}}",
            "exclude each other",
        ),
        ("{title: x, phases: [{for_s: 0}]}", "phases.0.for_s"),
        ("{title: x, phases: [{for_s: 1, cut: true, up: {}}]}", "leave up and down out"),
        ("{title: x, phases: {for_s: 1}}", "phases"),
        (
            "{title: x, up: {rate_kbit: 9}, phases: [{for_s: 1, up: {delay_ms: 1}}]}",
            "give it in all",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(BadProfile) as caught:
        parse_profile(text, name="mine")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("profile mine")
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadProfile, match="lossy-5"):
        load_profile("lossy-6")
    with pytest.raises(BadProfile, match="No such file"):
        load_profile(str(tmp_path / "none.yaml"))
    (tmp_path / "odd.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadProfile, match="not UTF-8"):
        load_profile(str(tmp_path / "odd.yaml"))


def test_a_direction_that_says_nothing_changes_nothing() -> None:
    assert Direction() == Direction(rate_kbit=None, delay_ms=0.0, loss_percent=0.0)

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from tools.monitor.words import clock_text, duration_text, rate_text, twice_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.4, "0 s"), (40, "40 s"), (119, "119 s"), (180, "3 min"), (7_199, "119 min"),
     (7_200, "2 h"), (172_799, "47 h"), (172_800, "2 days")],
)  # fmt: skip
def test_a_duration_is_said_coarsely(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("bits_per_s", "text"),
    [(0, "0 bit/s"), (999, "999 bit/s"), (1_200, "1.2 kbit/s"), (12_345, "12 kbit/s"),
     (3_400_000, "3.4 Mbit/s"), (34e9, "34000 Mbit/s")],
)  # fmt: skip
def test_a_rate_has_its_unit(bits_per_s: float, text: str) -> None:
    assert rate_text(bits_per_s) == text


def test_only_repeats_are_told() -> None:
    assert (twice_text(0), twice_text(9)) == ("", "; 9 sent twice")


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (43_380.0, "13:03"),
        (43_380.0 + 90_000, "1970-01-02 14:03"),
        (1e300, "a moment that no calendar has"),
    ],
)
def test_a_moment_is_told_by_the_local_clock(unix_s: float, text: str) -> None:
    zone = timezone(timedelta(hours=1))
    assert clock_text(unix_s, now_s=43_400.0, zone=zone) == text

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rapl import Counter, Rapl, mean_power_w
from agent.sysfs import Files

ZONES = "sys/class/powercap"


def write(root: Path, zone: str, energy_uj: object) -> None:
    (root / ZONES / zone / "energy_uj").write_text(f"{energy_uj}\n")


def test_a_pc_s_power_is_its_packages_and_their_memory(make_board: Callable[[str], Path]) -> None:
    """Not once more what is part of a package or told twice, and no "psys"."""
    root = make_board("pc")
    rapl = Rapl(Files(root))
    assert rapl.power_w(100.0) is None
    for zone, energy_uj in [
        ("intel-rapl:0", 21_000_000),
        ("intel-rapl:0:0", 9_000_000),
        ("intel-rapl:0:2", 5_050_000),
        ("intel-rapl:1", 99_000_000),
        ("intel-rapl-mmio:0", 21_000_000),
    ]:
        write(root, zone, energy_uj)
    assert rapl.power_w(102.0) == 12.5
    assert rapl.power_w(102.0) is None  # no time has passed


@settings(deadline=None, max_examples=200)
@given(
    range_uj=st.integers(1_000, 2**40),
    start=st.floats(0, 1),
    passed=st.floats(0, 1, exclude_max=True),
)
def test_a_counter_that_began_anew_has_counted_on(
    range_uj: int, start: float, passed: float
) -> None:
    before = min(int(start * range_uj), range_uj - 1)
    gone = int(passed * range_uj)
    after = (before + gone) % range_uj
    assert Counter(after, range_uj).since(Counter(before, range_uj)) == gone


def test_a_wrap_around_is_seen_in_the_power(make_board: Callable[[str], Path]) -> None:
    root = make_board("pc")
    rapl = Rapl(Files(root))
    write(root, "intel-rapl:0", 262_143_328_850 - 1_000_000)
    rapl.power_w(0.0)
    write(root, "intel-rapl:0", 3_000_000)
    assert rapl.power_w(1.0) == 4.0


@pytest.mark.parametrize("content", ["", "-5", "garbage", "9" * 30, "262143328851"])
def test_a_counter_that_is_none_is_left_out(
    content: str, make_board: Callable[[str], Path]
) -> None:
    root = make_board("pc")
    rapl = Rapl(Files(root))
    rapl.power_w(0.0)
    write(root, "intel-rapl:0:2", content)
    assert rapl.power_w(1.0) is None  # other counters than before
    write(root, "intel-rapl:0", 2_000_000)
    assert rapl.power_w(2.0) == 1.0


def test_counters_that_only_root_may_read_are_none(make_board: Callable[[str], Path]) -> None:
    root = make_board("pc")
    for zone in ("intel-rapl:0", "intel-rapl:0:2"):
        (root / ZONES / zone / "energy_uj").unlink()
    rapl = Rapl(Files(root))
    assert [rapl.power_w(float(second)) for second in range(3)] == [None, None, None]


def test_a_power_that_no_computer_has_is_none() -> None:
    before, after = {"a": Counter(0, 10**15)}, {"a": Counter(10**14, 10**15)}
    assert mean_power_w(before, after, seconds=1.0) is None

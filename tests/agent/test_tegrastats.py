from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sysfs import Files
from agent.tegrastats import Stats, Tegrastats, parse_line

NANO = (
    "10-08-2026 04:38:21 RAM 1343/7620MB (lfb 157x4MB) SWAP 165/3810MB (cached 3MB) "
    "CPU [0%@1497,0%@729,off,off] EMC_FREQ 15%@204 GR3D_FREQ 0%@[1300,1300] NVDEC off APE 200 "
    "cpu@48.562C tj@49.312C VDD_IN 4812mW/4750mW VDD_CPU_GPU_CV 512mW/1944mW VDD_SOC 2720mW/3659mW"
)
AGX = (
    "RAM 4321/62801MB (lfb 1759x4MB) CPU [0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 45%@318 "
    "GPU@-256C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 503mW/503mW NC 0mW/0mW"
)
THOR = (
    "RAM 3429/125749MB CPU [0%,5%,off]@2601 EMC_FREQ @4266 GR3D_FREQ @[1574,1574,1574] "
    "gpu@51.218C/51.218C VDD_GPU -392mW/-392mW/0mW VDD_CPU_SOC_MSS 3924mW/3835mW/5000mW "
    "VIN_SYS_5V0 5064mW/5055mW/6000mW VIN 15004mW/15096mW/28906mW"
)


@pytest.mark.parametrize(
    ("line", "stats"),
    [
        (NANO, Stats({"VDD_IN": 4.812, "VDD_CPU_GPU_CV": 0.512, "VDD_SOC": 2.72}, 0.0)),
        (
            AGX,
            Stats(
                {"VDD_GPU_SOC": 2.34, "VDD_CPU_CV": 0.39, "VIN_SYS_5V0": 4.025}
                | {"VDDQ_VDD2_1V8AO": 0.503},
                45.0,
            ),
        ),
        (
            THOR,
            Stats(
                {"VDD_GPU": 0.0, "VDD_CPU_SOC_MSS": 3.924, "VIN_SYS_5V0": 5.064, "VIN": 15.004}
            ),
        ),
        ("GR3D_FREQ 87%@[1574,1574,1574] VIN 124486mW/36487mW/124486mW",
         Stats({"VIN": 124.486}, 87.0)),
        ("GR3D_FREQ 12% RAM 2532/2532 SYS5V 5mW/5mW", Stats({"SYS5V": 0.005}, 12.0)),
        ("GR3D_FREQ 101%@1 VDD_IN 99999999mW/1mW VDD_SOC -9000mW/0mW", Stats()),
        ("", Stats()),
        ("\ufffd\0 bash: tegrastats: not found", Stats()),
    ],
)  # fmt: skip
def test_lines_of_every_release_are_read(line: str, stats: Stats) -> None:
    assert parse_line(line) == stats


@settings(deadline=None, max_examples=200)
@given(line=st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_any_line_is_read_without_an_error(line: str) -> None:
    stats = parse_line(line)
    assert all(0.0 <= watts <= 10_000.0 for watts in stats.rails_w.values())


def test_every_prefix_of_a_line_tells_nothing_else() -> None:
    whole = parse_line(AGX)
    for end in range(len(AGX)):
        cut = parse_line(AGX[:end])
        assert cut.rails_w.keys() <= whole.rails_w.keys()
        assert all(cut.rails_w[name] == whole.rails_w[name] for name in cut.rails_w)


@pytest.fixture
def jetson(tmp_path: Path) -> Callable[[str], Files]:
    def make(script: str) -> Files:
        program = tmp_path / "usr/bin/tegrastats"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return Files(tmp_path)

    return make


def runs(tegrastats: Tegrastats) -> bool:
    return tegrastats.running


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_the_newest_line_is_told_while_it_is_fresh(jetson: Callable[[str], Files]) -> None:
    tegrastats = Tegrastats(jetson(f'echo "$@" > "$0.args"; echo "{NANO}"; exec sleep 600'))
    until(lambda: tegrastats.read(0.0) != Stats())
    assert tegrastats.read(4.0).rails_w["VDD_IN"] == 4.812
    assert tegrastats.read(6.0) == Stats()
    assert runs(tegrastats)
    arguments = Path(f"{tegrastats._program}.args").read_text()
    assert arguments == "--interval 1000\n"
    tegrastats.close()


def test_it_is_ended_when_nobody_asks_and_begun_again_when_somebody_does(
    jetson: Callable[[str], Files],
) -> None:
    tegrastats = Tegrastats(jetson(f'echo "{NANO}"; exec sleep 600'))
    tegrastats.read(0.0)
    tegrastats.rest(29.0)
    assert runs(tegrastats)
    tegrastats.rest(30.0)
    assert not runs(tegrastats)
    until(lambda: tegrastats.read(100.0) != Stats())
    tegrastats.read(100.0 + 600.0)  # it has lived long enough
    tegrastats.read(100.0 + 600.1)
    assert not runs(tegrastats)
    until(lambda: tegrastats.read(801.0) != Stats())
    tegrastats.close()


def test_one_that_ends_by_itself_is_not_begun_again_at_once(
    jetson: Callable[[str], Files],
) -> None:
    tegrastats = Tegrastats(jetson('echo run >> "$0.runs"; exit 1'))
    tegrastats.read(0.0)
    until(lambda: not (tegrastats.read(1.0) == Stats() and tegrastats.running))
    tegrastats.read(59.0)
    assert Path(f"{tegrastats._program}.runs").read_text() == "run\n"


def test_boards_without_it_tell_nothing(tmp_path: Path) -> None:
    tegrastats = Tegrastats(Files(tmp_path))
    assert tegrastats.read(0.0) == Stats()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tegrastats").write_text("may not be executed")
    assert tegrastats.read(0.0) == Stats()
    assert not runs(tegrastats)
    tegrastats.rest(99.0)

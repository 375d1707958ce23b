"""What --dry-run prints."""

from __future__ import annotations

import shlex

import pytest

from tools.netem.plan import plan
from tools.netem.profile import load_profile, profile_names


def test_a_steady_link_is_set_up_and_taken_down() -> None:
    assert plan("eth1", load_profile("gprs"), with_ifb=False, for_s=None) == [
        "# gprs: GPRS, 40 kbit/s, 600 ms round trip, 1 % loss",
        (
            "tc qdisc add dev eth1 root handle fed5: netem limit 12 delay 300ms 100ms loss 1%"
            " rate 40kbit"
        ),
        "# at the end",
        "tc qdisc del dev eth1 root",
    ]


def test_a_flapping_link_names_its_moments() -> None:
    lines = plan("eth1", load_profile("flapping"), with_ifb=False, for_s=90.0)
    change = "tc qdisc change dev eth1 root handle fed5: netem limit 46 delay 50ms"
    assert lines[2:] == [
        "# after 20 s",
        f"{change} loss 100% rate 1000kbit",
        "# after 40 s",
        f"{change} rate 1000kbit",
        "# and so on, every 40 s",
        "# at the end, after 90 s",
        "tc qdisc del dev eth1 root",
    ]


def test_what_happens_once_ends_with_the_link_as_it_was() -> None:
    lines = plan("eth1", load_profile("blackhole"), with_ifb=True, for_s=None)
    assert "# after 40 s" in lines
    assert not any("and so on" in line for line in lines)


@pytest.mark.parametrize("name", profile_names())
def test_every_line_is_a_comment_or_a_command_on_the_named_interface(name: str) -> None:
    for line in plan("eth1", load_profile(name), with_ifb=True, for_s=None):
        if not line.startswith("#"):
            words = shlex.split(line)
            assert words[0] in {"tc", "ip"}
            assert {"eth1", "ifb-eth1"} & set(words)

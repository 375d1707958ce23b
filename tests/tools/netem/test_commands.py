"""Profiles become exactly these commands."""

from __future__ import annotations

import shlex

import pytest

from tools.netem import commands
from tools.netem.commands import render
from tools.netem.profile import Direction, GilbertElliott, Link, load_profile, profile_names

# Name → netem's parameters up and down, in the first phase.
NETEM = {
    "lte-20mbps": (
        "limit 275 delay 25ms 8ms loss 0.1% rate 10000kbit",
        "limit 550 delay 25ms 8ms loss 0.1% rate 20000kbit",
    ),
    "lte-straggler": ("limit 176 delay 40ms 20ms loss 0.5% rate 2000kbit",) * 2,
    "lossy-5": ("limit 46 delay 50ms loss 5% rate 1000kbit",) * 2,
    "lossy-10": ("limit 46 delay 50ms loss 10% rate 1000kbit",) * 2,
    "lossy-15": ("limit 46 delay 50ms loss 15% rate 1000kbit",) * 2,
    "lossy-20": ("limit 46 delay 50ms loss 20% rate 1000kbit",) * 2,
    "satellite": (
        "limit 109 delay 300ms 10ms loss 0.5% rate 1000kbit",
        "limit 669 delay 300ms 10ms loss 0.5% rate 10000kbit",
    ),
    "gprs": ("limit 12 delay 300ms 100ms loss 1% rate 40kbit",) * 2,
    "flapping": ("limit 46 delay 50ms rate 1000kbit",) * 2,
    "blackhole": ("limit 46 delay 50ms rate 1000kbit",) * 2,
    "burst": ("limit 46 delay 50ms loss gemodel 0.8% 25% 100% 0% rate 1000kbit",) * 2,
    "burst-timed": ("limit 46 delay 50ms rate 1000kbit",) * 2,
    "asymmetric": (
        "limit 65 delay 20ms 2ms rate 512kbit",
        "limit 367 delay 20ms 2ms rate 20000kbit",
    ),
}


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_becomes_these_parameters(name: str) -> None:
    link, _ = load_profile(name).at(0.0)
    up, down = (" ".join(commands.netem(side, is_cut=False)) for side in (link.up, link.down))
    assert (up, down) == NETEM[name]


def test_both_directions_of_an_interface_are_set_up_in_six_commands() -> None:
    link, _ = load_profile("lossy-5").at(0.0)
    assert [render(one) for one in commands.set_up("eth0", link, ifb="ifb-eth0")] == [
        "tc qdisc add dev eth0 root handle fed5: netem limit 46 delay 50ms loss 5% rate 1000kbit",
        "ip link add name ifb-eth0 type ifb",
        "ip link set dev ifb-eth0 up",
        (
            "tc qdisc add dev ifb-eth0 root handle fed5: netem limit 46 delay 50ms loss 5%"
            " rate 1000kbit"
        ),
        "tc qdisc add dev eth0 handle ffff: ingress",
        "tc filter add dev eth0 parent ffff: matchall action mirred egress redirect dev ifb-eth0",
    ]


def test_without_ifb_only_what_is_sent_changes() -> None:
    link, _ = load_profile("asymmetric").at(0.0)
    assert [render(one) for one in commands.set_up("eth0", link, ifb=None)] == [
        "tc qdisc add dev eth0 root handle fed5: netem limit 65 delay 20ms 2ms rate 512kbit"
    ]
    assert [render(one) for one in commands.take_down("eth0", ifb=None)] == [
        "tc qdisc del dev eth0 root"
    ]


def test_a_cut_loses_everything_and_keeps_the_rest() -> None:
    profile = load_profile("burst")
    link = Link(up=profile.up, down=profile.down, cut=True)
    assert [render(one) for one in commands.change("eth0", link, ifb="ifb-eth0")] == [
        f"tc qdisc change dev {device} root handle fed5: netem limit 46 delay 50ms loss 100%"
        " rate 1000kbit"
        for device in ("eth0", "ifb-eth0")
    ]


def test_what_was_set_up_is_taken_down_in_the_opposite_order() -> None:
    assert [render(one) for one in commands.take_down("eth0", ifb="ifb-eth0")] == [
        "tc qdisc del dev eth0 ingress",
        "ip link del dev ifb-eth0",
        "tc qdisc del dev eth0 root",
    ]


@pytest.mark.parametrize(
    ("direction", "parameters"),
    [
        (Direction(), "limit 100000"),
        (Direction(delay_ms=0.25), "limit 100000 delay 0.25ms"),
        (Direction(rate_kbit=10_000_000, queue_ms=1), "limit 826 rate 10000000kbit"),
        (Direction(rate_kbit=0.5), "limit 10 rate 0.5kbit"),
        (
            Direction(
                bursts=GilbertElliott(
                    bad_begins_percent=1,
                    bad_ends_percent=20,
                    bad_loss_percent=90,
                    good_loss_percent=0.01,
                )
            ),
            "limit 100000 loss gemodel 1% 20% 90% 0.01%",
        ),
    ],
)
def test_numbers_are_written_as_tc_reads_them(direction: Direction, parameters: str) -> None:
    assert " ".join(commands.netem(direction, is_cut=False)) == parameters


def test_the_name_of_an_ifb_fits_the_kernels_fifteen_characters() -> None:
    assert commands.ifb_name("wlp0s20f3") == "ifb-wlp0s20f3"
    assert len(commands.ifb_name("enx001122334455")) == 15


def test_each_device_has_a_class_of_its_own_in_the_router() -> None:
    addresses = [f"10.77.0.{number}" for number in range(1, 18)]
    lines = [render(one) for one in commands.router_set_up("eth0", addresses, towards="devices")]
    assert lines[0] == "tc qdisc replace dev eth0 root handle 1: htb"
    assert lines[-2:] == [
        "tc class add dev eth0 parent 1: classid 1:11 htb rate 10gbit quantum 15140",
        (
            "tc filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 10.77.0.17/32"
            " flowid 1:11"
        ),
    ]
    other = [render(one) for one in commands.router_set_up("eth1", addresses, towards="server")]
    assert "match ip src 10.77.0.17/32" in other[-1]


def test_a_devices_queue_is_added_changed_and_removed() -> None:
    direction = Direction(delay_ms=5)
    add, change = (
        render(commands.router_leaf("eth1", 17, direction, is_cut=not is_new, is_new=is_new))
        for is_new in (True, False)
    )
    place = "dev eth1 parent 1:11 handle 111:"
    assert add == f"tc qdisc add {place} netem limit 100000 delay 5ms"
    assert change == f"tc qdisc change {place} netem limit 100000 delay 5ms loss 100%"
    assert render(commands.router_clear("eth1", 17)) == f"tc qdisc del {place}"


def test_a_line_can_be_given_to_a_shell() -> None:
    command = ("ip", "link", "add", "name", "a b")
    assert tuple(shlex.split(render(command))) == command

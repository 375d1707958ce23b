"""The exact `tc` and `ip` commands that make a link what a profile says. Pure.

On one machine's interface, what it sends passes a netem at the interface's root. What it receives
has no queue of its own: it is redirected to an ifb device, and waits in that one's netem.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

from tools.netem.profile import Direction, Link

# One program call, as argv.
Command = tuple[str, ...]

# The major number of the qdiscs that are ours; nobody counts that far.
HANDLE: Final = "fed5:"
_INGRESS: Final = "ffff:"
# [bytes] A full Ethernet frame.
_FRAME_BYTES: Final = 1514
# [packets] Without a rate nothing waits but what is delayed: 10 Gbit/s for 100 ms.
_NO_RATE_LIMIT: Final = 100_000
_LEAST_LIMIT: Final = 10
_U32: Final = ("protocol", "ip", "prio", "1", "u32")
# A kernel's names of interfaces have 15 characters at most.
_IFB_PREFIX: Final = "ifb-"
_MAX_INTERFACE: Final = 15


def render(command: Sequence[str]) -> str:
    """Return a command as a line for a shell."""
    return shlex.join(command)


def ifb_name(interface: str) -> str:
    """Return the name of the ifb device that belongs to an interface."""
    return (_IFB_PREFIX + interface)[:_MAX_INTERFACE]


def netem(direction: Direction, *, is_cut: bool) -> Command:
    """Return netem's parameters for one direction."""
    parameters = ["limit", str(_limit_packets(direction))]
    if direction.delay_ms:
        parameters += ["delay", f"{_number(direction.delay_ms)}ms"]
        if direction.jitter_ms:
            parameters.append(f"{_number(direction.jitter_ms)}ms")
    bursts = direction.bursts
    if is_cut:
        parameters += ["loss", "100%"]
    elif bursts is not None:
        shares = (
            bursts.bad_begins_percent,
            bursts.bad_ends_percent,
            bursts.bad_loss_percent,
            bursts.good_loss_percent,
        )
        parameters += ["loss", "gemodel", *(f"{_number(share)}%" for share in shares)]
    elif direction.loss_percent:
        parameters += ["loss", f"{_number(direction.loss_percent)}%"]
    if direction.rate_kbit is not None:
        parameters += ["rate", f"{_number(direction.rate_kbit)}kbit"]
    return tuple(parameters)


def set_up(interface: str, link: Link, *, ifb: str | None) -> list[Command]:
    """Return what gives an interface this link; without `ifb` only what it sends is changed."""
    commands: list[Command] = [
        ("tc", *_root("add", interface), *netem(link.up, is_cut=link.cut)),
    ]
    if ifb is not None:
        redirect = ("matchall", "action", "mirred", "egress", "redirect", "dev", ifb)
        commands += [
            ("ip", "link", "add", "name", ifb, "type", "ifb"),
            ("ip", "link", "set", "dev", ifb, "up"),
            ("tc", *_root("add", ifb), *netem(link.down, is_cut=link.cut)),
            ("tc", "qdisc", "add", "dev", interface, "handle", _INGRESS, "ingress"),
            ("tc", "filter", "add", "dev", interface, "parent", _INGRESS, *redirect),
        ]
    return commands


def change(interface: str, link: Link, *, ifb: str | None) -> list[Command]:
    """Return what turns a link that is set up into this one; what it holds stays in it."""
    sides = [(interface, link.up)] + ([(ifb, link.down)] if ifb is not None else [])
    return [
        ("tc", *_root("change", device), *netem(direction, is_cut=link.cut))
        for device, direction in sides
    ]


def take_down(interface: str, *, ifb: str | None) -> list[Command]:
    """Return what removes everything that `set_up` made, in the opposite order."""
    commands: list[Command] = [("tc", "qdisc", "del", "dev", interface, "root")]
    if ifb is not None:
        commands = [
            ("tc", "qdisc", "del", "dev", interface, "ingress"),
            ("ip", "link", "del", "dev", ifb),
            *commands,
        ]
    return commands


def router_set_up(interface: str, addresses: Iterable[str], *, towards: str) -> list[Command]:
    """Return what gives each device a queue of its own on one of the router's interfaces.

    Args:
        interface: The interface.
        addresses: Of the devices, in order; the first one's class is 1:1.
        towards: "devices" or "server": what leaves by this interface.
    """
    field = {"devices": "dst", "server": "src"}[towards]
    commands: list[Command] = [
        ("tc", "qdisc", "replace", "dev", interface, "root", "handle", "1:", "htb")
    ]
    for number, address in enumerate(addresses, start=1):
        place = ("dev", interface, "parent", "1:")
        a_class, flow = f"1:{number:x}", ("match", "ip", field, f"{address}/32")
        unlimited = ("htb", "rate", "10gbit", "quantum", "15140")
        commands += [
            ("tc", "class", "add", *place, "classid", a_class, *unlimited),
            ("tc", "filter", "add", *place, *_U32, *flow, "flowid", a_class),
        ]
    return commands


def router_leaf(
    interface: str, number: int, direction: Direction, *, is_cut: bool, is_new: bool
) -> Command:
    """Return what makes one device's queue on a router's interface a link in this direction.

    Args:
        interface: The router's interface.
        number: The device's, from 1.
        direction: What the link is like.
        is_cut: Nothing passes.
        is_new: Replace the queue, and drop what is in it; otherwise change it as it runs.
    """
    verb = "add" if is_new else "change"
    handle = f"{0x100 + number:x}:"
    place = ("dev", interface, "parent", f"1:{number:x}", "handle", handle)
    return ("tc", "qdisc", verb, *place, "netem", *netem(direction, is_cut=is_cut))


def router_clear(interface: str, number: int) -> Command:
    """Return what removes one device's queue on a router's interface."""
    handle = f"{0x100 + number:x}:"
    return ("tc", "qdisc", "del", "dev", interface, "parent", f"1:{number:x}", "handle", handle)


def _root(verb: str, interface: str) -> Command:
    return ("qdisc", verb, "dev", interface, "root", "handle", HANDLE, "netem")


def _limit_packets(direction: Direction) -> int:
    """Return the packets that fit in: those on their way, and those in the queue."""
    if direction.rate_kbit is None:
        return _NO_RATE_LIMIT
    held_ms = direction.queue_ms + direction.delay_ms + direction.jitter_ms
    held_bytes = held_ms * direction.rate_kbit / 8
    return max(_LEAST_LIMIT, math.ceil(held_bytes / _FRAME_BYTES))


def _number(value: float) -> str:
    """Return a number as `tc` reads it: no exponent, no needless digits."""
    return f"{value:.4f}".rstrip("0").rstrip(".")

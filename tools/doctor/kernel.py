"""What the kernel's TCP offers to a link that loses packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tools.doctor.context import Context
from tools.doctor.finding import Finding, ok, skip, warn
from transport.sockets import USER_TIMEOUT_MS

_SYSCTL = "proc/sys/net/ipv4/"


def examine_kernel(context: Context) -> Iterator[Finding]:
    """Yield `bbr` and `tcp-timeout`."""
    yield judge_bbr(
        context.text(f"{_SYSCTL}tcp_available_congestion_control"),
        context.text(f"{_SYSCTL}tcp_allowed_congestion_control"),
    )
    yield judge_user_timeout(takes=_takes_user_timeout())


def judge_bbr(available: str | None, allowed: str | None) -> Finding:
    """Tell whether a service without privileges may use BBR."""
    if available is None:
        return skip("bbr", "the kernel does not tell its congestion controls")
    if "bbr" not in available.split():
        return warn(
            "bbr",
            f"only {available.strip()}: at 5 % loss that keeps a quarter of BBR's goodput",
            "modprobe tcp_bbr && echo tcp_bbr > /etc/modules-load.d/fedfstq.conf",
        )
    if "bbr" not in (allowed or "").split():
        names = f"{(allowed or 'reno').strip()} bbr"
        return warn(
            "bbr",
            "there, and only root may use it",
            f"sysctl -w net.ipv4.tcp_allowed_congestion_control='{names}'",
        )
    return ok("bbr", "available to services")


def _takes_user_timeout() -> bool:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return False
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        except OSError:
            return False
    return True


def judge_user_timeout(*, takes: bool) -> Finding:
    """Tell whether a dead connection ends in time."""
    if takes:
        return ok("tcp-timeout", f"a dead connection ends after {USER_TIMEOUT_MS / 1e3:.0f} s")
    return warn(
        "tcp-timeout",
        "the system has no TCP_USER_TIMEOUT: a dead connection ends with the keepalive",
        "lower broker.keepalive_s to 30",
    )

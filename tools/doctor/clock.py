"""The clock: certificates and round times are worth what it is worth."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, skip, warn

# adjtimex(2): the kernel's clock is not synchronised. `struct timex` has 208 bytes.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 512


def examine_clock(context: Context) -> Iterator[Finding]:
    """Yield `clock`."""
    installed = Path(__file__).stat().st_mtime
    yield judge_clock(context.now(), synchronised=_synchronised(), installed=installed)


def _synchronised() -> bool | None:
    """Tell what the kernel was told by whichever program keeps the time; None where it is mute."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR


def judge_clock(now: float, *, synchronised: bool | None, installed: float) -> Finding:
    """Tell whether the clock can be right.

    Args:
        now: Seconds since 1970.
        synchronised: Whether a program keeps the clock; None where it is not known.
        installed: When this program's file was written: the clock was later than that once.
    """
    text = datetime.fromtimestamp(now, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")  # 3.10
    mend = "timedatectl set-ntp true (or apt install chrony), and let UDP port 123 out"
    if now < installed - 86_400:
        return fail("clock", f"{text}, before this program was installed", mend)
    if synchronised is None:
        return skip("clock", f"{text}; the kernel does not say whether it is kept")
    if not synchronised:
        return warn("clock", f"{text}, and nothing keeps it right", mend)
    return ok("clock", f"{text}, synchronised")

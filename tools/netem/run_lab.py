"""One command in a lab, and its end with everything that the lab made."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tools.netem.lab import SERVER, Lab
from tools.netem.profile import load_profile


def run_lab(
    profile: str, command: Sequence[str], *, server: Sequence[str] | None, devices: int, router: str
) -> int:
    """Run a command on every device of a lab, and return the first exit status that is not 0.

    Raises:
        NetemError: The lab cannot be made, or a command cannot be started.
    """
    wanted = load_profile(profile)
    with _terminated_as_interrupted(), Lab(devices=devices, router=router) as lab:
        lab.apply(wanted)
        if server is not None:
            lab.popen(SERVER, server)
        running = [lab.popen(device, command) for device in lab.devices]
        codes = [process.wait() for process in running]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have a terminated lab clean up as one does that Ctrl-C ends."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt

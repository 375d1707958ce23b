"""What every process of this project says when it ends, so that systemd and scripts can act.

The numbers are those of sysexits(3). systemd never restarts 77 and 78: only a person can mend them.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a process ended."""

    OK = 0
    FAILED = 1  # it ran to its end, and the result is not what was asked for
    USAGE = 2  # the command line is wrong
    UNREACHABLE = 69  # the broker did not answer
    TRY_AGAIN = 75  # a passing fault; starting again may help
    REFUSED = 77  # the broker refused this identity
    CONFIG = 78  # the configuration, the model or the data is wrong
    INTERRUPTED = 130  # Ctrl-C

"""The moments at which tests kill a service, hang it or fail its disk: a hook, inert otherwise.

    FEDFSTQ_CRASH_AT=<point>[:<n>]      SIGKILL this process when it reaches the point for the n-th
                                        time (the first by default)
    FEDFSTQ_FAIL_AT=<point>[:<errno>]   raise OSError there (EIO by default): points of files only
    FEDFSTQ_HANG_AT=<point>[:<n>]       let the thread that reaches it sleep for ever, likewise
    FEDFSTQ_FAULT_ONCE=<file>           do so only while this file does not exist, and make it

The variables are read once, at import. A child inherits them: with `FEDFSTQ_FAULT_ONCE`, one fault
is one fault over all processes and their restarts, and the file tells that it came.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

# Where a disk operation that may fail with OSError comes next.
FilePoint = Literal[
    "trainer-file-before",  # trained; nothing is written
    "trainer-file-written",  # the temporary file is synced, not renamed
    "aggregator-folder-before",  # aggregated in memory; nothing is written
    "aggregator-folder-written",  # the version's files are synced under another name
    "aggregator-folder-renamed",  # the version's folder stands, CURRENT names the one before
    "aggregator-current-written",  # CURRENT names the version, the journal does not
    "aggregator-committed",  # the journal has summary and receipts, nobody was told
]
CrashPoint = (
    FilePoint
    | Literal[
        "trainer-file-renamed",  # the payload stands, the agent was not told
        "agent-row-before",  # the agent knows of the payload, its outbox does not
        "agent-row-open",  # inside the transaction that enters it
        "agent-row-committed",  # entered; nothing was offered, used leftovers are still files
        "agent-segment-sent",  # in the middle of an upload
        "agent-answer-in",  # a HAVE, WANT or RECEIPT has come, nothing was done about it
        "agent-receipt-before",  # the receipt is in, the row stands
        "agent-receipt-open",  # inside the transaction that settles it
        "agent-receipt-committed",  # settled; its payload is still a file
        "agent-receipt-done",  # settled and deleted; the broker was not told
        "aggregator-journal-before",  # manifests, segments, a record are in memory
        "aggregator-journal-open",  # written, not synced
        "aggregator-journal-committed",  # synced, not acknowledged
        "aggregator-journal-answered",  # acknowledged to the devices, not to the broker
        "aggregator-freeze-before",  # the round is closed in memory
        "aggregator-freeze-open",  # inside the transaction that freezes it
        "aggregator-frozen",  # frozen, not aggregated
        "aggregator-commit-open",  # inside the transaction that commits it
        "aggregator-announcing",  # committed; the first publication comes next
        "aggregator-adapter-sent",  # a manifest or segment of the adapter was published
        "aggregator-announced",  # all of it was published
    ]
)
# Where the link's thread may hang: in its loop, in a callback of paho's, or in a socket's call.
LinkPoint = Literal["link-turn", "link-callback", "link-connect"]


def _points(kind: object) -> frozenset[str]:
    inner = get_args(kind)
    if all(isinstance(one, str) for one in inner):
        return frozenset(inner)
    return frozenset().union(*(_points(one) for one in inner))


FILE_POINTS: Final = _points(FilePoint)
CRASH_POINTS: Final = _points(CrashPoint)
HANG_POINTS: Final = CRASH_POINTS | _points(LinkPoint)


@dataclass(slots=True)
class Fault:
    """What is to happen where.

    Attributes:
        reaches: At which reach of the point it happens; counts down.
        error: The errno to fail with; None kills.
        hangs: It hangs the thread instead.
        once: The file that tells that it has happened; None lets it happen in every process.
    """

    point: str
    reaches: int = 1
    error: int | None = None
    hangs: bool = False
    once: Path | None = None

    def reached(self) -> None:
        """Count, and kill, hang or fail when it is due."""
        self.reaches -= 1
        if self.reaches > 0 or (self.error is None and self.reaches < 0):
            return
        if self.once is not None and not _first(self.once):
            return
        if self.hangs:
            threading.Event().wait()
        elif self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(self.error, os.strerror(self.error), self.point)


def fault_from(environ: Mapping[str, str]) -> Fault | None:
    """Return the fault that these environment variables ask for, None where they ask for none.

    Raises:
        ValueError: A variable names no such point, no such errno, or no number.
    """
    mark = environ.get("FEDFSTQ_FAULT_ONCE")
    once = Path(mark) if mark else None
    for variable, known in (("FEDFSTQ_CRASH_AT", CRASH_POINTS), ("FEDFSTQ_HANG_AT", HANG_POINTS)):
        if text := environ.get(variable):
            point, _, count = text.partition(":")
            _check(point, known, variable=variable)
            if count and not (count.isdecimal() and int(count)):
                raise ValueError(f"{variable}={text}: {count!r} is no count from 1")
            hangs = variable == "FEDFSTQ_HANG_AT"
            return Fault(point, int(count or 1), hangs=hangs, once=once)
    if text := environ.get("FEDFSTQ_FAIL_AT"):
        point, _, name = text.partition(":")
        _check(point, FILE_POINTS, variable="FEDFSTQ_FAIL_AT")
        error = getattr(errno, name or "EIO", None)
        if not isinstance(error, int):
            raise ValueError(f"FEDFSTQ_FAIL_AT={text}: {name!r} is no errno, as ENOSPC is")
        return Fault(point, error=error, once=once)
    return None


def reach(point: CrashPoint | LinkPoint) -> None:
    """Tell that the process is at this point; nothing happens unless a test asked for it."""
    if _fault is not None and _fault.point == point:
        _fault.reached()


def _check(point: str, known: frozenset[str], *, variable: str) -> None:
    if point not in known:
        raise ValueError(f"{variable}: no point {point!r}: there are {', '.join(sorted(known))}")


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


_fault = fault_from(os.environ)

"""Who is in a fleet, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tools.init.fleet import Fleet

# Time enough to visit a device before its certificate ends.
SOON = timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Row:
    """One name of a fleet; moments are ISO 8601 in UTC.

    Attributes:
        name: Its name.
        role: What it may do.
        state: `ok`, `ends soon`, `ended` or `revoked`.
        serial: Of its newest certificate, hexadecimal.
        ends: When that certificate ends.
        days_left: Whole days until then; negative afterwards.
        revoked: Since when it is; None while it is not.
    """

    name: str
    role: str
    state: str
    serial: str
    ends: str
    days_left: int
    revoked: str | None


def listing(fleet: Fleet, *, now: datetime) -> tuple[Row, ...]:
    """Return a row for each name, sorted by role and name."""
    rows = []
    for name, member in fleet.names.items():
        current = member.current
        left = current.ends - now
        state = "ended" if left <= timedelta(0) else "ends soon" if left < SOON else "ok"
        rows.append(
            Row(
                name=name,
                role=member.role.value,
                state="revoked" if current.revoked else state,
                serial=current.serial,
                ends=current.ends.isoformat(),
                days_left=left.days,
                revoked=current.revoked.isoformat() if current.revoked else None,
            )
        )
    order = ("broker", "aggregator", "operator", "viewer", "device")
    return tuple(sorted(rows, key=lambda row: (order.index(row.role), row.name)))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, one line each under a heading."""
    lines = [("NAME", "ROLE", "ENDS", "STATE", "SERIAL")]
    lines += [(row.name, row.role, row.ends[:10], row.state, row.serial) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

"""Who is in a fleet, said to people and to programs."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tools.init.listing import SOON, listing, table


def test_every_name_has_a_row_with_its_state(make_record: Any, now: datetime) -> None:
    fleet = make_record(revoked=("nano-02",))
    rows = {row.name: row for row in listing(fleet, now=now)}
    assert list(rows) == ["broker", "coord", "operator", "viewer", "nano-01", "nano-02"]
    assert {name: row.state for name, row in rows.items() if row.state != "ok"} == {
        "nano-02": "revoked"
    }
    assert rows["nano-02"].revoked == now.isoformat()
    assert rows["nano-01"].serial == "14"


def test_a_certificate_that_ends_soon_or_has_ended_is_said(make_record: Any) -> None:
    fleet = make_record()
    last = fleet.names["nano-01"].current.ends
    for left, state, days in (
        (SOON, "ok", 60),
        (SOON - timedelta(seconds=1), "ends soon", 59),
        (timedelta(0), "ended", 0),
        (timedelta(days=-3), "ended", -3),
    ):
        (row,) = {
            (row.state, row.days_left)
            for row in listing(fleet, now=last - left)
            if row.name == "nano-01"
        }
        assert row == (state, days)


def test_the_table_has_a_line_for_each(make_record: Any, now: datetime) -> None:
    lines = table(listing(make_record(), now=now)).splitlines()
    assert len(lines) == 7
    assert lines[0].split() == ["NAME", "ROLE", "ENDS", "STATE", "SERIAL"]
    assert "nano-01   device      2028-11-23  ok     14" in lines

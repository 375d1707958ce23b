"""The alerts that stand, and those that stood: bounded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tools.monitor import foreign
from tools.monitor.document import Document
from transport import control

MAX_ALERTS: Final = 64
MAX_LOGGED: Final = 200
# [s] A refusal that was told so lately is worth attention; the alert itself stands until an
# operator clears it.
FRESH_S: Final = 120.0
CLONED: Final = "cloned"
STALLED: Final = "stalled"
_REFUSED: Final = "refused-"


@dataclass(slots=True)
class _Standing:
    notice: control.AlertNotice
    number: int
    raised_s: float
    told_s: float | None  # when it was last heard live


@dataclass(slots=True)
class Alerts:
    """Folds alerts into the sections `alerts` and `alert_log`.

    Attributes:
        left_out: Alerts that there was no room for.
    """

    document: Document
    left_out: int = 0
    _standing: dict[str, _Standing] = field(default_factory=dict)
    _raised: int = 0

    def raised(self, code: str, notice: control.AlertNotice, *, now: float, is_live: bool) -> None:
        """Take an alert, or what it says now."""
        before = self._standing.get(code)
        if before is None and len(self._standing) >= MAX_ALERTS:
            self.left_out += 1
            return
        if before is None:
            self._raised += 1
            before = _Standing(notice, self._raised, now, None)
            self._standing[code] = before
        before.notice = notice
        before.told_s = now if is_live else before.told_s
        self._show(code, before)

    def cleared(self, code: str, *, now: float) -> None:
        """Take back an alert."""
        before = self._standing.pop(code, None)
        if before is not None:
            self.document.remove("alerts", code)
            self._log(code, before, cleared_s=now)

    def refused(self, now: float) -> dict[str, str]:
        """Return why something of a device is not let in, by device."""
        found = {}
        for code, one in self._standing.items():
            is_fresh = one.told_s is not None and now < one.told_s + FRESH_S
            if code == CLONED or (code.startswith(_REFUSED) and is_fresh):
                what = "cloned" if code == CLONED else f"refused: {code.removeprefix(_REFUSED)}"
                found[foreign.name(one.notice.client_id)] = (
                    f"{what} ({foreign.text(one.notice.text)})"
                )
        found.pop("", None)
        return found

    def stalled(self) -> frozenset[str]:
        """Return the devices that the aggregator says show no progress."""
        one = self._standing.get(STALLED)
        if one is None:
            return frozenset()
        # The text names some, each with a cause: no progress: nano-02 uploading, nano-07 offline
        named = foreign.text(one.notice.text).partition(": ")[2].split(", ")
        return frozenset(
            {foreign.name(one.notice.client_id), *(part.split(" ")[0] for part in named)}
        )

    def _show(self, code: str, one: _Standing) -> None:
        self.document.put("alerts", _row(code, one), key=code)
        self._log(code, one, cleared_s=None)

    def _log(self, code: str, one: _Standing, *, cleared_s: float | None) -> None:
        row = {**_row(code, one), "cleared_s": cleared_s}
        self.document.put("alert_log", row, key=str(one.number))
        logged = self.document.section("alert_log")
        if len(logged) > MAX_LOGGED:
            self.document.remove("alert_log", next(iter(logged)))


def _row(code: str, one: _Standing) -> dict[str, Any]:
    return {
        "code": code,
        "severity": foreign.name(one.notice.severity),
        "text": foreign.text(one.notice.text),
        "count": foreign.count(one.notice.count),
        "client_id": foreign.name(one.notice.client_id),
        "raised_s": round(one.raised_s, 1),
    }

"""One terminal screen of a snapshot: fits 80 by 24, and shows more on more. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tools.monitor.attention import Attention
from tools.monitor.document import Snapshot
from tools.monitor.words import duration_text, rate_text
from tools.units import bytes_text, loss_text

# [columns] From here on there is room for a device's figures beside its sentence.
WIDE: Final = 110
# Below this there is none, not even for watts and degrees.
_NARROW: Final = 60
_BAR: Final = 20
_BAR_LEAST: Final = 6
# [columns] Of a device's name at most, of its class, of its figures, and of its sentence at least.
_NAME: Final = 18
_ATTENTION: Final = 9
_NO_FIGURES: Final = 2
_FIGURES: Final = 12
_WIDE_FIGURES: Final = _FIGURES + 32
_WORDS_LEAST: Final = 16
_NUMBERS: Final = re.compile(r"([0-9]+)")
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_MAX_SPARKS: Final = 24
_MAX_ALERTS: Final = 4
# Lines beside the devices and the alerts: five of the head, and the table's header.
_OTHER_LINES: Final = 6
_URGENCY: Final = {one.value: place for place, one in enumerate(Attention)}
_STYLES: Final = {
    "refused": "bold red",
    "lost": "red",
    "stalled": "bold yellow",
    "paused": "cyan",
    "slow": "yellow",
    "ok": "green",
}


def screen(snapshot: Snapshot, *, width: int, height: int) -> RenderableType:
    """Return what a terminal of this size shows of a snapshot."""
    alerts = sorted(snapshot["alerts"].values(), key=lambda one: -one["raised_s"])
    alert_lines = _alerts(alerts, snapshot, width=width)
    room = max(height - _OTHER_LINES - len(alert_lines), 1)
    return Group(
        _headline(snapshot, width=width),
        _line(_round(snapshot, width=width), width=width),
        _line(_losses(snapshot), width=width),
        _line(Text(_savings(snapshot)), width=width),
        _line(Text(_fleet(snapshot)), width=width),
        *_devices(snapshot, width=width, room=room),
        *alert_lines,
    )


def by_urgency(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return devices in the order in which they need attention."""
    return sorted(rows, key=lambda row: (_URGENCY[row["attention"]], _natural(row["id"])))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts nano-9 before nano-10."""
    return [(len(part), part) if part.isdigit() else (0, part) for part in _NUMBERS.split(name)]


def sparkline(values: list[float]) -> str:
    """Return values as a line of blocks, the lowest value as the lowest block."""
    if not values:
        return ""
    lowest, span = min(values), max(values) - min(values)
    top = len(_SPARKS) - 1
    return "".join(
        _SPARKS[round(top * (value - lowest) / span) if span else top // 2] for value in values
    )


def bar(done: float, whole: float, *, width: int) -> str:
    """Return a bar that is full where `done` is the `whole`."""
    full = round(width * min(done / whole, 1.0)) if whole > 0 else 0
    return "█" * full + "░" * (width - full)


def _line(text: Text, *, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text


def _headline(snapshot: Snapshot, *, width: int) -> Text:
    link, now_s = snapshot["link"], snapshot["now_s"]
    text = Text(snapshot["federation"], style="bold")
    if link["state"] != "connected":
        what = "NOT CONNECTED" if link["state"] != "connecting" else "CONNECTING"
        # Nothing below is younger than this.
        since = "" if link["heard_s"] is None else f" for {duration_text(now_s - link['since_s'])}"
        text.append(f"  {what}{since}: {link['reason'] or 'no answer yet'}", style="bold red")
        return _line(text, width=width)
    service, model = snapshot["service"], snapshot["model"]
    is_well = service["state"] in {"running", "waiting", "finished"}
    text.append("  connected", style="green")
    text.append(f"  {service['words']}", style="" if is_well else "bold red")
    if model["version"] >= 0:
        text.append(f"  adapter {model['version']} ({bytes_text(model['bytes'])})")
    if snapshot["run"]["codec"]:
        text.append(f"  {snapshot['run']['codec']}")
    return _line(text, width=width)


def _round(snapshot: Snapshot, *, width: int) -> Text:
    told = snapshot["round"]
    words = told["words"]
    if _is_past(snapshot):
        words = f"last known: {words}"
    elif told["deadline_at_s"] is not None:
        left_s = told["deadline_at_s"] - snapshot["now_s"]
        words += f", {duration_text(left_s)} left" if left_s > 0 else ", past its deadline"
    if told["segments"] and width >= WIDE:
        words += f"; segments {told['segments_accepted']} of {told['segments']}"
        if told["segments_resent"]:
            words += f", {told['segments_resent']} sent twice"
    if told["phase"] != "open":
        return Text(words)
    # Updates are counted whole, so their segments show what happens between two of them.
    share = min(told["segments_accepted"] / told["segments"], 1.0) if told["segments"] else 0.0
    done = told["complete"] + share * told["partial"]
    length = min(max(width - len(words) - 1, _BAR_LEAST), _BAR)
    return Text.assemble((bar(done, told["goal"], width=length), "green"), " ", words)


def _losses(snapshot: Snapshot) -> Text:
    rows = sorted(snapshot["losses"].values(), key=lambda row: row["version"])
    kind = "eval_loss" if any(row["eval_loss"] is not None for row in rows) else "train_loss"
    told = [(row["version"], row[kind]) for row in rows if row[kind] is not None]
    if not told:
        return Text("no loss has been told yet")
    name = "held-out" if kind == "eval_loss" else "training"
    version, last = told[-1]
    line = sparkline([loss for _, loss in told[-_MAX_SPARKS:]])
    first = f", {loss_text(told[0][1])} at {told[0][0]}" if len(told) > 1 else ""
    return Text.assemble(
        f"{name} loss ", (line, "cyan"), f" {loss_text(last)} at version {version}{first}"
    )


def _savings(snapshot: Snapshot) -> str:
    savings = snapshot["savings"]
    down = f"; {bytes_text(savings['bytes_down'])} down" if savings["rounds"] else ""
    energy = "" if savings["energy_j"] is None else f"; {savings['energy_j'] / 1000:.1f} kJ"
    return f"{savings['words']}{down}{energy}"


def _fleet(snapshot: Snapshot) -> str:
    fleet = snapshot["fleet"]
    power = "" if fleet["power_w"] is None else f"; {fleet['power_w']:.0f} W"
    hottest = (
        f"; hottest {fleet['hottest_id']} {fleet['hottest_c']:.0f} °C"
        if fleet["hottest_id"]
        else ""
    )
    past = "last known: " if _is_past(snapshot) else ""
    return f"{past}{fleet['words']}{power}{hottest}"


def _is_past(snapshot: Snapshot) -> bool:
    """Say whether the broker is gone, so that nothing is known to be so now."""
    return snapshot["link"]["state"] not in {"connected", "connecting"}


def _devices(snapshot: Snapshot, *, width: int, room: int) -> list[RenderableType]:
    rows = by_urgency(snapshot["devices"].values())
    is_wide = width >= WIDE
    name_width = min(max((len(row["id"]) for row in rows), default=6), _NAME)
    is_narrow = width < _NARROW
    figures = _WIDE_FIGURES if is_wide else _NO_FIGURES if is_narrow else _FIGURES
    beside = name_width + _ATTENTION + figures
    words_width = max(width - beside, _WORDS_LEAST)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("device", no_wrap=True, overflow="ellipsis", width=name_width)
    table.add_column("", no_wrap=True, width=_ATTENTION - 1)
    table.add_column("what it does, and what is wrong", no_wrap=True, width=words_width)
    if is_wide:
        for name, columns in (("loss", 6), ("goodput", 10), ("sent", 6), ("twice", 6)):
            table.add_column(name, no_wrap=True, justify="right", width=columns)
    if not is_narrow:
        table.add_column("W", no_wrap=True, justify="right", width=5)
        table.add_column("°C", no_wrap=True, justify="right", width=3)
    shown = 0
    for row in rows:
        # What needs attention is told to its end, where there is room for that.
        most = 1 if row["attention"] == Attention.OK.value else min(2, room)
        lines = _wrapped(row["words"], width=words_width, lines=most)
        is_last = shown + 1 == len(rows)
        if len(lines) + (not is_last) > room:
            break
        cells = _cells(row, "\n".join(lines), is_wide=is_wide)
        table.add_row(*cells[: len(table.columns)])
        room, shown = room - len(lines), shown + 1
    left = len(rows) - shown
    return [table, Text(f"and {left} more", style="dim")] if left else [table]


def _wrapped(words: str, *, width: int, lines: int) -> list[str]:
    """Return a sentence in at most so many lines, at least one."""
    return textwrap.wrap(words, width, max_lines=lines, placeholder="…") or [""]


def _cells(row: Mapping[str, Any], words: str, *, is_wide: bool) -> list[Text]:
    attention = Text(row["attention"], style=_STYLES[row["attention"]])
    cells = [Text(row["id"]), attention, Text(words)]
    if is_wide:
        goodput_bps = row["goodput_bps"]
        cells += [
            Text(loss_text(row["train_loss"])),
            Text("" if goodput_bps is None else rate_text(goodput_bps)),
            Text(str(row["sent_total"] or "")),
            Text(str(row["resent_total"] or "")),
        ]
    power_w, temp_c = row["power_w"], row["temp_c"]
    cells.append(Text("" if power_w is None else f"{power_w:.1f}"))
    cells.append(Text("" if temp_c is None else f"{temp_c:.0f}"))
    return cells


def _alerts(
    alerts: list[dict[str, Any]], snapshot: Snapshot, *, width: int
) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for one in alerts[:_MAX_ALERTS]:
        ago = duration_text(snapshot["now_s"] - one["raised_s"])
        times = f" ({one['count']} times)" if one["count"] > 1 else ""
        text = Text.assemble(
            ("alert ", "bold red"), (one["code"], "bold"), f" {one['text']}{times}, {ago} ago"
        )
        lines.append(_line(text, width=width))
    if left := len(alerts) - len(lines):
        lines.append(Text(f"and {left} alerts more", style="bold red"))
    return lines

"""What was measured beside the trials: overhead of Fisher, inference, rounds over real links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tools.evidence.sheets import Sheet
from tools.evidence.verdicts import Verdict
from tools.evidence.words import percent, three, times, value_text
from tools.report.tables import Column

OVERHEAD: Final = "overhead"
INFERENCE: Final = "inference"
REPLAY: Final = "replay"
# Where a file does not say what was wanted.
GOAL_TIME_RATIO: Final = 1.03
GOAL_MEMORY_RATIO: Final = 1.05
GOAL_SPEEDUP: Final = 1.55
GOAL_RELATIVE_LOSS: Final = 0.01

_BITS_PER_MBIT: Final = 1e6

# How answers are judged: the name of what gets worse, the change that a row has, and its sign.
_QUALITY: Final = (
    ("more loss", "relative_loss_change", 1),
    ("less token accuracy", "relative_accuracy_change", -1),
)
# What makes rows of inference one choice; how it is carried out is tuned.
_CHOICE: Final = ("workload", "model", "command", "selection", "keep_ratio", "new_tokens")

_OVERHEAD_COLUMNS: Final = (
    Column("model", "Model"),
    Column("parameters", "Weights", lambda value: f"{value:,}"),
    Column("mask", "Token mask", is_text=True),
    Column("plain_ms", "Plain step, ms", three, "Median"),
    Column("hooked_ms", "With Fisher, ms", three),
    Column("time", "Time", percent, "More than training without it"),
    Column("time_span", "95 % interval", str),
    Column("memory", "Memory", percent, "More at the most"),
    Column("reached", "Goal reached", value_text),
    Column("command", "Run again with", is_text=True),
)
_INFERENCE_COLUMNS: Final = (
    Column("selection", "Kept by"),
    Column("workload", "Workload", is_text=True),
    Column("model", "Model", is_text=True),
    Column("span_tokens", "Span", value_text, "Tokens that are kept or dropped together"),
    Column("positions", "Positions", is_text=True),
    Column("keep_ratio", "Keep ratio", value_text),
    Column("new_tokens", "New tokens"),
    Column("prefill_speedup", "Prefill", times, "Faster than with the whole prompt"),
    Column("end_to_end_speedup", "End to end", times),
    Column("end_to_end_span", "95 % interval", str),
    Column("relative_loss_change", "Loss change", percent, "Of the expected answers"),
    Column("relative_accuracy_change", "Accuracy change", percent),
    Column("reached", "Goal reached", value_text),
    Column("command", "Run again with", is_text=True),
)
_REPLAY_COLUMNS: Final = (
    Column("method", "Method", is_text=True),
    Column("trial", "Trial", is_text=True),
    Column("link", "Links", is_text=True),
    Column("devices", "Devices", value_text),
    Column("rounds", "Rounds", value_text),
    Column("slowest_mbit_s", "Slowest, Mbit/s", three),
    Column("modelled_s", "Modelled, s", three),
    Column("measured_s", "Measured, s", three, "Mean over the rounds"),
    Column("clear_s", "Without limits, s", three, "What this machine takes by itself"),
    Column("relative_difference", "Difference", percent, "Of what was modelled"),
    Column("unexplained_s", "Unexplained, s", three, "Difference less the machine's own part"),
    Column("load_average", "Load", three, "Of the machine at the end"),
    Column("command", "Run again with", is_text=True),
)


def rows_of(companions: Mapping[str, Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the rows of a kind's files; a file that is none of this kind has none."""
    found: list[dict[str, Any]] = []
    for content in companions.values():
        rows = content.get("rows")
        if content.get("kind") == kind and isinstance(rows, list):
            command = str(content.get("command", ""))
            found += [{**row, "command": command} for row in rows if isinstance(row, dict)]
    return found


def overhead_sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return what Fisher information costs training."""
    shown = tuple(
        {
            **row,
            "time": _more(row.get("time_ratio")),
            "time_span": _span(row, "time_ratio", change=True),
            "memory": _more(row.get("memory_ratio")),
        }
        for row in rows
    )
    about = "Processor time of whole training steps with the hooks over those without, by turns."
    return Sheet("Cost of the Fisher information in training", _OVERHEAD_COLUMNS, shown, about)


def inference_sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return what reading fewer tokens of a prompt gains and costs, each choice at its best."""
    best: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for row in rows:
        key = tuple(str(row.get(name)) for name in _CHOICE)
        least = _number(best.get(key, row), "relative_loss_change")
        if key not in best or _number(row, "relative_loss_change") < least:
            best[key] = row
    shown = tuple(
        {**row, "end_to_end_span": _span(row, "end_to_end_speedup", change=False)}
        for row in best.values()
    )
    about = (
        "Of several spans and positions, those with the least loss. A keep ratio of 0 is the"
        " control without a prompt, but for its first and last tokens."
    )
    return Sheet("Token reduction at inference", _INFERENCE_COLUMNS, shown, about)


def replay_sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return what rounds over real links took, beside what the time model says of their bytes."""
    shown = tuple(
        {**row, "slowest_mbit_s": float(rate) / _BITS_PER_MBIT}
        if isinstance(rate := row.get("slowest_rate_bps"), int | float)
        else row
        for row in rows
    )
    about = "Real processes behind tc netem; whole adapters go down, and their bytes count."
    return Sheet("The time model against real links", _REPLAY_COLUMNS, shown, about)


def overhead_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return how the goal of the overhead stands for each model and kind of mask."""
    verdicts = []
    for row in rows:
        more, memory = _more(row.get("time_ratio")), _more(row.get("memory_ratio"))
        goal_time = _more(row.get("goal_time_ratio", GOAL_TIME_RATIO)) or 0.0
        goal_memory = _more(row.get("goal_memory_ratio", GOAL_MEMORY_RATIO)) or 0.0
        goal = f"Fisher costs at most {percent(goal_time)} of a training step's time and"
        goal += f" {percent(goal_memory)} of its memory"
        where = f"{row.get('model')}, token mask {row.get('mask')}"
        if more is None or memory is None:
            verdicts.append(Verdict(goal, where, reached=None))
            continue
        verdicts.append(
            Verdict(
                goal,
                where,
                reached=more <= goal_time and memory <= goal_memory,
                found=f"{percent(more)} of time, {percent(memory)} of memory",
                span=_span(row, "time_ratio", change=True),
            )
        )
    return verdicts


def inference_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return how the goal of inference stands: the fastest of what keeps the quality.

    Quality is the loss of the expected answers, and their token accuracy beside it: a share of few
    tokens moves in steps, and lets more through.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("selection") != "none":
            key = (str(row.get("workload") or ""), str(row.get("model") or ""))
            groups.setdefault(key, []).append(row)
    return [
        _inference_verdict(where, several, measure)
        for where, several in groups.items()
        for measure in _QUALITY
    ]


def _inference_verdict(
    key: tuple[str, str], rows: Sequence[Mapping[str, Any]], measure: tuple[str, str, int]
) -> Verdict:
    name, change, sign = measure
    speedup = float(rows[0].get("goal_speedup", GOAL_SPEEDUP))
    bound = float(rows[0].get("goal_relative_loss", GOAL_RELATIVE_LOSS))
    goal = f"inference at least {speedup:g} times faster end to end at no more than"
    goal += f" {percent(bound)} {name}"
    where = ", ".join(part for part in key if part)
    # A control without a prompt is no reduction of one.
    candidates = [row for row in rows if _number(row, "keep_ratio") > 0]
    good = [row for row in candidates if sign * _number(row, change) <= bound]
    best = max(good, key=lambda row: _number(row, "end_to_end_speedup"), default=None)
    if best is None:
        return Verdict(goal, where, reached=False, found="nothing keeps the quality")
    found = _number(best, "end_to_end_speedup")
    how = [
        f"tokens kept by {best.get('selection')} at {value_text(best.get('keep_ratio'))}",
        f"spans of {value_text(best.get('span_tokens'))}",
        f"{best.get('positions')} positions",
        f"new tokens: {value_text(best.get('new_tokens'))}",
    ]
    return Verdict(
        goal,
        where,
        reached=found >= speedup,
        found=times(found),
        span=_span(best, "end_to_end_speedup", change=False),
        note=", ".join(how),
    )


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _more(ratio: Any) -> float | None:
    return float(ratio) - 1 if isinstance(ratio, int | float) else None


def _span(row: Mapping[str, Any], key: str, *, change: bool) -> str | None:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    words = percent if change else three
    return f"{words(low - change)} to {words(high - change)}"

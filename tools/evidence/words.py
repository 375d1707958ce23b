"""How the document says its figures. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tools.evidence.contest import Against

TIMES: Final = "×"  # noqa: RUF001  # the sign that is meant
_MEGA: Final = 1e6


def megabytes(value: float) -> str:
    """Return bytes in MB with three figures."""
    return three(value / _MEGA)


def three(value: float) -> str:
    """Return a number with three figures and no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def times(value: float | str) -> str:
    """Return how many times; a text, as a lower bound, is itself."""
    return value if isinstance(value, str) else three(value) + TIMES


def p_text(value: float) -> str:
    """Return a p value, which below 0.001 is no more than that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004  # what five seeds can tell


def loss(value: float) -> str:
    """Return a loss in nats."""
    return f"{value:.4f}"


def percent(value: float) -> str:
    """Return a share in per cent with one decimal."""
    return f"{100 * value:.1f} %"


def seconds(value: float) -> str:
    """Return seconds, or minutes or hours where there are many."""
    for size, name in ((3600.0, "h"), (60.0, "min")):
        if value >= 2 * size:
            return f"{three(value / size)} {name}"
    return f"{three(value)} s"


def factor(found: Against) -> float | str | None:
    """Return the ratio's mean, with a sign where it is a lower bound; None where there is none."""
    if found.ratio is None:
        return None
    return f"≥ {three(found.ratio.mean)}{TIMES}" if found.at_least else found.ratio.mean


def span(found: Against) -> str | None:
    """Return the ratio's confidence interval; None where there is none."""
    if found.ratio is None or found.ratio.low is None or found.ratio.high is None:
        return None
    return f"{three(found.ratio.low)} to {three(found.ratio.high)}"


def setting_text(setting: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Return some of a setting's values, as for a heading."""
    parts = []
    for key in keys:
        value = setting.get(key)
        parts.append(str(value) if key == "workload" else f"{label(key)} {value_text(value)}")
    return ", ".join(parts)


def label(key: str) -> str:
    """Return what people call a key of a setting."""
    return {"alpha": "α", "lora_alpha": "LoRA α"}.get(key, key.replace("_", " "))  # noqa: RUF001  # Greek is meant


def value_text(value: Any) -> str:
    """Return a setting's value."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return "IID" if math.isinf(value) else f"{value:g}"
        case "inf":
            return "IID"
        case str() | int():
            return str(value)
        case [*values]:
            return " to ".join(map(value_text, values))
        case Mapping():
            return ", ".join(f"{label(key)} {value_text(each)}" for key, each in value.items())
        case _:
            return json.dumps(value, sort_keys=True)

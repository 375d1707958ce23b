"""How a report says its figures. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from tools.units import count_text

Values = dict[str, Any]

# What an upload's bytes are: key, name, and what that means.
KINDS = (
    ("payload", "Payload", "what the codec wrote, in segments that were new"),
    ("framing", "Framing", "manifests, frame headers, signatures"),
    ("mqtt", "MQTT", "fixed headers, topics, packet identifiers, properties"),
    ("repeated", "Sent again", "whole packets of what was held already, or came in vain"),
    ("refused", "Refused", "whole packets of what was not let in"),
    (
        "unsplit",
        "Not told apart",
        "came to earlier software, which kept no kinds of bytes over a restart",
    ),
)


def adapter_text(run: Values) -> str:
    """Return how large the adapter is; "" where that is not known."""
    if not run["tensors"]:
        return ""
    return f"{run['coordinates']:,} coordinates in {count_text(run['tensors'], 'tensor')}"


def optional(value: Any, words: Any) -> str:
    """Return what the words say of a value; "" where there is none."""
    return "" if value is None else str(words(value))


def date_text(unix_s: float) -> str:
    """Return Unix seconds as a date in UTC."""
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def energy_text(joules: float) -> str:
    """Return joules, or watt-hours from ten of them on."""
    return f"{joules / 3600:.1f} Wh" if joules >= 36_000 else f"{joules:,.0f} J"  # noqa: PLR2004  # 10 Wh


def counted(value: float) -> str:
    """Return a number with its thousands apart."""
    return f"{value:,}"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"


def one_decimal(value: float) -> str:
    """Return a number with one decimal."""
    return f"{value:,.1f}"


def two_decimals(value: float) -> str:
    """Return a number with two decimals."""
    return f"{value:.2f}"


def three_decimals(value: float) -> str:
    """Return a number with three decimals."""
    return f"{value:.3f}"


def in_powers(value: float) -> str:
    """Return a small number in powers of ten."""
    return f"{value:.2e}"

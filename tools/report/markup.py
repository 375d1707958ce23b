"""Foreign text as markup that is nothing but text. Pure."""

from __future__ import annotations

import html
import json
import re

# What XML forbids, what a terminal or an editor would obey, and what turns the reading direction.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def text(value: str) -> str:
    """Return a text for between tags or in quotes: no tag, entity or control comes of it."""
    return html.escape(_UNSHOWN.sub("\ufffd", value), quote=True)


def embedded(value: object) -> str:
    """Return JSON for within a script element: nothing in it ends the element or begins another."""
    dumped = json.dumps(value, allow_nan=False, sort_keys=True)
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

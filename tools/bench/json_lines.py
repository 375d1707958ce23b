"""Lines of JSON that are written as a run goes on, and read again, the last one perhaps in part."""

from __future__ import annotations

import json
from typing import Any, TextIO


class LineWriter:
    """Writes objects as they come, so that a person can watch them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; a reader finds it at once."""
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()


def parsed(line: str) -> dict[str, Any] | None:
    """Return a line's object; None where it was broken off."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

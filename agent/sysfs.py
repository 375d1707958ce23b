"""Small files that the kernel and the board's vendor keep, below one root folder.

Whatever is missing, forbidden, switched off or garbage is None or "": a sensor is never a reason
to fail. The root is a parameter, so that tests and foreign boards bring files of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# [bytes] Nothing that is looked for stands further behind; nvpmodel.conf, the longest, has 40 K.
MAX_FILE_BYTES = 256 * 1024

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Files:
    """Reads files below `root`; names are relative to it."""

    root: Path = Path("/")

    def text(self, name: str | Path) -> str:
        """Return a file's text, "" where it cannot be read."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(MAX_FILE_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            # Some sensors' files exist but answer EAGAIN or EINVAL while their chip sleeps.
            return ""

    def word(self, name: str | Path) -> str:
        """Return a file's text without blanks and NULs around it, "" where it cannot be read."""
        return self.text(name).strip(" \t\r\n\0")

    def integer(self, name: str | Path) -> int | None:
        """Return the whole number that a file consists of, None where it is none."""
        return parse_integer(self.text(name))

    def find(self, pattern: str) -> list[Path]:
        """Return what matches a pattern below the root, in the order of its names, absolute."""
        try:
            return sorted(self.root.absolute().glob(pattern))
        except OSError:
            return []


def parse_integer(text: str) -> int | None:
    """Return the whole number that a text consists of, None where it is none."""
    word = text.strip(" \t\r\n\0")
    return int(word) if _INTEGER.match(word) else None

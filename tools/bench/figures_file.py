"""A file of figures: flat rows, and what they were measured on, when and with what.

{"kind": "overhead", "format": 1, "date": "2026-11-23", "machine": "...",
 "versions": {"python": "3.11.2", "torch": "..."}, "command": "fedfstq bench overhead",
 "rows": [{...}, ...]}
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.bench.machine import describe

FORMAT = 1
_PACKAGES = ("numpy", "torch", "transformers", "peft")


def document(kind: str, rows: Iterable[Any]) -> dict[str, Any]:
    """Return the document of these rows, which are instances of dataclasses with flat fields."""
    return {
        "kind": kind,
        "format": FORMAT,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": describe(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        "command": " ".join(["fedfstq", *sys.argv[1:]]),
        "rows": [asdict(row) for row in rows],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a document; its folder is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")

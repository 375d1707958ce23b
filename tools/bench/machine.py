"""What figures were measured on, and when: figures without it say little."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_MODEL = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_TOTAL = re.compile(r"^MemTotal:\s*(\d+) kB$", re.MULTILINE)


def describe() -> str:
    """Return date, processor, cores, memory, load and versions in one line."""
    parts = [
        datetime.now(timezone.utc).date().isoformat(),
        f"{os.cpu_count()}-core {platform.machine()} machine ({_found(_CPUINFO, _MODEL)})",
        f"Python {platform.python_version()}",
        f"numpy {_version('numpy') or 'unknown'}",
    ]
    memory = _found(_MEMINFO, _TOTAL)
    if memory.isdigit():
        parts.insert(2, f"{int(memory) / 2**20:.0f} GiB")
    if hasattr(os, "getloadavg"):
        parts.append(f"load average {os.getloadavg()[0]:.1f} at the end")
    return ", ".join(parts)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, "" where it is not there."""
    return {package: _version(package) for package in packages}


def _found(path: Path, pattern: re.Pattern[str]) -> str:
    """Return what a system's file says, and its own word for the processor where there is none."""
    try:
        found = pattern.search(path.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

"""What the kernel says of memory: how much there is, how much can be had, who was ended for it.

The root folder is a parameter, so that tests can bring files of their own.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def total_bytes(root: Path = _ROOT) -> int | None:
    """Return the machine's memory, None where the kernel does not tell."""
    return _meminfo("MemTotal", root)


def available_bytes(root: Path = _ROOT) -> int | None:
    """Return what could be had now without swapping, None where the kernel does not tell.

    Swap does not count: a base model that is paged in and out at every step would take the disk
    from the device's real job. A control group's bound counts, since the kernel ends who passes it.
    """
    available = _meminfo("MemAvailable", root)
    room = _group_room_bytes(root)
    if available is None or room is None:
        return room if available is None else available
    return min(available, room)


def oom_kills(root: Path = _ROOT) -> int | None:
    """Return how many processes the kernel has ended for memory since its start, if it tells.

    Those that it ended for a control group's bound are among them.
    """
    for line in _text(root / "proc/vmstat").splitlines():
        match line.split():
            case ["oom_kill", number] if number.isascii() and number.isdigit():
                return int(number)
    return None


def boot_id(root: Path = _ROOT) -> str:
    """Return what names this start of the kernel, "" where it does not tell."""
    return _text(root / "proc/sys/kernel/random/boot_id").strip()[:64]


def _meminfo(name: str, root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        match line.split():
            case [key, number, "kB"] if key == f"{name}:" and number.isascii():
                return int(number) * 1024 if number.isdigit() else None
    return None


def _group_room_bytes(root: Path) -> int | None:
    """Return what the tightest bound of this process's control groups (version 2) still leaves."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            names = PurePosixPath(line.removeprefix("0::/"))
            folders = [root / "sys/fs/cgroup" / each for each in (names, *names.parents)]
            rooms = [room for room in map(_room_bytes, folders) if room is not None]
            return min(rooms, default=None)
    return None


def _room_bytes(folder: Path) -> int | None:
    most, used = _number(folder / "memory.max"), _number(folder / "memory.current")
    if most is None or used is None:
        return None  # "max": no bound
    # The file cache is part of what is used, and the kernel gives it up first.
    lines = _text(folder / "memory.stat").splitlines()
    cached = sum(
        int(line.split()[1])
        for line in lines
        if line.startswith(("inactive_file ", "active_file "))
    )
    return max(0, most - max(0, used - cached))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

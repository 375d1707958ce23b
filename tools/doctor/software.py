"""Python and the packages that a service needs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok

OLDEST = (3, 10)
NEWEST = (3, 13)

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*(?:>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")


def examine_software(context: Context) -> Iterator[Finding]:
    """Yield `python` and `packages`."""
    version = sys.version_info
    yield judge_python((version.major, version.minor, version.micro), sys.executable)
    try:
        requirements = metadata.requires("fedfstq") or []
    except metadata.PackageNotFoundError:
        yield fail(
            "packages",
            "fedfstq is not installed in this Python",
            f"{sys.executable} -m pip install fedfstq",
        )
        return
    # torch is looked at by itself: its version alone says little.
    wanted = requirements_of(requirements, with_agent=context.role is Role.AGENT)
    yield judge_packages([one for one in wanted if one[0] != "torch"], _installed)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def judge_python(version: tuple[int, int, int], executable: str) -> Finding:
    """Tell whether this Python is one that the project runs on."""
    text = f"{'.'.join(map(str, version))} at {executable}"
    if not OLDEST <= version[:2] <= NEWEST:
        return fail(
            "python",
            f"{text}; 3.10 to 3.13 are supported",
            "make the environment anew with one of these: python3.10 -m venv /opt/fedfstq/venv",
        )
    return ok("python", text)


def requirements_of(
    requirements: Sequence[str], *, with_agent: bool
) -> list[tuple[str, tuple[int, ...]]]:
    """Return (package, least version) of each requirement; other extras' are left out."""
    wanted = []
    for line in requirements:
        extra = _EXTRA.search(line)
        if extra and not (with_agent and extra[1] == "agent"):
            continue
        found = _REQUIREMENT.match(line)
        if found:
            wanted.append((found[1], _numbers(found[2] or "0")))
    return wanted


def judge_packages(
    wanted: Sequence[tuple[str, tuple[int, ...]]], installed: Callable[[str], str | None]
) -> Finding:
    """Tell whether every package is there and new enough."""
    wrong, commands = [], []
    for name, least in wanted:
        version = installed(name)
        need = ".".join(map(str, least))
        if version is None:
            wrong.append(f"{name} is missing")
        elif _numbers(version) < least:
            wrong.append(f"{name} {version} is older than {need}")
        else:
            continue
        commands.append(f"'{name}>={need}'")
    if wrong:
        return fail(
            "packages", "; ".join(wrong), f"{sys.executable} -m pip install {' '.join(commands)}"
        )
    return ok("packages", f"all {len(wanted)} are there and new enough")


def _numbers(version: str) -> tuple[int, ...]:
    released = re.split(r"\+|rc|a|b|\.dev|\.post", version, maxsplit=1)[0]
    return tuple(int(part) for part in re.findall(r"\d+", released)[:3])

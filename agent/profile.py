"""What the device is: its board, its memory and its software."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

from agent.power_mode import read_mode
from agent.sysfs import Files
from agent.tasks import TrainerHello
from agent.telemetry import Sensors
from transport.control import DeviceProfile

MAX_BOARD_CHARACTERS = 120
_RELEASE = re.compile(r"# R([0-9]{1,3}) \(\w+\), REVISION: ([0-9]{1,3}(?:\.[0-9]{1,3})?)", re.ASCII)
# Jetson Linux's major version → JetPack's.
_JETPACKS = {32: "4", 34: "5", 35: "5", 36: "6", 38: "7", 39: "7"}


def device_profile(hello: TrainerHello, *, root: Path = Path("/")) -> DeviceProfile:
    """Return what is known of this device once its trainer has said hello."""
    files = Files(root)
    l4t = parse_release(files.text("etc/nv_tegra_release"))
    return DeviceProfile(
        board=board_name(root),
        agent_version=agent_version(),
        python=platform.python_version(),
        torch=hello.torch,
        cuda=hello.cuda,
        ram_mb=Sensors(root=root).ram_mb(),
        examples=hello.examples,
        heldout_examples=hello.heldout_examples,
        base_digest=hello.base_digest,
        jetpack=jetpack_of(l4t),
        l4t=l4t,
        power_mode=read_mode(files),
        base_precision=hello.base_precision,
        base_precision_reason=hello.base_precision_reason,
        base_mb=hello.base_mb,
        micro_batch=hello.micro_batch,
        out_of_memory=hello.out_of_memory,
    )


def parse_release(text: str) -> str:
    """Return Jetson Linux's version from /etc/nv_tegra_release, "" where there is none."""
    found = _RELEASE.match(text)
    return f"{found[1]}.{found[2]}" if found else ""


def jetpack_of(l4t: str) -> str:
    """Return the major version of the JetPack that a Jetson Linux belongs to, "" if unknown."""
    major = l4t.partition(".")[0]
    return _JETPACKS.get(int(major), "") if major else ""


def board_name(root: Path = Path("/")) -> str:
    """Return the device tree's model, or the machine's kind where there is no device tree."""
    try:
        model = (root / "proc/device-tree/model").read_bytes()
    except OSError:
        return platform.machine()
    # The kernel hands out the string as the firmware keeps it, with its final NUL.
    text = model.rstrip(b"\0").decode(errors="replace").strip()
    return text[:MAX_BOARD_CHARACTERS] or platform.machine()


def agent_version() -> str:
    """Return the installed version of this distribution."""
    try:
        return metadata.version("fedfstq")
    except metadata.PackageNotFoundError:
        return "unknown"

"""What the device is: its board, its memory and its software."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from agent.tasks import TrainerHello
from agent.telemetry import Sensors
from transport.control import DeviceProfile

MAX_BOARD_CHARACTERS = 120


def device_profile(hello: TrainerHello, *, root: Path = Path("/")) -> DeviceProfile:
    """Return what is known of this device once its trainer has said hello."""
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
    )


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

"""How busy the GPU is, from the kernel's own count.

Thor's kernel has no such file; there tegrastats tells it.
"""

from __future__ import annotations

import re

from agent.sysfs import Files

# The names of Jetson GPUs among devfreq's devices: 17000000.gpu, 17000000.ga10b, 57000000.gpu …
_GPU = re.compile(r"[0-9a-f]+\.(gpu|ga10b|gv11b|gp10b|gm20b)\Z")
_OLD_PLACES = ("sys/devices/gpu.0/load", "sys/devices/platform/gpu.0/load")


def read_gpu_pct(files: Files) -> float | None:
    """Return the GPU's load in per cent at this moment; None where nothing tells it."""
    for folder in files.find("sys/class/devfreq/*"):
        if _GPU.match(folder.name):
            load = per_mille(files.integer(folder / "device/load"))
            if load is not None:
                return load
    for place in _OLD_PLACES:
        load = per_mille(files.integer(place))
        if load is not None:
            return load
    for file in files.find("sys/class/drm/card*/device/gpu_busy_percent"):
        busy = files.integer(file)
        if busy is not None and 0 <= busy <= 100:  # noqa: PLR2004 - per cent
            return float(busy)
    return None


def per_mille(load: int | None) -> float | None:
    """Return per cent from devfreq's thousandths; None where it cannot be a load."""
    return load / 10 if load is not None and 0 <= load <= 1000 else None  # noqa: PLR2004 - thousandths

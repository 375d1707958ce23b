"""The board, and on a Jetson its L4T release and JetPack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.profile import board_name
from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, warn

# L4T's major release → JetPack.
_JETPACK = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7}
_OLDEST_JETPACK = 6
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([0-9.]+)")


@dataclass(frozen=True, slots=True)
class L4t:
    """The release of NVIDIA's Linux for Jetson."""

    major: int
    revision: str

    @property
    def jetpack(self) -> int | None:
        """The JetPack that it belongs to, None where it is newer than this table."""
        return _JETPACK.get(self.major)


def examine_board(context: Context) -> Iterator[Finding]:
    """Yield `board`."""
    board = board_name(context.root)
    release = read_release(context)
    yield judge_board(board, release, jetson=is_jetson(context))


def read_release(context: Context) -> L4t | None:
    """Return the release of this machine's L4T, None where it has none."""
    return parse_release(context.text("etc/nv_tegra_release") or "")


def is_jetson(context: Context) -> bool:
    """Tell whether this is a Jetson: its GPU shares the memory, its torch is the vendor's."""
    compatible = context.text("proc/device-tree/compatible") or ""
    if read_release(context) is not None or "nvidia,tegra" in compatible:
        return True
    return "jetson" in board_name(context.root).lower()


def parse_release(text: str) -> L4t | None:
    """Return the release from /etc/nv_tegra_release's text, None where it is none."""
    found = _RELEASE.search(text)
    return L4t(int(found[1]), found[2]) if found else None


def judge_board(board: str, release: L4t | None, *, jetson: bool) -> Finding:
    """Tell whether the board's system is one that the project runs on."""
    if not jetson:
        return ok("board", f"{board}, no Jetson")
    if release is None:
        return warn(
            "board",
            f"{board}, and /etc/nv_tegra_release does not tell the L4T release",
            "apt install --reinstall nvidia-l4t-core",
        )
    name = f"{board}, L4T {release.major}.{release.revision}"
    if release.jetpack is None:
        return ok("board", f"{name}, newer than this version of fedfstq knows")
    if release.jetpack < _OLDEST_JETPACK:
        return fail(
            "board",
            f"{name} (JetPack {release.jetpack}), whose Python and torch are too old",
            "flash JetPack 6 or later: https://developer.nvidia.com/embedded/jetpack",
        )
    return ok("board", f"{name} (JetPack {release.jetpack})")

"""Where the board's power comes from: mains or battery, as the kernel's power_supply class says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.sysfs import Files

_EXTERNAL = frozenset({"mains", "usb", "wireless", "ups"})
_FED = frozenset({"charging", "full", "not charging"})


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of /sys/class/power_supply.

    Attributes:
        kind: Its `type`, in lower case: mains, usb, wireless, ups or battery.
        online: Whether it delivers; None where it does not say.
        status: A battery's: charging, discharging, full, not charging, or unknown.
        capacity_pct: How full a battery is.
        is_peripheral: It feeds a mouse or the like, not the board.
    """

    kind: str
    online: bool | None = None
    status: str = ""
    capacity_pct: int | None = None
    is_peripheral: bool = False


@dataclass(frozen=True, slots=True)
class Supply:
    """What feeds the board.

    Attributes:
        on_mains: Whether power comes from outside; None where nothing says so, as on boards without
            a battery: what feeds their plug is not known to them.
        battery_pct: How full the board's batteries are, on average; None without one.
    """

    on_mains: bool | None = None
    battery_pct: float | None = None


def judge(sources: Iterable[Source]) -> Supply:
    """Return what a board's sources say together."""
    sources = [source for source in sources if not source.is_peripheral]
    batteries = [source for source in sources if source.kind == "battery"]
    told = {source.online for source in sources if source.kind in _EXTERNAL} - {None}
    on_mains: bool | None = True if True in told else None
    if on_mains is None and batteries:
        # Only where there is something else to run from does "offline" mean anything: the USB-C
        # controller of a Jetson is offline while the barrel jack feeds the board.
        states = {battery.status for battery in batteries}
        if "discharging" in states or False in told:
            on_mains = False
        elif states & _FED:
            on_mains = True
    levels = [level for battery in batteries if (level := battery.capacity_pct) is not None]
    return Supply(on_mains, round(sum(levels) / len(levels), 1) if levels else None)


def read_supply(files: Files) -> Supply:
    """Return what feeds the board at this moment."""
    sources = []
    for folder in files.find("sys/class/power_supply/*"):
        online = files.integer(folder / "online")
        capacity = files.integer(folder / "capacity")
        source = Source(
            kind=files.word(folder / "type").lower(),
            # 2 is "online, programmable" of USB supplies.
            online=None if online is None else online > 0,
            status=files.word(folder / "status").lower(),
            capacity_pct=capacity if capacity is not None and 0 <= capacity <= 100 else None,  # noqa: PLR2004 - per cent
            is_peripheral=files.word(folder / "scope").lower() == "device",
        )
        if files.integer(folder / "present") != 0:
            sources.append(source)
    return judge(sources)

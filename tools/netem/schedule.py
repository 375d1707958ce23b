"""Which link each device has at which moment: profiles, their phases, and cuts by hand. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.netem.profile import Link, Profile


@dataclass(frozen=True, slots=True)
class LinkChange:
    """Give a device this link.

    Attributes:
        number: The device's, from 1.
        link: What it is like from now on.
        is_new: Another profile begins: what is in the queues belongs to the old one.
    """

    number: int
    link: Link
    is_new: bool


@dataclass(slots=True)
class _Device:
    profile: Profile
    began_at: float
    is_cut: bool = False
    is_new: bool = True
    shown: Link | None = None


class Schedule:
    """The links of all devices; `changes` says what has to be done now."""

    def __init__(self) -> None:
        self._devices: dict[int, _Device] = {}

    def apply(self, numbers: Iterable[int], profile: Profile, *, now: float) -> None:
        """Begin a profile, at its first phase; a cut by hand stays."""
        for number in numbers:
            before = self._devices.get(number)
            is_cut = before.is_cut if before else False
            self._devices[number] = _Device(profile, now, is_cut)

    def cut(self, numbers: Iterable[int]) -> None:
        """Let nothing pass until `restore`; phases go on meanwhile."""
        for number in numbers:
            self._devices[number].is_cut = True

    def restore(self, numbers: Iterable[int]) -> None:
        """End a cut by hand."""
        for number in numbers:
            self._devices[number].is_cut = False

    def changes(self, now: float) -> list[LinkChange]:
        """Return what is to be changed since the last call, and count it as done."""
        changes = []
        for number, device in self._devices.items():
            link, _ = device.profile.at(now - device.began_at)
            if device.is_cut:
                link = link.model_copy(update={"cut": True})
            if device.is_new or link != device.shown:
                changes.append(LinkChange(number, link, device.is_new))
            device.shown, device.is_new = link, False
        return changes

    def next_wakeup(self, now: float) -> float | None:
        """Return when a phase ends next, None where none ever does."""
        moments = [
            device.began_at + end_s
            for device in self._devices.values()
            if (end_s := device.profile.at(now - device.began_at)[1]) is not None
        ]
        return min(moments, default=None)

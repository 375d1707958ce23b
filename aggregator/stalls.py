"""Who keeps a round waiting, and why: judged by progress, never by how long something takes.

Pure. Progress is a segment that the aggregator takes, a device's progress message, its answer to a
command, or a status that has changed; a device that shows none of them for a while stalls. It goes
on being awaited: the round's deadline decides that, and this tells people what is in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum

from aggregator.outputs import Publish
from transport.control import AlertNotice, DeviceState
from transport.topics import Alert

STALLED = Alert("stalled")
# Devices that the alert names; `count` says how many there are.
MAX_NAMED = 5
# A fleet that stalls one after the other is told of this often at the most.
NOTICE_INTERVAL_S = 5.0
# [s] A look takes in everybody who is awaited, some microseconds for each, and is followed by a
# pause of so much for each: a fleet that stalls one after the other costs no more than one that
# does not, and with few devices nobody notices.
PAUSE_PER_DEVICE_S = 2e-4


class StallCause(str, Enum):
    """What a device was last known to do."""

    OFFLINE = "offline"  # it said goodbye, or its last will did
    SILENT = "silent"  # it has not answered to the command
    FETCHING = "fetching"  # no word since it began to fetch the adapter
    TRAINING = "training"  # no step is told
    UPLOADING = "uploading"  # online, and no segment is taken
    PAUSED = "paused"
    IDLE = "idle"  # it has taken the command and does nothing


_CAUSES = {
    DeviceState.OFFLINE: StallCause.OFFLINE,
    DeviceState.LOST: StallCause.OFFLINE,
    DeviceState.FETCHING: StallCause.FETCHING,
    DeviceState.TRAINING: StallCause.TRAINING,
    DeviceState.UPLOADING: StallCause.UPLOADING,
    DeviceState.AWAITING_RECEIPT: StallCause.UPLOADING,
    DeviceState.PAUSED: StallCause.PAUSED,
    DeviceState.IDLE: StallCause.IDLE,
}


class Stalls:
    """Finds the devices that stall, and tells of them in one alert.

    Args:
        stall_s: Seconds without progress after which a device stalls.
    """

    def __init__(self, *, stall_s: float) -> None:
        self._stall_s = stall_s
        self._moved_at: dict[str, float] = {}
        self._stalled: dict[str, StallCause] = {}
        self._told: dict[str, StallCause] = {}
        self._told_at = float("-inf")
        self._due: float | None = None
        self._next_look_at = float("-inf")

    @property
    def count(self) -> int:
        """How many devices stall."""
        return len(self._stalled)

    def moved(self, client_id: str, now: float) -> None:
        """Note that a device has been asked, or shows progress."""
        self._moved_at[client_id] = now
        if client_id in self._stalled:
            self._due = max(now, self._next_look_at)
        elif self._due is None:
            self._due = now + self._stall_s

    def review(
        self,
        now: float,
        *,
        awaited: Collection[str],
        silent: Collection[str],
        state_of: Callable[[str], DeviceState | None],
    ) -> list[Publish]:
        """Look at everybody who is awaited, where it is time, and tell what has changed.

        Args:
            now: Monotonic seconds.
            awaited: The devices whose updates the open round waits for.
            silent: Those that were asked in it and have not answered in time.
            state_of: Their last status; None where there is none.
        """
        if self._due is None or now < self._due:
            return []
        watched = {*awaited, *silent}
        self._next_look_at = now + min(NOTICE_INTERVAL_S, len(watched) * PAUSE_PER_DEVICE_S)
        self._moved_at = {name: self._moved_at.get(name, now) for name in watched}
        self._stalled = {
            name: StallCause.SILENT if name in silent else self._cause(state_of(name))
            for name in sorted(watched)
            if name in silent or now >= self._moved_at[name] + self._stall_s
        }
        going = [moved for name, moved in self._moved_at.items() if name not in self._stalled]
        self._due = max(min(going) + self._stall_s, self._next_look_at) if going else None
        if self._stalled == self._told:
            return []
        if self._stalled and now < self._told_at + NOTICE_INTERVAL_S:
            again_at = self._told_at + NOTICE_INTERVAL_S
            self._due = again_at if self._due is None else min(self._due, again_at)
            return []
        self._told, self._told_at = self._stalled, now
        return [Publish(STALLED, _notice(self._stalled), retain=True)]

    def next_wakeup(self) -> float | None:
        """Return the moment by which `review` wants to be called."""
        return self._due

    def over(self, now: float) -> None:
        """Note that a round has begun or ended: whoever stalled may not be awaited any more."""
        if self._stalled or self._told:
            self._due = now

    @staticmethod
    def _cause(state: DeviceState | None) -> StallCause:
        return StallCause.OFFLINE if state is None else _CAUSES[state]


def _notice(stalled: Mapping[str, StallCause]) -> AlertNotice | None:
    if not stalled:
        return None
    named = [f"{name} {cause.value}" for name, cause in list(stalled.items())[:MAX_NAMED]]
    more = len(stalled) - len(named)
    text = "no progress: " + ", ".join(named) + (f" and {more} more" if more else "")
    first = next(iter(stalled))
    return AlertNotice(severity="warning", text=text, count=len(stalled), client_id=first)

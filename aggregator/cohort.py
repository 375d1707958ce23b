"""Who is online, and who is asked to train in a round."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

from transport.control import DeviceState, DeviceStatus

# Each device holds some 200 bytes here; far more than this is an attack or another design.
MAX_DEVICES = 100_000

_GONE = frozenset({DeviceState.OFFLINE, DeviceState.LOST})


class Presence:
    """The devices of a federation, as their retained statuses tell."""

    def __init__(self) -> None:
        self._statuses: dict[str, DeviceStatus] = {}

    def receive(self, client_id: str, status: DeviceStatus | None) -> bool:
        """Take a device's status, and say whether it has just arrived and may need its command.

        A device arrives when it comes online, is resumed, or was restarted (a new session) while
        nobody saw it go.

        Args:
            client_id: The device.
            status: None where its retained status was cleared: the device is forgotten.
        """
        before = self._statuses.get(client_id)
        if status is None:
            self._statuses.pop(client_id, None)
            return False
        if before is None and len(self._statuses) >= MAX_DEVICES:
            return False
        self._statuses[client_id] = status
        if not _takes_part(status):
            return False
        return before is None or not _takes_part(before) or before.session != status.session

    def forget(self) -> None:
        """Forget everybody: the connection is lost, and the broker will tell again."""
        self._statuses.clear()

    def has_left(self, client_id: str) -> bool:
        """Say whether the device, or its last will, said goodbye; False where nothing is known."""
        status = self._statuses.get(client_id)
        return status is not None and status.state in _GONE

    def eligible(self) -> tuple[str, ...]:
        """Return the devices that may be asked to train: online and not paused; sorted."""
        return tuple(sorted(name for name, status in self._statuses.items() if _takes_part(status)))


def _takes_part(status: DeviceStatus) -> bool:
    return status.state not in _GONE and status.state is not DeviceState.PAUSED


def cohort_size(goal: int, *, over_selection: float) -> int:
    """Return how many devices a round asks, so that `goal` of them deliver in time.

    Over-selection is that of Bonawitz et al., "Towards Federated Learning at Scale" (2019), 2.2.
    """
    return max(goal, math.ceil(goal * over_selection - 1e-9))


def sample_cohort(
    eligible: Iterable[str],
    *,
    size: int,
    seed: int,
    round_id: int,
    attempt: int,
    exclude: Collection[str] = (),
) -> tuple[str, ...]:
    """Return up to `size` devices, uniformly without replacement, and the same for the same seed.

    Every device has a pseudo-random rank in a round and attempt, and the lowest ranks are taken:
    a device that comes online later moves nobody else, so filling a cohort up is fair as well.
    """

    def rank(client_id: str) -> bytes:
        return hashlib.sha256(f"{seed}/{round_id}/{attempt}/{client_id}".encode()).digest()

    candidates = sorted(set(eligible) - set(exclude), key=rank)
    return tuple(sorted(candidates[: max(0, size)]))

"""Who is online, and who is asked to train in a round."""

from __future__ import annotations

import hashlib
import heapq
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from transport.control import DeviceState, DeviceStatus

# Each device holds some 200 bytes here; far more than this is an attack or another design.
MAX_DEVICES = 100_000

# Sessions of a device before the one that it has: a copy of it comes back with one of these.
MAX_RETIRED = 8

_GONE = frozenset({DeviceState.OFFLINE, DeviceState.LOST})


class Presence:
    """The devices of a federation, as their statuses tell.

    A session is random per start of an agent, so one that was followed by another never comes back
    alive, unless two devices share one identity. What may honestly look like that is no evidence:
    a retained status, one that the broker delivers for a second time, and the last will of an
    earlier session, which a broker publishes when it notices that the connection is dead.

    Args:
        cloned: The devices that were found to share an identity before a restart.
    """

    def __init__(self, cloned: Iterable[str] = ()) -> None:
        self._seen: dict[str, _Seen] = {}
        self._silent: set[str] = set()
        self._sessions: dict[str, tuple[str, ...]] = {}  # the newest last
        self._cloned = set(cloned)
        self._eligible: list[str] = []  # sorted

    def receive(self, client_id: str, status: DeviceStatus | None, *, fresh: bool = True) -> bool:
        """Take a device's status, and say whether it has just arrived and may need its command.

        A device arrives when it comes online, is resumed, was restarted (a new session) while
        nobody saw it go, or was silent.

        Args:
            client_id: The device.
            status: None where its retained status was cleared: the device is forgotten.
            fresh: Whether it was published just now, for the first time.
        """
        was_silent = self.heard(client_id)
        before = self._seen.get(client_id)
        if status is None:
            self._seen.pop(client_id, None)
            self._sessions.pop(client_id, None)
            self._cloned.discard(client_id)
            self._place(client_id)
            return False
        if before is None and len(self._seen) >= MAX_DEVICES:
            return False
        is_gone, session = status.state in _GONE, status.session
        if is_gone and before is not None and before.session != session:
            return False  # an earlier session's last will
        if fresh and not is_gone:
            self._follow(client_id, session)
        self._seen[client_id] = seen = _Seen(status.state, session)
        self._place(client_id)
        if not seen.takes_part or client_id in self._cloned:
            return False
        is_known = before is not None and before.takes_part and before.session == seen.session
        return was_silent or not is_known

    def quarantine(self, client_id: str) -> None:
        """Note that two devices share this identity."""
        self._cloned.add(client_id)
        self._place(client_id)

    def _follow(self, client_id: str, session: str) -> None:
        """Note the session that a device has now, and whether it had it before another one."""
        known = self._sessions.get(client_id, ())
        if known and known[-1] == session:
            return
        if session in known:
            self._cloned.add(client_id)
        elif known or len(self._sessions) < MAX_DEVICES:
            self._sessions[client_id] = (*known[-MAX_RETIRED:], session)

    def _place(self, client_id: str) -> None:
        """Note whether a device is eligible, by what is known of it."""
        seen = self._seen.get(client_id)
        belongs = seen is not None and seen.takes_part and client_id not in self._cloned
        at = bisect_left(self._eligible, client_id)
        if (self._eligible[at : at + 1] == [client_id]) is belongs:
            return
        if belongs:
            self._eligible.insert(at, client_id)
        else:
            del self._eligible[at]

    @property
    def cloned(self) -> AbstractSet[str]:
        """The devices whose identity two of them share; until their status is cleared. A view."""
        return self._cloned

    def state_of(self, client_id: str) -> DeviceState | None:
        """Return a device's last state; None where nothing is known."""
        seen = self._seen.get(client_id)
        return seen.state if seen else None

    def moves(self, client_id: str, *, since: DeviceState | None) -> bool:
        """Say whether a device does something else than before, without having been away."""
        state = self.state_of(client_id)
        is_here = state is not None and state not in _GONE
        return is_here and since is not None and since not in _GONE and state is not since

    def heard(self, client_id: str) -> bool:
        """Note a sign of life, and say whether the device was silent until now."""
        was_silent = client_id in self._silent
        self._silent.discard(client_id)
        return was_silent

    def fell_silent(self, client_ids: Iterable[str]) -> None:
        """Note that these did not answer: a retained status may be all that is left of them."""
        self._silent.update(client_ids)

    @property
    def silent(self) -> AbstractSet[str]:
        """The devices that did not answer when they were asked last. A view."""
        return self._silent

    def forget(self) -> None:
        """Forget who is online: the connection is lost, and the broker will tell again."""
        self._seen.clear()
        self._silent.clear()
        self._eligible.clear()

    def has_left(self, client_id: str) -> bool:
        """Say whether the device, or its last will, said goodbye; False where nothing is known."""
        seen = self._seen.get(client_id)
        return seen is not None and seen.state in _GONE

    def eligible(self) -> tuple[str, ...]:
        """Return the devices that may be asked to train: online, not paused, not cloned; sorted."""
        return tuple(self._eligible)

    @property
    def eligible_count(self) -> int:
        """How many devices may be asked to train."""
        return len(self._eligible)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a status; the rest is for people, and a device may write it long."""

    state: DeviceState
    session: str

    @property
    def takes_part(self) -> bool:
        return self.state not in _GONE and self.state is not DeviceState.PAUSED


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
    last: Collection[str] = (),
) -> tuple[str, ...]:
    """Return up to `size` devices, uniformly without replacement, and the same for the same seed.

    Every device has a pseudo-random rank in a round and attempt, and the lowest ranks are taken:
    a device that comes online later moves nobody else, so filling a cohort up is fair as well.

    Args:
        eligible: Whom to choose from.
        size: The most to choose.
        seed: The run's seed.
        round_id: The round.
        attempt: The attempt at it.
        exclude: Whom not to choose.
        last: Whom to choose only where the others are too few.
    """

    def rank(client_id: str) -> tuple[bool, bytes]:
        text = f"{seed}/{round_id}/{attempt}/{client_id}"
        return client_id in last, hashlib.sha256(text.encode()).digest()

    candidates = set(eligible).difference(exclude)
    return tuple(sorted(heapq.nsmallest(size, candidates, key=rank)))

"""What is tried on a broker to prove its rules, and where it harms nobody.

Everything is tried in a federation that nobody belongs to, on topics of a device that does not
exist, without `retain`: where a rule is missing, nobody hears what should not have passed. Where
the broker's rules name one federation, the few topics of it are taken that no service listens to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tools.doctor.context import Role
from transport import topics
from transport.topics import Topics

UID: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Trial:
    """What the trial of one login is made with.

    Attributes:
        me: The login's name.
        other: The name of a device that does not exist.
        fleet: Topics that nobody listens to.
        is_real: They are those of the service's own federation.
    """

    me: str
    other: str
    fleet: Topics
    is_real: bool = False


def own_topics(trial: Trial, role: Role) -> list[str]:
    """Return what the login must be able to write."""
    if role is Role.AGGREGATOR:
        if trial.is_real:
            return [trial.fleet.topic(topics.Down(trial.other, UID))]
        addresses: list[topics.Address] = [
            topics.CoordStatus(),
            topics.CoordRun(),
            topics.ModelSegment(1, 0),
            topics.Down(trial.other, UID),
            topics.Command(trial.other, "train", "1"),
        ]
    else:
        addresses = [topics.DeviceTopic(trial.me, "telemetry")]
        if not trial.is_real:
            addresses += [
                topics.DeviceTopic(trial.me, "status"),
                topics.Response(trial.me, "train", "1"),
                topics.UpManifest(trial.me, UID),
                topics.UpSegment(trial.me, UID, 0),
                topics.ModelWant(trial.me, 1),
            ]
    return [trial.fleet.topic(address) for address in addresses]


def forbidden_topics(trial: Trial, role: Role) -> list[str]:
    """Return what the login must not be able to write."""
    other = trial.other
    if role is Role.AGGREGATOR:
        # It may not send updates in a device's name, or it could make up who took part.
        addresses: list[topics.Address] = [
            topics.DeviceTopic(other, "telemetry"),
            topics.DeviceTopic(other, "info"),
        ]
        if not trial.is_real:
            addresses += [
                topics.DeviceTopic(other, "status"),
                topics.UpManifest(other, UID),
                topics.UpSegment(other, UID, 0),
                topics.UpSegment(trial.me, UID, 0),
            ]
        return [trial.fleet.topic(address) for address in addresses]
    addresses = [
        topics.DeviceTopic(other, "telemetry"),
        topics.DeviceTopic(other, "info"),
        topics.Alert("doctor"),
        topics.Down(other, UID),
    ]
    if not trial.is_real:
        addresses += [
            topics.DeviceTopic(other, "status"),
            topics.Response(other, "train", "1"),
            topics.UpManifest(other, UID),
            topics.UpSegment(other, UID, 0),
            topics.ModelWant(other, 1),
            topics.CoordStatus(),
            topics.CoordRun(),
            topics.RoundNow(),
            topics.Model(),
            topics.ModelManifest(1),
            topics.ModelSegment(1, 0),
            topics.Down(trial.me, UID),
            topics.Command(trial.me, "train", "1"),
            topics.Command(other, "train", "1"),
            topics.Command(other, "pause", "1"),
        ]
    return [trial.fleet.topic(address) for address in addresses]


def forbidden_filters(trial: Trial, federation: Topics) -> list[str]:
    """Return what a device may subscribe to, and must never hear anything on."""
    return [
        f"{trial.fleet.bulk}/up/#",
        f"{trial.fleet.bulk}/want/#",
        f"{trial.fleet.monitoring}/d/+/status",
        f"{trial.fleet.monitoring}/d/+/telemetry",
        # Retained, so that they come at once where they may be read.
        f"{federation.monitoring}/d/+/status",
        f"{federation.monitoring}/d/+/info",
    ]

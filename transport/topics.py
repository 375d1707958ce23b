"""Every topic of the system, built and parsed in one place.

JSON for people and operators stands under `fl/`, msgpack frames under `flx/`, so that a viewer
that subscribes to `fl/#` never pulls megabytes. Identifiers are `[a-z0-9-]`; the device stands at a
fixed level, so that a broker's ACL patterns can bind it to the login.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transport.errors import BadTopic, InvalidIdentifier

VERSION = "v1"
_IDENTIFIER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?\Z")
_UID = re.compile(r"[0-9a-f]{32}\Z")
# Decimal without sign or leading zero, so that one number has one topic. Nine digits hold any
# segment index and adapter version that the limits allow.
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


def identifier(text: str) -> str:
    """Return `text` where it may be a topic level: `[a-z0-9-]`, 1 to 64 long.

    Raises:
        InvalidIdentifier: Anything else.
    """
    if not _IDENTIFIER.match(text):
        raise InvalidIdentifier(
            f"{text!r} is no identifier: use 1 to 64 of a-z, 0-9 and -, not - at either end"
        )
    return text


@dataclass(frozen=True, slots=True)
class UpManifest:
    """A device announces a client update."""

    client_id: str
    uid: str


@dataclass(frozen=True, slots=True)
class UpSegment:
    """A device sends one segment of a client update."""

    client_id: str
    uid: str
    index: int


@dataclass(frozen=True, slots=True)
class Down:
    """The aggregator answers a device about one client update."""

    client_id: str
    uid: str


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """The aggregator announces an adapter version: in full, or as its delta from the one before."""

    version: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class ModelSegment:
    """The aggregator sends one segment of an adapter version, or of its delta."""

    version: int
    index: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class ModelWant:
    """A device names the segments of an adapter version, or its delta, that it still misses."""

    client_id: str
    version: int
    delta: bool = False


@dataclass(frozen=True, slots=True)
class CoordStatus:
    """The aggregator's own state, retained."""


@dataclass(frozen=True, slots=True)
class CoordRun:
    """The run that is on, retained."""


@dataclass(frozen=True, slots=True)
class RoundNow:
    """The round that is open, retained."""


@dataclass(frozen=True, slots=True)
class RoundLast:
    """The summary of the last round, retained."""


@dataclass(frozen=True, slots=True)
class Model:
    """The newest adapter version, retained."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that an operator should know, retained until cleared."""

    code: str


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """One of a device's own topics, such as `status`: see `DEVICE_LEAVES`."""

    client_id: str
    leaf: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command to a device."""

    client_id: str
    name: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Response:
    """A device's answer to a command."""

    client_id: str
    name: str
    command_id: str


Address = (
    UpManifest
    | UpSegment
    | Down
    | ModelManifest
    | ModelSegment
    | ModelWant
    | CoordStatus
    | CoordRun
    | RoundNow
    | RoundLast
    | Model
    | Alert
    | DeviceTopic
    | Command
    | Response
)

DEVICE_LEAVES = frozenset({"status", "info", "telemetry", "progress", "energy"})


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds and parses the topics of one federation."""

    federation: str

    def __post_init__(self) -> None:
        identifier(self.federation)

    @property
    def monitoring(self) -> str:
        """The root of everything that people read."""
        return f"fl/{VERSION}/{self.federation}"

    @property
    def bulk(self) -> str:
        """The root of everything that is heavy."""
        return f"flx/{VERSION}/{self.federation}"

    def topic(self, address: Address) -> str:
        """Return the topic of an address."""
        match address:
            case UpManifest(client_id, uid):
                return f"{self.bulk}/up/{client_id}/{uid}/m"
            case UpSegment(client_id, uid, index):
                return f"{self.bulk}/up/{client_id}/{uid}/s/{index}"
            case Down(client_id, uid):
                return f"{self.bulk}/down/{client_id}/{uid}"
            case ModelManifest(version, delta):
                return f"{self.bulk}/model/{version}/{'d/' if delta else ''}m"
            case ModelSegment(version, index, delta):
                return f"{self.bulk}/model/{version}/{'d/' if delta else ''}s/{index}"
            case ModelWant(client_id, version, delta):
                return f"{self.bulk}/want/{client_id}/{version}{'/d' if delta else ''}"
            case CoordStatus():
                return f"{self.monitoring}/coord/status"
            case CoordRun():
                return f"{self.monitoring}/coord/run"
            case RoundNow():
                return f"{self.monitoring}/round"
            case RoundLast():
                return f"{self.monitoring}/round/last"
            case Model():
                return f"{self.monitoring}/model"
            case Alert(code):
                return f"{self.monitoring}/alert/{code}"
            case DeviceTopic(client_id, leaf):
                return f"{self.monitoring}/d/{client_id}/{leaf}"
            case Command(client_id, name, command_id):
                return f"{self.monitoring}/d/{client_id}/cmd/{name}/{command_id}"
            case Response(client_id, name, command_id):
                return f"{self.monitoring}/d/{client_id}/rsp/{name}/{command_id}"

    def parse(self, topic: str) -> Address:
        """Return the address that a topic of this federation stands for.

        Raises:
            BadTopic: A topic of another federation or version, or one that means nothing here.
        """
        levels = topic.split("/")
        if levels[1:3] != [VERSION, self.federation]:
            raise BadTopic(f"topic {topic[:120]!r} is not of federation {self.federation!r}")
        address = _parse_bulk(levels[3:]) if levels[0] == "flx" else _parse_monitoring(levels)
        if address is None:
            raise BadTopic(f"topic {topic[:120]!r} means nothing here")
        return address

    def aggregator_filters(self) -> tuple[str, ...]:
        """Return what an aggregator subscribes to: first what tells whether another one leads."""
        return (
            f"{self.monitoring}/coord/status",
            f"{self.monitoring}/coord/run",
            f"{self.monitoring}/model",
            f"{self.monitoring}/d/+/status",
            f"{self.monitoring}/d/+/progress",
            f"{self.monitoring}/d/+/energy",
            f"{self.monitoring}/d/+/rsp/+/+",
            f"{self.bulk}/up/+/+/m",
            f"{self.bulk}/up/+/+/s/+",
            f"{self.bulk}/want/+/+",
            f"{self.bulk}/want/+/+/d",
        )

    def agent_filters(self, client_id: str) -> tuple[str, ...]:
        """Return what the agent of one device subscribes to for as long as it runs."""
        return (
            f"{self.monitoring}/coord/run",
            f"{self.monitoring}/model",
            f"{self.monitoring}/d/{client_id}/cmd/+/+",
            f"{self.bulk}/down/{client_id}/+",
        )

    def model_filters(self, version: int, *, delta: bool = False) -> tuple[str, ...]:
        """Return what an agent subscribes to while it fetches one adapter version, or its delta."""
        root = f"{self.bulk}/model/{version}{'/d' if delta else ''}"
        return (f"{root}/m", f"{root}/s/+")


def _number(level: str) -> int | None:
    return int(level) if _NUMBER.match(level) else None


def _parse_bulk(levels: list[str]) -> Address | None:
    match levels:
        case ["up", client_id, uid, "m"] if _named(client_id) and _UID.match(uid):
            return UpManifest(client_id, uid)
        case ["up", client_id, uid, "s", index] if _named(client_id) and _UID.match(uid):
            number = _number(index)
            return None if number is None else UpSegment(client_id, uid, number)
        case ["down", client_id, uid] if _named(client_id) and _UID.match(uid):
            return Down(client_id, uid)
        case ["model", version, "m"]:
            number = _number(version)
            return None if number is None else ModelManifest(number)
        case ["model", version, "s", index]:
            number, position = _number(version), _number(index)
            return None if number is None or position is None else ModelSegment(number, position)
        case ["model", version, "d", "m"]:
            number = _number(version)
            return None if number is None else ModelManifest(number, delta=True)
        case ["model", version, "d", "s", index]:
            number, position = _number(version), _number(index)
            if number is None or position is None:
                return None
            return ModelSegment(number, position, delta=True)
        case ["want", client_id, version, "d"] if _named(client_id):
            number = _number(version)
            return None if number is None else ModelWant(client_id, number, delta=True)
        case ["want", client_id, version] if _named(client_id):
            number = _number(version)
            return None if number is None else ModelWant(client_id, number)
    return None


def _parse_monitoring(levels: list[str]) -> Address | None:
    if levels[0] != "fl":
        return None
    match levels[3:]:
        case ["coord", "status"]:
            return CoordStatus()
        case ["coord", "run"]:
            return CoordRun()
        case ["round"]:
            return RoundNow()
        case ["round", "last"]:
            return RoundLast()
        case ["model"]:
            return Model()
        case ["alert", code] if _named(code):
            return Alert(code)
        case ["d", client_id, leaf] if _named(client_id) and leaf in DEVICE_LEAVES:
            return DeviceTopic(client_id, leaf)
        case ["d", client_id, "cmd", name, command_id] if _named(client_id, name, command_id):
            return Command(client_id, name, command_id)
        case ["d", client_id, "rsp", name, command_id] if _named(client_id, name, command_id):
            return Response(client_id, name, command_id)
    return None


def _named(*levels: str) -> bool:
    return all(_IDENTIFIER.match(level) for level in levels)

"""Who belongs to a fleet, and by which certificates: the record `fleet.yaml`, and what may change.

Pure: moments and serial numbers come from outside. A name is given once and for all, because it
stands in topics, journals and certificates; its certificates follow one another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import Enum
from ipaddress import ip_address
from typing import Annotated

import yaml
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tools.init.certificates import KeyKind, Revoked
from tools.init.errors import InitRefused
from transport.errors import InvalidIdentifier
from transport.topics import identifier

BROKER = "broker"
AGGREGATOR = "coord"  # the login that the ACL knows as the aggregator
DEFAULT_PORT = 8883

# Names of files beside those of devices and people, or of logins with rights of their own.
RESERVED = frozenset({"ca", "crl", BROKER, AGGREGATOR, "aggregator"})

_HEADER = """\
# Who belongs to this fleet. Written by `fedfstq init`, which keeps it: do not edit it by hand.
# `fedfstq init list` prints it. Back up this folder, and let nobody read it: it holds every key.

"""
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z", re.IGNORECASE)
_MAX_HOST = 253


class Role(str, Enum):
    """What a certificate's owner may do; the ACL says it topic by topic."""

    BROKER = "broker"
    AGGREGATOR = "aggregator"
    OPERATOR = "operator"
    VIEWER = "viewer"
    DEVICE = "device"


PEOPLE = (Role.OPERATOR, Role.VIEWER)


class Issued(BaseModel):
    """One certificate that was issued.

    Attributes:
        serial: Its serial number, hexadecimal.
        begins: From when on it is good.
        ends: Until when.
        revoked: Since when it is not; None while it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    serial: Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]
    begins: AwareDatetime
    ends: AwareDatetime
    revoked: AwareDatetime | None = None

    @property
    def number(self) -> int:
        """The serial number as certificates hold it."""
        return int(self.serial, 16)


class Member(BaseModel):
    """One name of a fleet, and its certificates from the oldest to the newest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    certificates: Annotated[tuple[Issued, ...], Field(min_length=1)]

    @property
    def current(self) -> Issued:
        """The newest certificate."""
        return self.certificates[-1]

    @property
    def is_revoked(self) -> bool:
        """Whether this name is shut out."""
        return self.current.revoked is not None


def host_name(text: str) -> str:
    """Return a host's name or address where TLS can check it.

    Raises:
        InitRefused: It is neither.
    """
    try:
        ip_address(text)
    except ValueError:
        labels = text.split(".")
        is_numeric = labels[-1].isdecimal()
        if len(text) > _MAX_HOST or is_numeric or not all(map(_LABEL.match, labels)):
            raise InitRefused(
                f"{text!r} is no host: name the broker by DNS name or address, without port or"
                " scheme, as mqtt.example.org or 192.168.1.10"
            ) from None
    return text


class Fleet(BaseModel):
    """A fleet's record, as `fleet.yaml` holds it.

    Attributes:
        federation: The third level of every topic.
        key: What keys its certificates are for.
        made: When.
        hosts: What the broker is called; the first is what services are given.
        port: The broker's.
        signing: Whether services sign their messages as well.
        names: Who has a certificate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: Annotated[str, AfterValidator(identifier)]
    key: KeyKind
    made: AwareDatetime
    hosts: Annotated[tuple[str, ...], Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    signing: bool = False
    names: dict[str, Member]

    def member(self, name: str) -> Member:
        """Return who has a name.

        Raises:
            InitRefused: Nobody has it.
        """
        if name not in self.names:
            raise InitRefused(f"nobody here is named {name!r}: `fedfstq init list` shows who is")
        return self.names[name]

    def having(self, *roles: Role) -> Iterator[tuple[str, Member]]:
        """Yield the names that have one of these roles and are not revoked, sorted."""
        for name, member in sorted(self.names.items()):
            if member.role in roles and not member.is_revoked:
                yield name, member

    def shut_out(self) -> tuple[str, ...]:
        """Return the names that are revoked, sorted."""
        return tuple(name for name, member in sorted(self.names.items()) if member.is_revoked)

    def revoked(self) -> tuple[Revoked, ...]:
        """Return every certificate that is revoked."""
        return tuple(
            Revoked(one.number, one.revoked)
            for member in self.names.values()
            for one in member.certificates
            if one.revoked is not None
        )

    def with_names(self, names: Mapping[str, Member]) -> Fleet:
        """Return this fleet with these names added or replaced."""
        return self.model_copy(update={"names": {**self.names, **names}})


def new_name(text: str) -> str:
    """Return a name that a device or a person may be given.

    Raises:
        InitRefused: It is no identifier, or it is the name of something else here.
    """
    try:
        identifier(text)
    except InvalidIdentifier as error:
        raise InitRefused(str(error)) from error
    if text in RESERVED:
        raise InitRefused(f"{text!r} is taken by the fleet itself: choose another name")
    return text


def admitted(fleet: Fleet, name: str, role: Role) -> bool:
    """Return whether a name is in the fleet already, with this role.

    Raises:
        InitRefused: It may not be given, has another role, or is revoked.
    """
    if name not in fleet.names:
        new_name(name)
        return False
    member = fleet.names[name]
    if member.role is not role:
        raise InitRefused(
            f"{name!r} is this fleet's {member.role.value} already: choose another name"
        )
    if member.is_revoked:
        raise InitRefused(
            f"{name!r} is revoked: choose another name, or let it in again with a new key:"
            f" fedfstq init renew {name}"
        )
    return True


def renewed(fleet: Fleet, name: str, issued: Issued) -> Fleet:
    """Return the fleet in which a name has one more certificate; the one before stays good."""
    member = fleet.member(name)
    certificates = (*member.certificates, issued)
    return fleet.with_names({name: member.model_copy(update={"certificates": certificates})})


def revoked(fleet: Fleet, name: str, *, now: datetime) -> Fleet:
    """Return the fleet in which none of a name's certificates is good any more.

    Raises:
        InitRefused: Nobody has the name, or it is the broker's.
    """
    member = fleet.member(name)
    if member.role is Role.BROKER:
        raise InitRefused(
            "services do not read a revocation list, so revoking the broker's certificate would"
            " change nothing: make a new fleet in a new folder, with an authority of its own"
        )
    moment = now.replace(microsecond=0)
    certificates = tuple(
        one if one.revoked else one.model_copy(update={"revoked": moment})
        for one in member.certificates
    )
    return fleet.with_names({name: member.model_copy(update={"certificates": certificates})})


def with_hosts(fleet: Fleet, hosts: tuple[str, ...]) -> Fleet:
    """Return the fleet whose broker is also known by these names and addresses."""
    more = tuple(dict.fromkeys(host for host in hosts if host not in fleet.hosts))
    return fleet.model_copy(update={"hosts": (*fleet.hosts, *more)})


def written(fleet: Fleet) -> str:
    """Return what `fleet.yaml` holds."""
    values = fleet.model_dump(mode="json", exclude_none=True)
    return _HEADER + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)

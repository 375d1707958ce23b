"""What `fedfstq init` does: each operation changes the record, and the folder follows it.

Every operation may be repeated: with the same arguments it changes nothing, and after a crash it
finishes what was begun.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tools.init.certificates import KeyKind
from tools.init.errors import InitRefused
from tools.init.files import locked, sync_folder
from tools.init.fleet import (
    AGGREGATOR,
    BROKER,
    DEFAULT_PORT,
    PEOPLE,
    Fleet,
    Member,
    Role,
    admitted,
    host_name,
    renewed,
    revoked,
    with_hosts,
)
from tools.init.folder import FleetFolder, is_fleet, label
from tools.init.service_files import agent_file, aggregator_file
from transport.errors import InvalidIdentifier
from transport.topics import identifier

DEFAULT_GOAL = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation has left behind.

    Attributes:
        fleet: The record.
        issued: Names that have a new certificate.
        bundles: Bundles that are others than before: names, or `broker` and `aggregator`.
    """

    fleet: Fleet
    issued: tuple[str, ...]
    bundles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FleetWish:
    """What was asked for when a fleet is made; None where nothing was said."""

    federation: str | None = None
    hosts: tuple[str, ...] = ()
    port: int | None = None
    key: KeyKind | None = None
    goal: int | None = None
    signing: bool | None = None
    changes: tuple[str, ...] = ()


def make_fleet(path: Path, wish: FleetWish, *, now: datetime) -> Outcome:
    """Make a fleet folder; where there is one already, only bring its files in line.

    Raises:
        InitRefused: A name or host is none, the folder holds something else, or another fleet.
    """
    path = path.resolve()
    hosts = tuple(dict.fromkeys(host_name(host) for host in wish.hosts))
    if is_fleet(path):
        return _same_fleet(FleetFolder(path), wish, hosts)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InitRefused(f"{path} holds something else: name a new or empty folder")
    if wish.federation is None or not hosts:
        raise InitRefused("a new fleet needs --federation NAME and --broker HOST")
    fleet = _new_record(wish, wish.federation, hosts, now=now)
    text = aggregator_file(fleet, goal=wish.goal or DEFAULT_GOAL, changes=wish.changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    # 0700, and renamed as a whole: there is no fleet that is half made.
    staged = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder = FleetFolder(staged)
        folder.make_authority(fleet)
        # Who keeps the folder in a repository must not publish its keys.
        folder.write_once(staged / ".gitignore", "*\n")
        roles = {BROKER: Role.BROKER, AGGREGATOR: Role.AGGREGATOR}
        roles |= {role.value: role for role in PEOPLE}
        fleet = _with_new(folder, fleet, roles, now=now)
        folder.save(fleet)
        folder.install_staged(fleet)
        folder.write_once(folder.service_file(AGGREGATOR), text)
        folder.settle(fleet)
        os.rename(staged, path)  # noqa: PTH104  # Path.rename has no word on empty folders
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    sync_folder(path.parent)
    return Outcome(fleet, tuple(fleet.names), (BROKER, label(AGGREGATOR)))


def add_devices(
    path: Path, names: Sequence[str], *, changes: Sequence[str], now: datetime
) -> Outcome:
    """Give devices a key, a certificate, a configuration and a bundle each.

    Raises:
        InitRefused: A name is none or taken, or a device has another configuration already.
    """
    with _opened(path) as (folder, before):
        new = [name for name in dict.fromkeys(names) if not admitted(before, name, Role.DEVICE)]
        texts = {name: agent_file(before, name, changes=changes) for name in names}
        for name in names:
            if name not in new:
                _check_same(folder.service_file(name), texts[name], is_asked=bool(changes))
        fleet = _with_new(folder, before, dict.fromkeys(new, Role.DEVICE), now=now)
        folder.save(fleet)
        folder.install_staged(fleet)
        for name in names:
            folder.write_once(folder.service_file(name), texts[name])
        changed = folder.settle(fleet)
        packed = tuple(name for name in dict.fromkeys(names) if folder.pack(fleet, name))
        return Outcome(fleet, tuple(new), (*changed, *packed))


def add_person(path: Path, name: str, role: Role, *, now: datetime) -> Outcome:
    """Give a person a key and a certificate, and the broker a rule for her.

    Raises:
        InitRefused: The name is none or taken.
    """
    with _opened(path) as (folder, before):
        new = {} if admitted(before, name, role) else {name: role}
        fleet = _with_new(folder, before, new, now=now)
        folder.save(fleet)
        changed = folder.settle(fleet)
        folder.pair(name, fleet.names[name])
        return Outcome(fleet, tuple(new), changed)


def revoke(path: Path, name: str, *, now: datetime) -> Outcome:
    """Shut a name out: by the revocation list at its next login, by the ACL at once.

    Raises:
        InitRefused: Nobody has the name, or it is the broker's.
    """
    with _opened(path) as (folder, before):
        fleet = revoked(before, name, now=now)
        folder.save(fleet)
        return Outcome(fleet, (), folder.settle(fleet))


def renew(path: Path, name: str, *, hosts: Sequence[str], now: datetime) -> Outcome:
    """Give a name a new key and certificate; those before stay good until they end.

    Args:
        path: The fleet's folder.
        name: Whose; one that was revoked is let in again, with the new certificate alone.
        hosts: More names and addresses of the broker, with its own name only.
        now: The wall clock's time.

    Raises:
        InitRefused: Nobody has the name, or hosts were given for somebody else than the broker.
    """
    more = tuple(host_name(host) for host in hosts)
    with _opened(path) as (folder, before):
        member = before.member(name)
        if more and name != BROKER:
            raise InitRefused(f"--broker goes with `init renew broker`, not with {name!r}")
        known = with_hosts(before, more)
        fleet = renewed(known, name, folder.stage(known, name, member.role, now=now))
        folder.save(fleet)
        changed = folder.settle(fleet)
        if member.role is Role.DEVICE:
            folder.write_once(folder.service_file(name), agent_file(fleet, name))
            folder.pack(fleet, name)
            changed = (*changed, name)
        return Outcome(fleet, (name,), changed)


def record(path: Path) -> Fleet:
    """Return who is in a fleet.

    Raises:
        InitRefused: There is no fleet in this folder.
    """
    with _opened(path) as (_, fleet):
        return fleet


@contextmanager
def _opened(path: Path) -> Iterator[tuple[FleetFolder, Fleet]]:
    """Hold a folder and its record, which nobody else changes meanwhile."""
    if not is_fleet(path):
        raise InitRefused(
            f"{path} is no fleet: name its folder with --fleet DIR, or make one:"
            f" fedfstq init fleet {path} --federation NAME --broker HOST"
        )
    folder = FleetFolder(path)
    with locked(path):
        fleet = folder.load()
        folder.install_staged(fleet)
        yield folder, fleet


def _new_record(
    wish: FleetWish, federation: str, hosts: tuple[str, ...], *, now: datetime
) -> Fleet:
    try:
        identifier(federation)
    except InvalidIdentifier as error:
        raise InitRefused(f"--federation: {error}") from error
    key = wish.key or KeyKind.ED25519
    if wish.signing and key is not KeyKind.ED25519:
        raise InitRefused(f"--signing needs Ed25519 keys: leave --key {key.value} out")
    return Fleet(
        federation=federation,
        key=key,
        made=now.replace(microsecond=0),
        hosts=hosts,
        port=wish.port or DEFAULT_PORT,
        signing=bool(wish.signing),
        names={},
    )


def _with_new(folder: FleetFolder, fleet: Fleet, roles: dict[str, Role], *, now: datetime) -> Fleet:
    members = {
        name: Member(role=role, certificates=(folder.stage(fleet, name, role, now=now),))
        for name, role in roles.items()
    }
    return fleet.with_names(members)


def _same_fleet(folder: FleetFolder, wish: FleetWish, hosts: tuple[str, ...]) -> Outcome:
    with _opened(folder.path) as (_, fleet):
        for what, asked, has in (
            ("--federation", wish.federation, fleet.federation),
            ("--port", wish.port, fleet.port),
            ("--key", wish.key, fleet.key),
            ("--signing", wish.signing, fleet.signing),
        ):
            if asked is not None and asked != has:
                raise InitRefused(
                    f"{folder.path} is a fleet with {what} {getattr(has, 'value', has)}, and that"
                    " cannot be changed: make another fleet in another folder"
                )
        if not set(hosts) <= set(fleet.hosts):
            names = " ".join(f"--broker {host}" for host in hosts if host not in fleet.hosts)
            raise InitRefused(
                f"the broker of this fleet is known as {', '.join(fleet.hosts)}; to add to that:"
                f" fedfstq init renew broker {names} --fleet {folder.path}"
            )
        text = aggregator_file(fleet, goal=wish.goal or DEFAULT_GOAL, changes=wish.changes)
        is_asked = wish.goal is not None or bool(wish.changes)
        _check_same(folder.service_file(AGGREGATOR), text, is_asked=is_asked)
        folder.write_once(folder.service_file(AGGREGATOR), text)
        return Outcome(fleet, (), folder.settle(fleet))


def _check_same(path: Path, text: str, *, is_asked: bool) -> None:
    """Refuse options that would have made another file than the one that is there."""
    if is_asked and path.exists() and path.read_text(encoding="utf-8") != text:
        raise InitRefused(
            f"{path} exists and says something else: edit it, then repeat this command without"
            " options, which packs its bundle anew"
        )

"""What to do after each `init`: which file to copy where, and what to run there."""

from __future__ import annotations

import shlex
from pathlib import Path

from tools.init.fleet import Fleet, Role
from tools.init.folder import FleetFolder

_DEVICE_PLACEHOLDER = "nano-01"


def after_fleet(folder: FleetFolder, fleet: Fleet) -> str:
    """Return the steps from a fleet's folder to its first device."""
    host = fleet.hosts[0]
    ca_key = folder.path / "ca.key"
    return "\n".join(
        [
            f"Fleet {fleet.federation} is in {folder.path}. It holds every key: back it up, and",
            f"keep it off other machines, {ca_key} above all: that signs whom the broker believes.",
            "",
            "Next. install.sh is tools/install.sh of a checkout on that machine; without network,",
            "the one in the folder that `tools/install.sh wheels DIR` makes.",
            f"1. The broker, on {host}:",
            *_copied(folder.bundle_of("broker"), host, "broker"),
            "2. The initial adapter, where the base model and torch are, then on the aggregator as",
            "   the path that aggregator/aggregator.yaml names:",
            "     fedfstq adapter --model BASE --out initial-adapter",
            "3. The aggregator, after a look at aggregator/aggregator.yaml (edited it? repeat",
            f"   `fedfstq init fleet {folder.path}`, which packs it anew):",
            *_copied(folder.bundle_of("aggregator"), "AGGREGATOR", "aggregator"),
            "4. Each device:",
            (
                f"     fedfstq init device {_DEVICE_PLACEHOLDER} --fleet {folder.path}"
                " --data /srv/fedfstq/text --model /srv/fedfstq/base"
            ),
            "",
            f"People watch with {folder.path}/people/viewer.crt and viewer.key; each person gets a",
            f"login of her own by `fedfstq init person NAME --role viewer --fleet {folder.path}`.",
        ]
    )


def after_devices(folder: FleetFolder, names: tuple[str, ...], fleet: Fleet) -> str:
    """Return the steps for new devices."""
    lines = []
    for name in names:
        ends = fleet.names[name].current.ends
        lines += [
            (
                f"{name}: certificate until {ends:%Y-%m-%d}; its text and base model are named in"
                f" {folder.service_file(name)}"
            ),
            *_copied(folder.bundle_of(name), name, "agent"),
        ]
    lines.append(
        "The broker needs nothing: whom the authority has signed is a device. (With the plugin for"
        " dynamic security it needs the new dynamic-security.json.)"
    )
    return "\n".join(lines)


def after_person(folder: FleetFolder, name: str, fleet: Fleet, changed: tuple[str, ...]) -> str:
    """Return the steps for a person's login."""
    role = fleet.names[name].role
    home = folder.home(name, role)
    return "\n".join(
        [
            (
                f"{name} is {role.value}: give her {home}/{name}.crt, {home}/{name}.key"
                f" and {folder.path}/ca.crt"
            ),
            *_broker_again(folder, fleet, changed),
        ]
    )


def after_revocation(folder: FleetFolder, name: str, fleet: Fleet, changed: tuple[str, ...]) -> str:
    """Return the steps that make a revocation hold."""
    since = fleet.names[name].current.revoked
    assert since is not None
    lines = [
        f"{name} is revoked since {since:%Y-%m-%d %H:%M} UTC.",
        *(_broker_again(folder, fleet, changed) or ["The broker's files have it already."]),
    ]
    if fleet.signing and "aggregator" in changed:
        lines += [
            "The aggregator checks signatures by the same list, so there too:",
            *_copied(folder.bundle_of("aggregator"), "AGGREGATOR", "aggregator"),
        ]
    lines.append(f"To let it in again, with a new key: fedfstq init renew {name}")
    return "\n".join(lines)


def after_renewal(folder: FleetFolder, name: str, fleet: Fleet, changed: tuple[str, ...]) -> str:
    """Return the steps that put a new certificate to use."""
    member = fleet.names[name]
    first = f"{name} has a new key and a certificate until {member.current.ends:%Y-%m-%d}."
    lines = [first]
    match member.role:
        case Role.BROKER:
            pass
        case Role.AGGREGATOR:
            lines += _copied(folder.bundle_of("aggregator"), "AGGREGATOR", "aggregator")
        case Role.DEVICE:
            lines += _copied(folder.bundle_of(name), name, "agent")
        case Role.OPERATOR | Role.VIEWER:
            home = folder.home(name, member.role)
            lines.append(f"Give her {home}/{name}.crt and {home}/{name}.key.")
    lines += _broker_again(folder, fleet, changed)
    before = [one for one in member.certificates[:-1] if one.revoked is None]
    if before:
        lines.append(
            f"The one before stays good until {before[-1].ends:%Y-%m-%d}. If its key was lost,"
            f" revoke {name} and renew it again."
        )
    return "\n".join(lines)


def _broker_again(folder: FleetFolder, fleet: Fleet, changed: tuple[str, ...]) -> list[str]:
    if "broker" not in changed:
        return []
    return [
        "The broker's files have changed:",
        *_copied(folder.bundle_of("broker"), fleet.hosts[0], "broker"),
    ]


def _copied(bundle: Path, machine: str, what: str) -> list[str]:
    return [
        f"     scp {shlex.quote(str(bundle))} {machine}:",
        f"     ssh {machine} sudo bash install.sh {what} --bundle {bundle.name}",
    ]

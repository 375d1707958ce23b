"""The fleet folder: what lies where, and how it follows its record.

A certificate is issued in three steps, and `fleet.yaml` is the moment at which it is: the pair is
staged, the record names its serial number, the pair moves into place. Whatever a crash leaves, the
next command finishes or clears away, so that no certificate is good that the record does not name.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from tools.init.access import access_list, dynamic_security
from tools.init.certificates import (
    BadPem,
    Login,
    Pair,
    Server,
    belongs,
    ends,
    is_signed_by,
    leaf_validity,
    lists_exactly,
    new_authority,
    new_key,
    new_serial,
    read_certificate,
    revocation_list,
    sign,
)
from tools.init.errors import FleetDamaged
from tools.init.files import bundle, make_folder, sync_folder, write
from tools.init.fleet import AGGREGATOR, BROKER, Fleet, Issued, Member, Role, written
from tools.init.service_files import mosquitto_file, template
from tools.settings import SettingsError, load

RECORD = "fleet.yaml"
_STAGED = ".staged"

# What a machine gets besides its key, its certificate and the authority's.
_BROKER_FILES = ("mosquitto.conf", "acl", "crl.pem", "dynamic-security.json")
_AGGREGATOR_FILES = ("aggregator.yaml", "crl.pem")


class FleetFolder:
    """One fleet's folder on the disk of whoever runs it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- what lies where -----------------------------------------------------------------------

    def home(self, name: str, role: Role) -> Path:
        """Return the folder of a name's key and certificate."""
        match role:
            case Role.BROKER:
                return self.path / "broker"
            case Role.AGGREGATOR:
                return self.path / "aggregator"
            case Role.OPERATOR | Role.VIEWER:
                return self.path / "people"
            case Role.DEVICE:
                return self.path / "devices" / name

    def bundle_of(self, name: str) -> Path:
        """Return the file that is copied to a machine."""
        return self.path / "bundles" / f"{label(name)}.tar"

    def service_file(self, name: str) -> Path:
        """Return the YAML file of a device, or of the aggregator."""
        if name == AGGREGATOR:
            return self.path / "aggregator" / "aggregator.yaml"
        return self.home(name, Role.DEVICE) / f"agent-{name}.yaml"

    def load(self) -> Fleet:
        """Return the fleet's record.

        Raises:
            FleetDamaged: It cannot be read, or is none.
        """
        try:
            return load(Fleet, self.path / RECORD)
        except SettingsError as error:
            raise FleetDamaged(f"{error}; restore it from the folder's backup") from error

    def save(self, fleet: Fleet) -> bool:
        """Write the record, which makes what is staged good; return whether it was another."""
        return write(self.path / RECORD, written(fleet).encode())

    # --- keys and certificates -----------------------------------------------------------------

    def make_authority(self, fleet: Fleet) -> None:
        """Make the key and certificate that all others are signed with."""
        key = new_key(fleet.key)
        write(self.path / "ca.key", key)
        write(self.path / "ca.crt", new_authority(fleet.federation, key, now=fleet.made))

    def authority(self) -> Pair:
        """Return the key and certificate that sign.

        Raises:
            FleetDamaged: One of them is missing, or they do not belong together.
        """
        pair = Pair(self._content("ca.key"), self._content("ca.crt"))
        if not self._is_pair(pair):
            raise FleetDamaged(f"{self.path}/ca.key is not the key of ca.crt: restore them")
        return pair

    def stage(self, fleet: Fleet, name: str, role: Role, *, now: datetime) -> Issued:
        """Make a new key and certificate, which are good once the record has them."""
        authority = self.authority()
        authority_ends = ends(authority.certificate)
        if now >= authority_ends:
            raise FleetDamaged(
                f"the authority of this fleet has ended on {authority_ends:%Y-%m-%d}: make a new"
                " fleet in a new folder, and give every machine its new bundle"
            )
        validity = leaf_validity(now, authority_ends=authority_ends)
        serial, key = new_serial(), new_key(fleet.key)
        subject = Server(fleet.hosts) if role is Role.BROKER else Login(name)
        certificate = sign(subject, key, authority=authority, serial=serial, validity=validity)
        write(self.path / _STAGED / name / f"{name}.key", key)
        write(self.path / _STAGED / name / f"{name}.crt", certificate)
        return Issued(serial=f"{serial:x}", begins=validity.begins, ends=validity.ends)

    def pair(self, name: str, member: Member) -> Pair:
        """Return a name's key and certificate.

        Raises:
            FleetDamaged: They are missing, or not those that the record names.
        """
        home = self.home(name, member.role).relative_to(self.path)
        mend = f"restore it from the folder's backup, or make a new one: fedfstq init renew {name}"
        pair = Pair(
            self._content(f"{home}/{name}.key", mend), self._content(f"{home}/{name}.crt", mend)
        )
        authority = self._content("ca.crt")
        if not self._is_pair(pair) or not is_signed_by(pair.certificate, authority):
            raise FleetDamaged(
                f"{self.path / home}/{name}.crt is not of this key and fleet: {mend}"
            )
        return pair

    def install_staged(self, fleet: Fleet) -> None:
        """Bring what the record names into place, and clear away what it does not."""
        for folder in sorted((self.path / _STAGED).glob("*")):
            name, member = folder.name, fleet.names.get(folder.name)
            certificate = folder / f"{name}.crt"
            is_good = (
                member is not None
                and certificate.is_file()
                and _serial(certificate) == member.current.serial
            )
            if is_good and member is not None:
                home = self.home(name, member.role)
                make_folder(home)
                # The certificate last: while it is staged, it tells what the rest is.
                for suffix in ("key", "crt"):
                    self._replace(folder / f"{name}.{suffix}", home / f"{name}.{suffix}")
                sync_folder(home)
            shutil.rmtree(folder)
        shutil.rmtree(self.path / _STAGED, ignore_errors=True)

    def _replace(self, staged: Path, place: Path) -> None:
        """Move a file into place, and the one that is there to `earlier/`: no key is ever lost."""
        if not staged.exists():
            return
        if place.exists():
            serial = _serial(place.with_suffix(".crt"))
            earlier = self.path / "earlier" / f"{place.stem}-{serial}{place.suffix}"
            make_folder(earlier.parent)
            place.replace(earlier)
        staged.replace(place)

    # --- what follows from the record ----------------------------------------------------------

    def settle(self, fleet: Fleet) -> tuple[str, ...]:
        """Bring every file in line with the record; return the bundles that are others now."""
        self.install_staged(fleet)
        self._write_revocations(fleet)
        authority = self._content("ca.crt")
        revocations = self._content("crl.pem")
        broker = self.path / "broker"
        rules = template("acl")
        head = (
            f"# Of federation {fleet.federation}, written by `fedfstq init`: do not edit it.\n#\n"
        )
        write(broker / "acl", (head + access_list(rules, fleet)).encode())
        write(broker / "dynamic-security.json", dynamic_security(rules, fleet).encode())
        self.write_once(broker / "mosquitto.conf", mosquitto_file(fleet))
        for home in (broker, self.path / "aggregator"):
            write(home / "ca.crt", authority)
            write(home / "crl.pem", revocations)
        for name in fleet.shut_out():
            self.bundle_of(name).unlink(missing_ok=True)
        names = [BROKER] if fleet.names[AGGREGATOR].is_revoked else [BROKER, AGGREGATOR]
        return tuple(label(name) for name in names if self.pack(fleet, name))

    def write_once(self, path: Path, text: str) -> None:
        """Write a file that is its owner's from then on."""
        if not path.exists():
            write(path, text.encode())

    def pack(self, fleet: Fleet, name: str) -> bool:
        """Make the file that is copied to a machine; return whether it was another before."""
        member = fleet.names[name]
        self.pair(name, member)
        home = self.home(name, member.role)
        if member.role is Role.DEVICE:
            write(home / "ca.crt", self._content("ca.crt"))
        own = {Role.BROKER: _BROKER_FILES, Role.AGGREGATOR: _AGGREGATOR_FILES}.get(
            member.role, (f"agent-{name}.yaml",)
        )
        content = {
            file: self._content(f"{home.relative_to(self.path)}/{file}")
            for file in (f"{name}.crt", f"{name}.key", "ca.crt", *own)
        }
        return write(self.bundle_of(name), bundle(content, made=fleet.made))

    def _write_revocations(self, fleet: Fleet) -> None:
        path = self.path / "crl.pem"
        revoked = fleet.revoked()
        serials = [one.serial for one in revoked]
        authority = self._content("ca.crt")
        if not path.is_file() or not lists_exactly(path.read_bytes(), serials, authority=authority):
            write(path, revocation_list(revoked, authority=self.authority(), since=fleet.made))

    def _content(self, name: str, mend: str = "restore it from the folder's backup") -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            raise FleetDamaged(f"{self.path / name} is missing: {mend}") from None

    def _is_pair(self, pair: Pair) -> bool:
        try:
            return belongs(pair.key, pair.certificate)
        except BadPem:
            return False


def label(name: str) -> str:
    """Return what the bundle of a name is called: the aggregator's by what it does."""
    return Role.AGGREGATOR.value if name == AGGREGATOR else name


def _serial(certificate: Path) -> str:
    return f"{read_certificate(certificate.read_bytes()).serial_number:x}"


def is_fleet(path: Path) -> bool:
    """Return whether a folder holds a fleet."""
    return (path / RECORD).is_file()

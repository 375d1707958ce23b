"""Whom a real broker lets in with the files that `fedfstq init` makes, and whom no more."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from tools.init.certificates import KeyKind
from tools.init.fleet import Role
from tools.init.operations import FleetWish, add_devices, add_person, make_fleet, renew, revoke
from transport import topics
from transport.topics import Topics

pytestmark = pytest.mark.broker

FLEET = Topics("demo")
LOG = ("$SYS/broker/log/E", "$SYS/broker/log/N")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _status(device: str) -> str:
    return FLEET.topic(topics.DeviceTopic(device, "status"))


def test_a_certificate_that_has_ended_is_refused(
    production: Any, login: Any, expired_certificates: Path
) -> None:
    assert login(production, "dev-1", certificates=expired_certificates).outcome == "closed"
    assert login(production, "dev-1").outcome == "Success"


def test_a_revoked_device_is_shut_out_at_once_and_no_other(
    production: Any, login: Any, fleet: Path
) -> None:
    """The list of revoked certificates stops its next login, the ACL the one that is open."""
    lost, other = login(production, "dev-1"), login(production, "dev-2")
    assert lost.publish(_status("dev-1"))
    revoke(fleet, "dev-1", now=_now())
    shutil.copy(fleet / "broker" / "acl", production.acl)
    production.reload()
    assert not lost.publish(_status("dev-1"))
    assert other.publish(_status("dev-2"))
    assert login(production, "dev-1").outcome == "closed"
    assert login(production, "dev-2").outcome == "Success"


def test_a_renewed_name_comes_in_with_its_new_certificate_alone(
    production: Any, login: Any, fleet: Path, tmp_path: Path
) -> None:
    stolen = shutil.copytree(fleet / "devices" / "dev-1", tmp_path / "stolen")
    revoke(fleet, "dev-1", now=_now())
    renew(fleet, "dev-1", hosts=(), now=_now())
    shutil.copy(fleet / "broker" / "acl", production.acl)
    production.reload()
    assert login(production, "dev-1", certificates=stolen).outcome == "closed"
    back = login(production, "dev-1")
    assert back.publish(_status("dev-1"))


def test_a_person_may_what_her_role_may(production: Any, login: Any, fleet: Path) -> None:
    add_person(fleet, "bob", Role.VIEWER, now=_now())
    shutil.copy(fleet / "broker" / "acl", production.acl)
    production.reload()
    alice, bob = login(production, "alice"), login(production, "bob")
    alert = FLEET.topic(topics.Alert("disk-full"))
    assert alice.publish(alert)
    assert not bob.publish(alert)
    assert not alice.publish(_status("alice"))
    bob.subscribe("fl/#")
    assert login(production, "dev-1").publish(_status("dev-1"))
    bob.wait_for(_status("dev-1"))


def test_who_is_refused_at_the_door_shows_to_the_aggregator_alone(
    production: Any, login: Any, foreign_certificates: Path
) -> None:
    everybody = {name: login(production, name) for name in ("coord", "operator", "viewer", "dev-1")}
    for client in everybody.values():
        client.subscribe("$SYS/broker/log/#")
    login(production, "dev-1", certificates=foreign_certificates)
    login(production, None)
    coord = everybody.pop("coord")
    # As an error, or, where the handshake ends at once, as a notice with the address.
    for refusal in ("certificate verify failed", "peer did not return a certificate"):
        coord.wait_until(
            lambda refusal=refusal: any(
                topic in LOG and refusal in payload.decode() for topic, payload in coord.received
            )
        )
    assert all(client.received == [] for client in everybody.values())


def test_a_fleet_of_p256_keys_logs_in_too(start_broker: Any, login: Any, tmp_path: Path) -> None:
    folder = tmp_path / "p256"
    wish = FleetWish(federation="demo", hosts=("localhost", "127.0.0.1"), key=KeyKind.P256)
    make_fleet(folder, wish, now=_now())
    add_devices(folder, ["dev-1"], changes=(), now=_now())
    broker = start_broker("mosquitto.conf", of=folder)
    assert login(broker, "dev-1").publish(_status("dev-1"))


def test_an_operator_shuts_a_device_out_while_the_broker_runs(
    start_broker: Any, login: Any
) -> None:
    """With the plugin for dynamic security; nobody but an operator may."""
    control = shutil.which("mosquitto_ctrl")
    if control is None:
        pytest.skip("needs mosquitto_ctrl")
    broker = start_broker("dynamic-security")

    def delete(user: str) -> None:
        place = ["-h", "localhost", "-p", f"{broker.port}", "-i", user, "--cafile", "ca.crt"]
        pair = ["--cert", f"{user}.crt", "--key", f"{user}.key"]
        subprocess.run(
            [control, *place, *pair, "dynsec", "deleteClient", "dev-1"],
            cwd=broker.certificates,
            check=False,
            capture_output=True,
            timeout=20,
        )

    delete("dev-2")
    delete("viewer")
    lost, other = login(broker, "dev-1"), login(broker, "dev-2")
    assert lost.publish(_status("dev-1"))
    delete("operator")
    lost.wait_ended()
    # Its certificate is good, but there is nothing left that it may do.
    assert not login(broker, "dev-1").publish(_status("dev-1"))
    assert other.publish(_status("dev-2"))

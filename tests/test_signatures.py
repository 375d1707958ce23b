"""A broker in the wrong hands: it may say anything to anybody in any name, and gets nowhere.

Real processes on a real mosquitto without any access rules. The forger beside them hears and says
whatever a broker could, but for keeping things back.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.init import certificates
from tools.soak import evidence
from tools.soak.fleet import AGGREGATOR, FEDERATION, Fleet, FleetSpec
from tools.soak.listener import Listener
from tools.soak.scenes import SPEC
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import (
    ModelStatus,
    RunAnnouncement,
    ServiceState,
    ServiceStatus,
    TrainResponse,
)
from transport.envelope import Sealed, join_frame, split_frame
from transport.errors import BadSignature
from transport.link import Delivery
from transport.messages import AdapterManifest, Manifest, Receipt, ReceiptState, Segment
from transport.signing import Seals, SigningConfig, load_seals
from transport.topics import (
    Address,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)
from transport.trust import Trust, load_authorities, load_certificate

TOPICS = Topics(FEDERATION)
OTHER_UID = "f" * 32


class Forger(Listener):
    """A client with a broker's powers, and a `coord` of an authority that nobody here trusts."""

    def __init__(self, port: int, seals: Seals) -> None:
        super().__init__(port, client_id="broken-broker")
        self.told: Counter[str] = Counter()
        self.reasons: set[str] = set()
        self._seals = seals
        self._own: set[tuple[str, bytes]] = set()
        self._seen: set[str] = set()
        self._uids: dict[str, str] = {}

    def hear(self, delivery: Delivery) -> None:
        if delivery.payload and (delivery.topic, delivery.payload) not in self._own:
            self._hear(TOPICS.parse(delivery.topic), delivery)

    def _say(self, kind: str, address: Address, payload: bytes, *, retain: bool = False) -> None:
        topic = TOPICS.topic(address)
        self.told[kind] += 1
        self._own.add((topic, payload))
        self.say(topic, payload, retain=retain)

    def _hear(self, address: Address, event: Delivery) -> None:
        if isinstance(address, DeviceTopic) and address.leaf == "status":
            self.reasons.add(json.loads(event.payload)["reason"])
        is_new = event.topic not in self._seen
        self._seen.add(event.topic)
        match address:
            case UpManifest(client_id, uid) if is_new:
                self._forge_update(client_id, uid, event.payload)
                self._forge_receipts(client_id, uid)
            case UpSegment() if is_new:
                body = frame.decode(Segment, event.payload).body
                altered = Segment(bytes([body[0] ^ 1]) + body[1:])
                self._say("segment", address, frame.encode(altered))
            case Down(client_id, uid):
                self._alter_answer(client_id, uid, event.payload)
            case ModelManifest() if is_new:
                self._forge_adapter(address, event.payload)
            case CoordRun() if is_new:
                self._forge_run(event.payload)

    def _forge_update(self, client_id: str, uid: str, payload: bytes) -> None:
        sealed = split_frame(payload) or Sealed(payload, bytes(64), b"")
        address, manifest = UpManifest(client_id, uid), frame.decode(Manifest, sealed.content)
        altered = frame.encode(dataclasses.replace(manifest, num_examples=99_999))
        another = dataclasses.replace(manifest, seq=manifest.seq + 1000)
        self._say("bare update", address, sealed.content)
        self._say("altered update", address, altered)
        self._say(
            "altered update", address, join_frame(dataclasses.replace(sealed, content=altered))
        )
        self._say("moved update", UpManifest(client_id, OTHER_UID), payload)
        made_up = UpManifest(client_id, frame.uid(another))
        content = frame.encode(another)
        self._say("new update", made_up, content)
        self._say("new update", made_up, join_frame(dataclasses.replace(sealed, content=content)))
        declined = TrainResponse(manifest.run, manifest.round_id, accepted=False, reason="data")
        answer = Response(client_id, "train", str(manifest.round_id))
        self._say("decline", answer, control.encode(declined))

    def _forge_receipts(self, client_id: str, uid: str) -> None:
        self._uids[client_id] = uid
        address = Down(client_id, uid)
        for receipt in (
            Receipt(1, ReceiptState.REFUSED, "layout", frozenset(), 0),
            Receipt(1, ReceiptState.LATE, "dropped", frozenset(), 0),
        ):
            payload = frame.encode(receipt)
            self._say("receipt", address, payload)
            self._say("receipt", address, self._seals.seal(TOPICS.topic(address), payload))

    def _alter_answer(self, client_id: str, uid: str, payload: bytes) -> None:
        """Say a true receipt to the other devices, and what the aggregator's last words are not."""
        sealed = split_frame(payload)
        if sealed is None:
            return
        forged = frame.encode(Receipt(1, ReceiptState.REFUSED, "layout", frozenset(), 0))
        altered = join_frame(dataclasses.replace(sealed, content=forged))
        self._say("altered receipt", Down(client_id, uid), altered)
        for other, other_uid in self._uids.items():
            if other != client_id:
                self._say("moved answer", Down(other, other_uid), payload)

    def _forge_adapter(self, address: Address, payload: bytes) -> None:
        sealed = split_frame(payload) or Sealed(payload, bytes(64), b"")
        manifest = frame.decode(AdapterManifest, sealed.content)
        poisoned = frame.encode(dataclasses.replace(manifest, sha256=bytes(32)))
        topic = TOPICS.topic(address)
        altered = join_frame(dataclasses.replace(sealed, content=poisoned))
        for forged in (poisoned, altered, self._seals.seal(topic, poisoned)):
            self._say("adapter", address, forged, retain=True)

    def _forge_run(self, payload: bytes) -> None:
        run = control.decode(RunAnnouncement, payload)
        other = control.encode(dataclasses.replace(run, run="e" * 32))
        newest = control.encode(ModelStatus(run.run, 999, "0" * 64, 10, 1))
        claim = ServiceStatus(
            ServiceState.RUNNING, "zz", "1", run=run.run, epoch=999, adapter_version=999
        )
        for address, forged in (
            (CoordRun(), other),
            (Model(), newest),
            (CoordStatus(), control.encode(claim)),
        ):
            topic = TOPICS.topic(address)
            self._say("run", address, forged, retain=True)
            self._say("run", address, self._seals.seal(topic, forged), retain=True)


def sign(fleet: Fleet, authority: Any, mode: str) -> None:
    """Have every service of a fleet sign with a key of its own."""
    for name in (AGGREGATOR, *fleet.spec.devices):
        login = authority.certify("coord" if name == AGGREGATOR else name)
        file = fleet.folder / "config" / name
        values = yaml.safe_load(file.read_text())
        file.write_text(json.dumps(values | {"signing": login.signing(mode)}))


@pytest.fixture
def make_fleet(
    tmp_path: Path, authority: Any, make_authority: Callable[..., Any]
) -> Callable[..., tuple[Fleet, Forger]]:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    foreign = make_authority("another authority").certify("coord")

    def make(spec: FleetSpec, mode: str) -> tuple[Fleet, Forger]:
        fleet = Fleet(tmp_path / "fleet", spec)
        sign(fleet, authority, mode)
        seals = load_seals(
            SigningConfig.model_validate(foreign.signing()),
            broker=BrokerConfig(),
            topics=TOPICS,
            name="coord",
            aggregator="coord",
        )
        return fleet, Forger(fleet.port, seals)

    return make


@pytest.mark.processes
def test_whatever_a_broken_broker_says_the_run_ends_as_if_it_had_said_nothing(
    make_fleet: Callable[..., tuple[Fleet, Forger]],
) -> None:
    fleet, forger = make_fleet(SPEC, "required")
    with fleet:
        fleet.start_broker()
        with forger:
            for name in (AGGREGATOR, *SPEC.devices):
                fleet.start_service(name)
            fleet.wait_finished(timeout_s=120)
        codes = {name: list(child.codes) for name, child in fleet.supervisor.children.items()}
        assert set(fleet.supervisor.stop().values()) == {0}
    assert all(codes[name] == [] for name in codes), codes
    left = evidence.gather(fleet.folder / "state", SPEC.devices)
    assert evidence.check_exactly_once(left, rounds=SPEC.rounds) == []
    # The adapters are the sums of what the trainers made, and of nothing else.
    expected = evidence.recompute(left, state=fleet.folder / "state", config=fleet.config)
    assert left.digests == expected
    # It was all said, and all of it was refused for the right reason.
    assert forger.told.keys() == {
        "adapter", "altered receipt", "altered update", "bare update", "decline", "moved answer",
        "moved update", "new update", "receipt", "run", "segment",
    }  # fmt: skip
    reasons = Counter[str]()
    for summary in left.summaries:
        reasons.update(summary.refused)
    updates = ("bare update", "altered update", "moved update", "new update", "decline")
    assert reasons.keys() <= {"signature", "digest"}
    assert 0 < reasons["signature"] <= sum(forger.told[kind] for kind in updates)
    for device in SPEC.devices:
        log = fleet.log(device)
        assert "coord must sign this" in log
        assert "was refused: layout" not in log
    assert "signature" in forger.reasons
    assert all("PRIVATE" not in fleet.log(name) for name in (AGGREGATOR, *SPEC.devices))


def test_what_init_makes_signs(tmp_path: Path) -> None:
    """A device's certificate does; the broker's, which whoever broke in has, does not."""
    now = certificates.utc_now()
    key = certificates.new_key(certificates.KeyKind.ED25519)
    authority = certificates.Pair(key, certificates.new_authority(FEDERATION, key, now=now))
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    validity = certificates.leaf_validity(
        now, authority_ends=certificates.ends(authority.certificate)
    )
    trust = Trust(load_authorities(tmp_path / "ca.crt"), None)
    found = {}
    for name, subject in (
        ("nano-01", certificates.Login("nano-01")),
        ("broker", certificates.Server(("localhost",))),
    ):
        pem = certificates.sign(
            subject,
            certificates.new_key(certificates.KeyKind.ED25519),
            authority=authority,
            serial=certificates.new_serial(),
            validity=validity,
        )
        (tmp_path / f"{name}.crt").write_bytes(pem)
        try:
            der = load_certificate(tmp_path / f"{name}.crt")
            found[name] = trust.signer(der, name=name, now_s=now.timestamp()).name
        except BadSignature as error:
            found[name] = str(error)
    assert found["nano-01"] == "nano-01"
    assert "not for a client" in found["broker"]


@pytest.mark.processes
def test_without_signatures_the_same_words_are_believed(
    make_fleet: Callable[..., tuple[Fleet, Forger]],
) -> None:
    """Or the test above would show nothing."""
    fleet, forger = make_fleet(SPEC, "off")
    with fleet:
        fleet.start_broker()
        fleet.start_service(AGGREGATOR)
        fleet.wait_for(lambda: "run=" in fleet.log(AGGREGATOR), "it serves", timeout_s=60)
        with forger:
            for device in SPEC.devices:
                fleet.start_service(device)
            fleet.wait_for(
                lambda: (
                    any("layout" in fleet.log(device) for device in SPEC.devices)
                    or not fleet.supervisor.alive(AGGREGATOR)
                ),
                "a device has believed a forged receipt, or the aggregator a forged rival",
                timeout_s=120,
            )

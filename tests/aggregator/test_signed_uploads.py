"""An aggregator that demands signatures: what a broker could make up ends no update."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from aggregator.inbound import Inbound, Unreadable, read
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import ModelStatus, ServiceState, ServiceStatus, TrainResponse
from transport.envelope import split_frame
from transport.messages import Receipt, ReceiptState
from transport.signing import Signatures, SigningConfig, load_seals
from transport.topics import (
    Alert,
    CoordStatus,
    Down,
    Model,
    ModelManifest,
    Response,
    Topics,
    UpManifest,
)

TOPICS = Topics("lab")


class SignedFleet:
    """A rig whose aggregator demands signatures; its devices sign what they say."""

    def __init__(self, rig: Any, authority: Any, *devices: str) -> None:
        self.rig = rig
        self.seals = {name: self.seals_of(authority.certify(name)) for name in devices}
        self.forge = rig.say
        rig.say = self.say
        rig.add(*devices)
        for name in devices:
            device = rig.devices[name]
            device.hear = self._opened(name, device.hear)

    @staticmethod
    def seals_of(login: Any) -> Any:
        return load_seals(
            SigningConfig.model_validate(login.signing()),
            broker=BrokerConfig(),
            topics=TOPICS,
            name=login.name,
            aggregator="coord",
        )

    def say(self, address: Any, message: Any, *, retain: bool = False) -> None:
        topic = TOPICS.topic(address)
        encode = frame.encode if topic.startswith("flx/") else control.encode
        payload = message if isinstance(message, bytes) else encode(message)
        self.forge(address, self.seals[address.client_id].seal(topic, payload), retain=retain)

    def _opened(self, name: str, hear: Callable[..., None]) -> Callable[..., None]:
        def opened(address: Any, payload: bytes) -> None:
            if self.rig.devices[name].online:
                hear(address, self.seals[name].unseal(TOPICS.topic(address), payload))

        return opened

    def refused(self) -> dict[str, int]:
        return dict(self.rig.service._coordinator._training._ledger.refused)


@pytest.fixture
def fleet(make_rig: Any, authority: Any) -> SignedFleet:
    rig = make_rig(signing=authority.certify("coord").signing())
    fleet = SignedFleet(rig, authority, "a", "b")
    rig.start()
    # A device learns the aggregator's certificate from the announcement that is retained.
    for name in ("a", "b"):
        for topic, payload in rig.retained.items():
            fleet.seals[name].unseal(topic, payload)
    return fleet


def alerts(fleet: SignedFleet) -> list[Any]:
    return [json.loads(raw) for _, raw in fleet.rig.said(Alert, code="refused-signature") if raw]


def test_a_signed_run_ends_as_any_other(fleet: SignedFleet) -> None:
    rig = fleet.rig
    for device in rig.devices.values():
        device.join()
    rig.finish()
    assert [line["participants"] for line in rig.summaries()] == [2, 2]
    assert [line["refused"] for line in rig.summaries()] == [{}, {}]
    states = [one.state for device in rig.devices.values() for one in device.receipts.values()]
    assert states == [ReceiptState.ACCEPTED] * 4
    assert len(rig.said(ModelManifest)) >= 2


def test_everything_that_devices_act_on_is_signed(fleet: SignedFleet, authority: Any) -> None:
    rig = fleet.rig
    for device in rig.devices.values():
        device.join()
    rig.finish()
    stranger = fleet.seals_of(authority.certify("a"))
    for address, payload, _ in rig.published:
        topic = TOPICS.topic(address)
        if payload and stranger.seal(topic, b'{"a":1}') != b'{"a":1}':
            assert stranger.unseal(topic, payload) != payload


def test_an_unsigned_update_is_counted_told_and_never_answered(fleet: SignedFleet) -> None:
    """An answer would end it, so that whoever takes the signature off could throw updates away."""
    rig = fleet.rig
    a, b = rig.devices.values()
    a.most_segments = 0  # its round stays open
    a.join()
    b.join()
    rig.settle()
    uid = a.updates[1].uid
    before = len(rig.said(Down, client_id="a"))
    for _ in range(3):
        fleet.forge(UpManifest("a", "0" * 32), a.updates[1].manifest)
        fleet.forge(UpManifest("a", uid), replace(a.updates[1].manifest, num_examples=10_000))
    rig.settle()
    assert len(rig.said(Down, client_id="a")) == before
    assert alerts(fleet)[0]["client_id"] == "a"
    assert "a must sign this" in alerts(fleet)[0]["text"]
    a.most_segments = None
    rig.finish()
    assert a.receipts[uid].state is ReceiptState.ACCEPTED
    assert sum(line["refused"].get("signature", 0) for line in rig.summaries()) == 6


def test_a_signed_update_is_the_update_of_nobody_and_nothing_else(
    fleet: SignedFleet, make_authority: Callable[..., Any]
) -> None:
    rig = fleet.rig
    a, b = rig.devices.values()
    a.most_segments = 0  # its round stays open
    a.join()
    b.join()
    rig.settle()
    update = a.updates[1]
    topic = TOPICS.topic(UpManifest("a", update.uid))
    true = fleet.seals["a"].seal(topic, frame.encode(update.manifest))
    sealed = split_frame(true)
    assert sealed is not None
    foreign = fleet.seals_of(make_authority("another authority").certify("a"))
    for address, payload in (
        (UpManifest("b", update.uid), true),
        (UpManifest("a", "0" * 32), true),
        (UpManifest("a", update.uid), fleet.seals["b"].seal(topic, sealed.content)),
        (UpManifest("a", update.uid), foreign.seal(topic, sealed.content)),
        (
            Response("a", "train", "1"),
            control.encode(TrainResponse(a.updates[1].manifest.run, 1, accepted=False)),
        ),
    ):
        before = alerts(fleet)[-1]["count"] if alerts(fleet) else 0
        fleet.forge(address, payload)
        rig.settle()
        rig.advance(2.0)
        assert alerts(fleet)[-1]["count"] == before + 1, address
    a.most_segments = None
    rig.finish()
    assert [line["participants"] for line in rig.summaries()] == [2, 2]


def test_nobody_without_its_key_speaks_for_the_aggregator(fleet: SignedFleet) -> None:
    """A forged claim to lead would stop it, and a forged version of its own run would as well."""
    rig = fleet.rig
    run = rig.state.run.run
    claim = ServiceStatus(ServiceState.RUNNING, "zz", "1", run=run, epoch=99, adapter_version=9)
    said = len(rig.said(CoordStatus))
    for address, message in (
        (CoordStatus(), claim),
        (Model(), ModelStatus(run, 9, "0" * 64, 10, 1)),
    ):
        fleet.forge(address, message)
        rig.settle()
        rig.advance(10.0)
    assert rig.service._fence.leads
    assert len(rig.said(CoordStatus)) > said  # what stands is said again
    for device in rig.devices.values():
        device.join()
    rig.finish()


def test_its_last_will_and_farewell_are_signed(fleet: SignedFleet) -> None:
    link, seals = fleet.rig.link, fleet.seals["a"]
    status = control.decode(ServiceStatus, seals.unseal(link.will.topic, link.will.payload))
    assert status.state is ServiceState.LOST


def test_quotas_come_before_signatures_and_signatures_before_msgpack(authority: Any) -> None:
    login = authority.certify("coord")
    seals = SignedFleet.seals_of(login)
    assert isinstance(seals, Signatures)
    topic = TOPICS.topic(UpManifest("a", "0" * 32))
    calls: list[str] = []

    def meter(client_id: str, _: int) -> None:
        calls.append(client_id)

    def unseal(topic: str, payload: bytes) -> bytes:
        calls.append("unseal")
        return seals.unseal(topic, payload)

    found = read(TOPICS, topic, b"\x63\x63", qos=1, mqtt_version="5", meter=meter, unseal=unseal)
    assert isinstance(found, Unreadable)
    assert (found.client_id, found.reason) == ("a", "signature")
    assert found.upload_bytes > 0
    assert calls == ["a", "unseal"]


def test_what_is_signed_is_read_as_what_it_is(authority: Any, update_maker: Any) -> None:
    update = update_maker(client_id="a", run="b" * 32, round_id=1)
    device, coord = (SignedFleet.seals_of(authority.certify(name)) for name in ("a", "coord"))
    topic = TOPICS.topic(UpManifest("a", update.uid))
    payload = device.seal(topic, frame.encode(update.manifest))
    found = read(TOPICS, topic, payload, qos=1, mqtt_version="5", unseal=coord.unseal)
    assert isinstance(found, Inbound)
    assert found.message == update.manifest
    assert found.packet_bytes > len(payload)


def test_receipts_are_signed_for_their_update_alone(fleet: SignedFleet) -> None:
    rig = fleet.rig
    for device in rig.devices.values():
        device.join()
    rig.finish()
    seals = fleet.seals["a"]
    sealed = [
        (address, payload)
        for address, payload in rig.said(Down, client_id="a")
        if frame.describe(payload)["kind"] == "Receipt"
    ]
    assert len({address.uid for address, _ in sealed}) == 2
    for address, payload in sealed:
        content = seals.unseal(TOPICS.topic(address), payload)
        assert frame.decode(Receipt, content).state is ReceiptState.ACCEPTED

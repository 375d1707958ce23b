"""A device that believes only what its aggregator has signed; the broker is somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.config import AgentConfig
from agent.outputs import BeginRun, PublishStatus, RememberEpoch, SettleUpdate
from agent.session import UNSIGNED, UNSIGNED_S
from transport import control, frame
from transport.broker import BrokerConfig
from transport.control import DeviceState, ModelStatus, TrainCommand
from transport.messages import Have, Receipt, ReceiptState, Want
from transport.signing import SigningConfig, SigningMode, load_seals
from transport.topics import Address, Command, CoordRun, Down, Model, ModelManifest, Topics
from transport.transfer import SendManifest

TOPICS = Topics("fed")
FORGED_ENDS = [
    Receipt(1, ReceiptState.REFUSED, "layout", frozenset(), 0),
    Receipt(1, ReceiptState.LATE, "dropped", frozenset(), 3),
    Receipt(1, ReceiptState.ACCEPTED, "", frozenset(range(3)), 3),
    Receipt(999_999_999, ReceiptState.PARTIAL, "partial", frozenset({1}), 3),
]


def seals_of(login: Any) -> Any:
    return load_seals(
        SigningConfig.model_validate(login.signing()),
        broker=BrokerConfig(),
        topics=TOPICS,
        name=login.name,
        aggregator="coord",
    )


class Signed:
    """A device with an update that waits, on a broker that delivers whatever it likes."""

    def __init__(self, small: Any, listening: Any, authority: Any) -> None:
        self.small = small
        self.coord = seals_of(authority.certify("coord"))
        self.listening = listening(seals_of(authority.certify("dev-1")))
        self.session = self.listening.session
        self.deliveries = self.listening.deliveries
        self.upload = self.listening.upload

    @property
    def now(self) -> float:
        return float(self.listening.now)

    def deliver(self, address: Address, payload: bytes) -> list[Any]:
        return list(self.listening.take(address, payload))

    def hear(self, address: Address, payload: bytes) -> list[Any]:
        """Deliver what the aggregator says."""
        return self.deliver(address, self.coord.seal(TOPICS.topic(address), payload))

    @property
    def down(self) -> Down:
        return Down("dev-1", self.upload.uid)

    def tick_until(self, end: float) -> list[Any]:
        outputs: list[Any] = []
        while (wakeup := self.session.next_wakeup()) is not None and wakeup <= end:
            self.listening.now = max(self.now, wakeup)
            outputs += self.session.tick(self.now)
        self.listening.now = end
        return outputs


@pytest.fixture
def device(small: Any, listening: Any, authority: Any) -> Signed:
    return Signed(small, listening, authority)


@pytest.mark.parametrize("receipt", FORGED_ENDS)
def test_a_forged_receipt_ends_nothing(device: Signed, receipt: Receipt) -> None:
    """Every way in which a receipt frees an outbox, said by the broker itself."""
    outputs = device.deliver(device.down, frame.encode(receipt))
    assert [type(output) for output in outputs] == [PublishStatus]
    assert outputs[0].reason == UNSIGNED
    assert device.deliveries.refused == {"signature": 1}
    assert device.session.waiting == 1
    # It asks on, and the true word is taken when it comes.
    device.hear(CoordRun(), control.encode(device.small.announcement()))
    true = Receipt(1, ReceiptState.PARTIAL, "partial", frozenset({1}), 3)
    device.hear(device.down, frame.encode(Want(1)))
    assert SendManifest(device.upload.uid) in device.tick_until(60.0)
    assert SettleUpdate(device.upload.uid, true) in device.hear(device.down, frame.encode(true))
    assert device.session.waiting == 0


def test_a_receipt_of_another_update_or_device_ends_nothing(device: Signed) -> None:
    other = device.small.upload(2)
    true = frame.encode(Receipt(1, ReceiptState.ACCEPTED, "", frozenset(range(3)), 3))
    for elsewhere in (Down("dev-1", other.uid), Down("dev-2", device.upload.uid)):
        moved = device.coord.seal(TOPICS.topic(elsewhere), true)
        assert SettleUpdate not in map(type, device.deliver(device.down, moved))
    assert device.deliveries.refused == {"signature": 2}
    assert device.session.waiting == 1


def test_a_forged_word_raises_no_epoch(device: Signed) -> None:
    """Or all that the aggregator says from then on would be that of an old one, for ever."""
    for answer in (Have(999_999_999, frozenset(), 3), Want(999_999_999)):
        outputs = device.deliver(device.down, frame.encode(answer))
        assert RememberEpoch not in map(type, outputs)
    command = TrainCommand(device.small.RUN, 999_999_999, 2, 1, 60.0, 7, None)
    device.deliver(Command("dev-1", "train", "2"), control.encode(command))
    device.hear(CoordRun(), control.encode(device.small.announcement()))
    outputs = device.hear(device.down, frame.encode(Have(1, frozenset({0}), 3)))
    assert RememberEpoch(1) in outputs


def test_a_forged_run_command_or_version_is_not_followed(device: Signed) -> None:
    small = device.small
    other = control.encode(small.announcement(run=small.OTHER_RUN))
    assert BeginRun not in map(type, device.deliver(CoordRun(), other))
    device.hear(CoordRun(), control.encode(small.announcement()))
    model = ModelStatus(small.RUN, 999, "", 0, 0)
    device.deliver(Model(), control.encode(model))
    assert device.session.newest_version == -1
    command = control.encode(TrainCommand(small.RUN, 1, 2, 1, 60.0, 7, None))
    device.deliver(Command("dev-1", "train", "2"), command)
    states = [device.session.state]
    device.hear(Command("dev-1", "train", "2"), command)
    states.append(device.session.state)
    assert states == [DeviceState.UPLOADING, DeviceState.FETCHING]


def test_a_forged_adapter_is_not_built(device: Signed) -> None:
    """Its own digests are all right: who announces it is not."""
    small = device.small
    device.hear(CoordRun(), control.encode(small.announcement()))
    command = control.encode(TrainCommand(small.RUN, 1, 2, 1, 60.0, 7, None))
    device.hear(Command("dev-1", "train", "2"), command)
    manifest, bodies = small.adapter_message(1)
    poisoned = replace(manifest, sha256=bytes(32))
    outputs = device.deliver(ModelManifest(1), frame.encode(poisoned))
    for index, body in enumerate(bodies):
        outputs += device.session.adapter_segment(1, index=index, body=body, now=device.now)
    assert "StoreAdapter" not in [type(output).__name__ for output in outputs]
    outputs = device.hear(ModelManifest(1), frame.encode(manifest))
    (store,) = [output for output in outputs if type(output).__name__ == "StoreAdapter"]
    assert store.manifest == manifest


def test_the_status_says_so_for_a_while_and_does_not_go_to_and_fro(device: Signed) -> None:
    device.hear(CoordRun(), control.encode(device.small.announcement()))
    receipt = frame.encode(FORGED_ENDS[0])
    said: list[Any] = []
    for _ in range(50):
        said += device.deliver(device.down, receipt)
        said += device.hear(device.down, frame.encode(Have(1, frozenset({0}), 3)))
    assert len([one for one in said if isinstance(one, PublishStatus)]) == 1
    outputs = device.tick_until(device.now + UNSIGNED_S - 1)
    assert PublishStatus not in map(type, outputs)
    outputs = device.tick_until(device.now + 1)
    (status,) = [one for one in outputs if isinstance(one, PublishStatus)]
    assert status.reason != UNSIGNED


def test_an_update_whose_receipt_does_not_verify_is_asked_for_again(
    device: Signed, make_authority: Callable[..., Any]
) -> None:
    """Signed by the aggregator of another fleet: the device's own timers go on."""
    foreign = seals_of(make_authority("another authority").certify("coord"))
    topic = TOPICS.topic(device.down)
    receipt = Receipt(1, ReceiptState.ACCEPTED, "", frozenset(range(3)), 3)
    device.hear(CoordRun(), control.encode(device.small.announcement()))
    device.hear(device.down, frame.encode(Have(1, frozenset(range(3)), 3)))
    device.deliver(device.down, foreign.seal(topic, frame.encode(receipt)))
    assert SendManifest(device.upload.uid) in device.tick_until(device.now + 60.0)


def test_a_configuration_says_whom_to_believe(tmp_path: Any) -> None:
    values = {
        "federation": "fed",
        "client_id": "dev-1",
        "state_dir": tmp_path,
        "data": {"train": tmp_path},
    }
    assert AgentConfig.model_validate(values).signing.mode is SigningMode.OFF
    config = AgentConfig.model_validate(values | {"signing": "required"})
    assert (config.signing.mode, config.signing.aggregator) == (SigningMode.REQUIRED, "coord")
    named = {"mode": "required", "aggregator": "coord-2", "crl_file": "/x/crl.pem"}
    config = AgentConfig.model_validate(values | {"signing": named})
    assert config.signing.aggregator == "coord-2"
    assert AgentConfig.model_validate_json(config.model_dump_json()) == config

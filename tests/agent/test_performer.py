"""The session's hands on a real state folder, with a link that only takes notes."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.adapter_store import AdapterStore
from agent.config import AgentConfig
from agent.job import JobPolicy, device_seed
from agent.metering import Metering
from agent.outbox import Outbox
from agent.outputs import (
    PublishProgress,
    PublishWant,
    Remembered,
    RememberGoodput,
    RememberTraining,
    Subscribe,
    Unsubscribe,
)
from agent.performer import PACKET_OVERHEAD_BYTES, Performer, _dense_bytes
from agent.session import Session
from agent.tasks import EvalTask, Task, TrainerHello, TrainResult, TrainTask
from agent.telemetry import Sensors
from transport import control, frame
from transport.control import (
    DeviceState,
    DeviceStatus,
    EnergyReport,
    EvalCommand,
    Progress,
    Telemetry,
    TrainCommand,
    TrainResponse,
)
from transport.errors import LinkLost
from transport.link import Publication
from transport.messages import AdapterWant, Have, Manifest, Receipt, ReceiptState, Segment
from transport.topics import Topics
from transport.transfer import SendManifest, SendSegment, TransferPolicy


class Notes:
    """A link that writes down what it is asked to do."""

    def __init__(self) -> None:
        self.published: list[Publication] = []
        self.filters: set[str] = set()
        self.error: Exception | None = None
        self.max_packet_bytes = 4096

    def publish(self, publication: Publication) -> None:
        if self.error:
            raise self.error
        self.published.append(publication)

    def subscribe(self, *filters: str) -> None:
        self.filters.update(filters)

    def unsubscribe(self, *filters: str) -> None:
        self.filters.difference_update(filters)

    def last(self, ending: str) -> Publication:
        return [note for note in self.published if note.topic.endswith(ending)][-1]


class Device:
    """A session and its hands, with a trainer that only takes notes."""

    def __init__(self, folder: Path, small: Any) -> None:
        self.small = small
        self.config = AgentConfig.model_validate(
            {
                "federation": "fed",
                "client_id": "dev-1",
                "state_dir": folder,
                "data": {"train": "/t"},
            }
        )
        self.link = Notes()
        self.tasks: list[Task] = []
        self.ends: list[bool] = []
        self.too_long = False
        self.now = 0.0
        self.outbox = Outbox(folder, client_id="dev-1")
        self.restart()

    def restart(self) -> None:
        """Begin with what the disk remembers, and nothing else."""
        folder, small = self.config.state_dir, self.small
        goodput_bps, train_s = self.outbox.goodput_bps, self.outbox.train_s
        self.session = Session(
            "dev-1",
            remembered=Remembered(goodput_bps=goodput_bps, train_s=train_s),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=random.Random(1),
        )
        self.performer = Performer(
            self.config,
            boot="b00t",
            topics=Topics("fed"),
            link=self.link,  # type: ignore[arg-type]  # all of a link that hands use
            outbox=self.outbox,
            adapters=AdapterStore(folder / "adapters", kept=2),
            session=self.session,
            give_task=self.give,
            end_trainer=lambda: self.ends.append(True),
            root=folder,
        )
        self.do(self.session.connected(0.0))
        self.do(self.session.announced(small.announcement(segment_bytes=9999), now=0.0))
        hello = TrainerHello(1, "2.4", "", 90, 10, small.BASE.hex())
        self.do(self.session.trainer_ready(hello, now=0.0))

    def give(self, task: Task) -> None:
        if self.too_long:
            raise ValueError("a line of 9999999 bytes")
        self.tasks.append(task)

    def do(self, outputs: list[Any]) -> None:
        self.performer.perform(outputs, now=self.now)

    def command(self, round_id: int = 1) -> None:
        command = TrainCommand(self.small.RUN, 1, round_id, round_id - 1, 60.0, 7, None)
        self.do(self.session.train(command, now=0.0))

    def fetch(self, version: int, **changes: Any) -> None:
        manifest, bodies = self.small.adapter_message(version, **changes)
        self.do(self.session.adapter_manifest(manifest, now=0.0))
        for index, body in enumerate(bodies):
            self.do(self.session.adapter_segment(version, index=index, body=body, now=0.0))

    def train(self) -> str:
        """Go through round 1 up to its manifest; return its uid."""
        self.command()
        self.fetch(0)
        task = self.tasks[-1]
        assert isinstance(task, TrainTask)
        delta = np.ones(self.small.LAYOUT.size, dtype=np.float32)
        self.small.leave_payload(task.payload_file, delta)
        result = TrainResult(task.task_id, task.payload_file)
        self.do(self.session.trained(result, now=0.0))
        return frame.uid(frame.decode(Manifest, self.link.last("/m").payload))


@pytest.fixture
def device(tmp_path: Path, small: Any) -> Iterator[Device]:
    device = Device(tmp_path / "s", small)
    yield device
    device.outbox.close()


def test_a_round_goes_through_every_hand(device: Device, small: Any) -> None:
    uid = device.train()
    task = device.tasks[0]
    assert isinstance(task, TrainTask)
    assert task.adapter_file.read_bytes() == small.adapter_numbers(0).tobytes()
    assert task.seed == device_seed(7, client_id="dev-1", round_id=1)
    assert task.segment_bytes == 4096 - PACKET_OVERHEAD_BYTES
    assert task.leftovers == ()
    assert device.link.last("/info").retain
    response = control.decode(TrainResponse, device.link.last("rsp/train/1").payload)
    assert response.accepted
    status = device.link.last("/status")
    assert status.retain
    told = control.decode(DeviceStatus, status.payload)
    assert (told.state, told.session, told.round_id) == (DeviceState.UPLOADING, "b00t", 1)
    assert not device.link.filters

    total = len(frame.decode(Manifest, device.link.last("/m").payload).segments)
    device.do(device.session.answered(uid, Have(1, frozenset(), total), now=0.0))
    segment = device.link.last(f"{uid}/s/0")
    assert frame.decode(Segment, segment.payload).body == device.outbox.segment(uid, 0)
    late = Receipt(1, ReceiptState.LATE, "late", frozenset(), total)
    device.do(device.session.answered(uid, late, now=0.0))
    assert device.outbox.waiting() == ()

    device.command(2)
    device.fetch(1)
    task = device.tasks[-1]
    assert isinstance(task, TrainTask)
    assert task.leftovers == device.outbox.leftovers() != ()


def test_the_budget_follows_the_link_and_is_told_before_training(
    device: Device, small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    command = TrainCommand(small.RUN, 1, 1, 0, 60.0, 7, 310_000, 1000)
    device.do([RememberGoodput(180_000.0), RememberTraining(5.0)])
    assert (device.outbox.goodput_bps, device.outbox.train_s) == (180_000.0, 5.0)
    device.restart()
    with caplog.at_level(logging.INFO):
        device.do(device.session.train(command, now=0.0))
        device.fetch(0)
    (task,) = device.tasks
    assert isinstance(task, TrainTask)
    assert task.update_bytes == 310_000
    assert task.segment_bytes == 4096 - PACKET_OVERHEAD_BYTES
    assert "about 310 KB, 14 s at the present 180 kbit/s" in caplog.text
    response = control.decode(TrainResponse, device.link.last("rsp/train/1").payload)
    assert (response.update_bytes, response.goodput_bps) == (310_000, 180_000.0)
    assert response.upload_s == pytest.approx(13.8, abs=0.1)


def test_a_slow_link_gets_less_in_smaller_pieces(device: Device, small: Any) -> None:
    device.outbox.remember_goodput(16_000.0)
    device.restart()
    device.link.max_packet_bytes = 131_072
    command = TrainCommand(small.RUN, 1, 1, 0, 60.0, 7, 310_000, 1000)
    device.do(device.session.train(command, now=0.0))
    device.fetch(0)
    (task,) = device.tasks
    assert isinstance(task, TrainTask)
    assert task.update_bytes == 60_000  # half of a minute, at 2,000 bytes a second
    assert task.segment_bytes == 8192


def test_a_dense_update_is_cut_as_if_it_were_float32(small: Any) -> None:
    rows = (("wide", (4096, 4096)),)
    assert _dense_bytes(dataclasses.replace(small.adapter(0), layout=rows)) == 64 << 20


def test_an_evaluation_becomes_a_task(device: Device, small: Any) -> None:
    command = EvalCommand(small.RUN, 1, 3, 60.0)
    device.do(device.session.evaluate(command, now=0.0))
    device.fetch(3)
    (task,) = device.tasks
    assert isinstance(task, EvalTask)
    assert (task.version, task.layout) == (3, small.LAYOUT_ROWS)


def test_what_is_missing_of_a_version_is_asked_for(device: Device) -> None:
    device.do([Subscribe(4), PublishWant(4, frozenset({2}))])
    assert device.link.filters == set(Topics("fed").model_filters(4))
    want = frame.decode(AdapterWant, device.link.last("want/dev-1/4").payload)
    assert want.missing == {2}
    device.do([Unsubscribe(4)])
    assert not device.link.filters


def test_an_adapter_of_another_base_model_is_declined(device: Device) -> None:
    device.command()
    device.fetch(0, base_digest=b"\0" * 32)
    response = control.decode(TrainResponse, device.link.last("rsp/train/1").payload)
    assert (response.accepted, response.reason) == (False, "base")


def test_a_payload_that_is_damaged_is_trained_again(device: Device) -> None:
    device.command()
    device.fetch(0)
    task = device.tasks[-1]
    assert isinstance(task, TrainTask)
    task.payload_file.write_bytes(b"damaged")
    device.do(device.session.trained(TrainResult(task.task_id, task.payload_file), now=0.0))
    device.do(device.session.tick(100.0))
    assert device.tasks == [task, task]


def test_a_task_that_is_too_long_for_a_line_is_declined(device: Device) -> None:
    device.too_long = True
    device.command()
    device.fetch(0)
    response = control.decode(TrainResponse, device.link.last("rsp/train/1").payload)
    assert (response.accepted, response.reason) == (False, "oversized")
    assert device.session.state is DeviceState.IDLE


def test_a_trainer_that_hangs_is_ended(device: Device) -> None:
    device.command()
    device.fetch(0)
    device.do(device.session.tick(1e6))
    assert device.ends == [True]


def test_an_update_whose_bytes_are_lost_is_given_up(device: Device) -> None:
    uid = device.train()
    next((device.config.state_dir / "payloads").iterdir()).unlink()
    total = len(frame.decode(Manifest, device.link.last("/m").payload).segments)
    device.do(device.session.answered(uid, Have(1, frozenset(), total), now=0.0))
    assert device.session.state is DeviceState.IDLE
    assert device.outbox.waiting() == ()
    before = len(device.link.published)
    device.do([SendManifest(uid), SendSegment(uid, 0, resend=False)])
    assert len(device.link.published) == before


@pytest.mark.parametrize("error", [LinkLost("gone"), ValueError("a packet of 9999999 bytes")])
def test_what_cannot_be_published_is_dropped(
    device: Device, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    device.link.error = error
    with caplog.at_level(logging.ERROR):
        device.do([PublishProgress(Progress(round_id=1))])
    assert ("9999999" in caplog.text) == isinstance(error, ValueError)


def test_telemetry_says_how_the_device_feels(device: Device) -> None:
    device.performer.publish_telemetry()
    note = device.link.last("/telemetry")
    assert (note.qos, note.retain) == (0, False)
    telemetry = control.decode(Telemetry, note.payload)
    assert telemetry.disk_free_mb is not None
    assert telemetry.goodput_bps is None


def test_a_round_s_energy_is_told_before_its_update(
    device: Device, make_board: Callable[[str], Path]
) -> None:
    board = make_board("orin_nano")
    device.performer._metering = Metering(Sensors(root=board, disk=board))
    device.now = 100.0
    device.command()
    device.fetch(0)
    for second in range(101, 111):
        assert device.performer.measure(float(second)) == second + 1
    device.now = 110.0
    task = device.tasks[-1]
    assert isinstance(task, TrainTask)
    device.small.leave_payload(
        task.payload_file, np.ones(device.small.LAYOUT.size, dtype=np.float32)
    )
    device.do(device.session.trained(TrainResult(task.task_id, task.payload_file), now=110.0))
    topics = [note.topic for note in device.link.published]
    first = next(at for at, topic in enumerate(topics) if topic.endswith("/energy"))
    assert first < next(at for at, topic in enumerate(topics) if topic.endswith("/m"))
    note = device.link.published[first]
    assert (note.qos, note.retain) == (1, True)
    report = control.decode(EnergyReport, note.payload)
    assert (report.run, report.round_id) == (device.small.RUN, 1)
    assert report.covered_s == 10.0
    assert report.energy_j == pytest.approx(48.15, abs=0.1)
    device.performer.close()


def test_energy_that_the_link_did_not_take_is_told_later(
    device: Device, make_board: Callable[[str], Path]
) -> None:
    board = make_board("orin_nano")
    device.performer._metering = Metering(Sensors(root=board, disk=board))
    device.command()
    device.fetch(0)
    device.performer.measure(1.0)
    device.link.error = LinkLost("gone")
    device.performer.publish_telemetry()
    device.link.error = None
    device.performer.publish_telemetry()
    device.performer.publish_telemetry()
    told = [note for note in device.link.published if note.topic.endswith("/energy")]
    assert [control.decode(EnergyReport, note.payload).covered_s for note in told] == [1.0]


def test_an_effect_that_nobody_knows_is_our_own_fault(device: Device) -> None:
    with pytest.raises(AssertionError, match="nobody performs"):
        device.do(["an unknown effect"])

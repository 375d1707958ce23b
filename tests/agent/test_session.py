"""The session on a virtual clock, with everything around it scripted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.eligibility import Eligibility, EligibilityConfig, Reading
from agent.job import JobPolicy
from agent.outputs import (
    BeginRun,
    CommitPayload,
    EndTrainer,
    Output,
    PublishProfile,
    PublishProgress,
    PublishStatus,
    PublishWant,
    Remembered,
    RememberEpoch,
    RememberTraining,
    Respond,
    SettleUpdate,
    StartEvaluation,
    StartTraining,
    StoreAdapter,
    Subscribe,
    Unsubscribe,
    Upload,
)
from agent.pauses import OperatorHold, Pauses
from agent.session import Session
from agent.stalls import STALL_S
from agent.states import TRANSITIONS, Event
from agent.tasks import EvalResult, TaskFailed, TaskProgress, TrainerHello, TrainResult
from transport.control import (
    DeviceState,
    EvalCommand,
    EvalResponse,
    ModelStatus,
    Progress,
    TrainCommand,
    TrainResponse,
)
from transport.messages import Have, Receipt, ReceiptState, Want
from transport.transfer import SendManifest, SendSegment, TransferPolicy

Kind = TypeVar("Kind")
PAUSED = DeviceState.PAUSED
IDLE, FETCHING, TRAINING = DeviceState.IDLE, DeviceState.FETCHING, DeviceState.TRAINING
UPLOADING, AWAITING = DeviceState.UPLOADING, DeviceState.AWAITING_RECEIPT
DEADLINE_S = 60.0


class Device:
    """A session, its virtual clock, and every output so far."""

    def __init__(self, small: Any, **remembered: Any) -> None:
        self.small = small
        self.now = 1000.0
        self.outputs: list[Output] = []
        self.pauses = Pauses(Eligibility(EligibilityConfig(max_temp_c=85, hold_s=60)))
        self.session = Session(
            "dev-1",
            remembered=Remembered(**({"run": small.RUN} | remembered)),
            jobs=JobPolicy(),
            transfer=TransferPolicy(),
            rng=random.Random(1),
            pauses=self.pauses,
        )
        self.hello = TrainerHello(1, "2.4", "", 90, 10, small.BASE.hex())

    @property
    def state(self) -> DeviceState:
        return self.session.state

    def ready(self) -> Device:
        """Connected, in a run, with a trainer, and nothing to do."""
        self.do(self.session.connected(self.now))
        self.do(self.session.announced(self.small.announcement(), now=self.now))
        self.do(self.session.trainer_ready(self.hello, now=self.now))
        return self

    def do(self, outputs: list[Output]) -> list[Output]:
        self.outputs.extend(outputs)
        return outputs

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def command(self, round_id: int, *, epoch: int = 1, run: str | None = None) -> list[Output]:
        run = run or self.small.RUN
        command = TrainCommand(run, epoch, round_id, round_id - 1, DEADLINE_S, 7, None)
        return self.do(self.session.train(command, now=self.now))

    def evaluate(self, version: int, *, epoch: int = 1) -> list[Output]:
        command = EvalCommand(self.small.RUN, epoch, version, DEADLINE_S)
        return self.do(self.session.evaluate(command, now=self.now))

    def model(
        self, version: int, run: str | None = None, *, chain_from: int | None = None
    ) -> list[Output]:
        run = run or self.small.RUN
        status = ModelStatus(run, version, "", 900, 3, chain_from=chain_from, chain_bytes=800)
        return self.do(self.session.model(status, now=self.now))

    def store(self, version: int) -> list[Output]:
        adapter = self.small.adapter(version)
        return self.do(self.session.adapter_stored(adapter, now=self.now))

    def fetch(self, version: int, *, delta: bool = False, begin: int = 0) -> list[Output]:
        """Bring the manifest of a version, or of its delta, and segments from `begin` on."""
        session, now = self.session, self.now
        manifest, bodies = self.small.adapter_message(version)
        outputs = session.adapter_manifest(manifest, delta=delta, now=now)
        for index, body in enumerate(bodies[begin:], start=begin):
            outputs += session.adapter_segment(
                version, index=index, body=body, delta=delta, now=now
            )
        return self.do(outputs)

    def commit(self, update: Upload) -> list[Output]:
        return self.do(self.session.committed(update, now=self.now))

    def have(self, update: Upload, *indices: int, epoch: int = 1) -> list[Output]:
        message = Have(epoch, frozenset(indices), len(update.manifest.segments))
        return self.do(self.session.answered(update.uid, message, now=self.now))

    def receipt(
        self, update: Upload, state: ReceiptState = ReceiptState.ACCEPTED, *, epoch: int = 1
    ) -> list[Output]:
        total = len(update.manifest.segments)
        message = Receipt(epoch, state, "", frozenset(range(total)), total)
        return self.do(self.session.answered(update.uid, message, now=self.now))

    def fail(self, *, retryable: bool) -> list[Output]:
        tasks = [*self.all(StartTraining), *self.all(StartEvaluation)]
        failure = TaskFailed(tasks[-1].task_id, "memory", "it is short", retryable)
        return self.do(self.session.task_failed(failure, now=self.now))

    def sleep(self) -> list[Output]:
        """Go to the next moment at which there is something to do."""
        wakeup = self.session.next_wakeup()
        assert wakeup is not None, "nobody will wake the session"
        self.now = max(self.now, wakeup)
        return self.do(self.session.tick(self.now))

    def feel(self, temp_c: float, *, times: int = 1) -> list[Output]:
        """Read so many degrees, every ten seconds."""
        outputs: list[Output] = []
        for _ in range(times):
            reading = Reading(time(12), temp_c=temp_c)
            training = self.session.is_working
            self.pauses.observe(reading, training=training, now=self.now)
            outputs += self.do(self.session.tick(self.now))
            self.now += 10.0
        return outputs

    def train_round(self, round_id: int) -> Upload:
        """Train a round up to its commit."""
        self.command(round_id)
        self.store(round_id - 1)
        update: Upload = self.small.upload(round_id)
        self.commit(update)
        return update


@pytest.fixture
def device(small: Any) -> Device:
    return Device(small).ready()


def kinds(outputs: list[Output]) -> list[str]:
    return [type(output).__name__ for output in outputs]


# Each state is reached with an update of round 1 behind it (but for IDLE), each event brought in
# the way in which it comes.


def in_state(small: Any, state: DeviceState) -> tuple[Device, Upload]:
    device = Device(small).ready()
    update: Upload = small.upload(1)
    if state is IDLE:
        return device, update
    device.train_round(1)
    device.have(update, 0)
    match state:
        case DeviceState.FETCHING:
            device.command(2)
        case DeviceState.TRAINING:
            device.command(2)
            device.store(1)
        case DeviceState.AWAITING_RECEIPT:
            device.have(update, 0, 1, 2)
    assert device.state is state
    return device, update


def give_up(device: Device) -> None:
    if device.all(StartTraining):
        device.fail(retryable=False)
    device.now += 2 * DEADLINE_S
    device.do(device.session.tick(device.now))


BRING: dict[Event, Callable[[Device, Upload], object]] = {
    Event.COMMAND: lambda device, _: device.command(3),
    Event.ADAPTER: lambda device, _: device.store(1),
    Event.JOB_OVER: lambda device, _: give_up(device),
    Event.SENDING: lambda device, _: device.commit(device.small.upload(9)),
    Event.DELIVERED: lambda device, update: device.have(update, 0, 1, 2),
    Event.SETTLED: lambda device, update: device.receipt(update),
}

# Where an event is not for a state, what comes leaves the state as it is. A job that is over gives
# way to the update behind it; a command waits for the training before it.
EXPECTED: dict[DeviceState, dict[Event, DeviceState]] = {
    IDLE: {Event.COMMAND: FETCHING, Event.SENDING: UPLOADING},
    FETCHING: {Event.ADAPTER: TRAINING, Event.JOB_OVER: UPLOADING},
    TRAINING: {Event.JOB_OVER: UPLOADING},
    UPLOADING: {Event.COMMAND: FETCHING, Event.DELIVERED: AWAITING, Event.SETTLED: IDLE},
    AWAITING: {Event.COMMAND: FETCHING, Event.SENDING: UPLOADING, Event.SETTLED: IDLE},
}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("state", TRANSITIONS, ids=lambda state: state.name)
def test_every_event_in_every_state(small: Any, state: DeviceState, event: Event) -> None:
    device, update = in_state(small, state)
    BRING[event](device, update)
    assert device.state is EXPECTED[state].get(event, state)
    told = device.all(PublishStatus)[-1]
    assert told.state is device.state


def test_the_table_leads_only_to_states_that_it_has() -> None:
    for row in TRANSITIONS.values():
        assert set(row.values()) <= TRANSITIONS.keys()
        assert {Event.SENDING, Event.DELIVERED, Event.SETTLED} <= row.keys()


# -- one round -------------------------------------------------------------------------------------


def test_a_round_from_command_to_receipt(device: Device, small: Any) -> None:
    assert device.command(1) == [
        RememberEpoch(1),
        Respond(TrainResponse(small.RUN, 1, accepted=True)),
        Subscribe(0),
        PublishStatus(FETCHING, 1, ""),
    ]
    (stored,) = [output for output in device.fetch(0) if isinstance(output, StoreAdapter)]
    assert stored.manifest.version == 0
    assert stored.bodies == small.adapter_message(0)[1]
    outputs = device.store(0)
    assert kinds(outputs) == ["Unsubscribe", "StartTraining", "PublishStatus"]
    (task,) = device.all(StartTraining)
    assert task.command.round_id == 1
    assert task.adapter == small.adapter(0)

    progress = TaskProgress(task.task_id, 1, 8, 2.5, 1.0, micro_batch=4, out_of_memory=1)
    (published,) = device.session.task_progress(progress, now=device.now)
    assert published == PublishProgress(
        Progress(1, 1, 8, loss=2.5, eta_s=1.0, micro_batch=4, out_of_memory=1)
    )
    result = TrainResult(task.task_id, Path("/p"))
    assert device.session.trained(result, now=device.now) == [
        CommitPayload(task.task_id, Path("/p"))
    ]
    update = small.upload(1)
    assert kinds(device.commit(update)) == ["RememberTraining", "SendManifest", "PublishStatus"]
    sent = device.have(update)
    assert sent[0] == SendSegment(update.uid, 0, resend=False)
    device.have(update, 0, 1)
    device.have(update, 0, 1, 2)
    assert device.state is AWAITING
    assert kinds(device.receipt(update)) == ["SettleUpdate", "PublishStatus"]
    assert device.state is IDLE
    assert device.session.goodput_bps is None
    assert device.session.next_wakeup() is None


def test_a_version_that_is_held_is_not_fetched_again(device: Device) -> None:
    device.train_round(1)
    device.store(1)
    outputs = device.command(2)
    assert kinds(outputs) == ["Respond", "StartTraining", "PublishStatus"]


def test_only_the_two_newest_versions_are_held(device: Device) -> None:
    for version in (0, 1, 2):
        device.store(version)
    device.command(1)
    assert device.state is FETCHING


def test_a_version_that_never_comes_is_asked_for_until_the_deadline(device: Device) -> None:
    device.command(1)
    while device.state is FETCHING:
        device.sleep()
    wants = device.all(PublishWant)
    assert len(wants) >= 3
    assert set(wants) == {PublishWant(0, None)}
    assert device.now <= 1000.0 + DEADLINE_S
    assert device.all(Unsubscribe) == [Unsubscribe(0)]
    assert device.all(Respond)[-1].response == TrainResponse(
        device.small.RUN, 1, accepted=False, reason="deadline"
    )
    assert device.all(PublishStatus)[-1] == PublishStatus(IDLE, 0, "deadline")


def test_missing_segments_are_named(device: Device, small: Any) -> None:
    device.command(1)
    manifest, bodies = small.adapter_message(0)
    device.do(device.session.adapter_manifest(manifest, now=device.now))
    for index in (0, 2):
        device.do(
            device.session.adapter_segment(0, index=index, body=bodies[index], now=device.now)
        )
    device.sleep()
    (want,) = device.all(PublishWant)
    assert want.missing == frozenset(range(len(bodies))) - {0, 2}


def test_frames_of_a_version_that_nobody_wants_are_ignored(device: Device) -> None:
    assert device.fetch(5) == []
    device.command(1)
    assert device.fetch(5) == []
    assert device.state is FETCHING


def test_damaged_frames_leave_the_fetch_going(device: Device, small: Any) -> None:
    device.command(1)
    manifest, bodies = small.adapter_message(0)
    device.do(device.session.adapter_manifest(manifest, now=device.now))
    outputs = device.session.adapter_segment(0, index=0, body=bodies[0][:-1], now=device.now)
    assert outputs == []
    assert device.fetch(0) != []


def test_an_adapter_that_does_not_decode_is_fetched_again_and_then_declined(
    device: Device,
) -> None:
    device.command(1)
    tries = 0
    while device.state is FETCHING:
        tries += 1
        device.fetch(0)
        device.do(
            device.session.adapter_refused(0, reason="digest", retryable=True, now=device.now)
        )
        if device.state is FETCHING:
            device.sleep()
    assert tries == 1 + JobPolicy().retries
    assert len(device.all(Subscribe)) == len(device.all(Unsubscribe)) == tries
    response = device.all(Respond)[-1].response
    assert (response.reason, device.state) == ("digest", IDLE)


def test_a_refusal_of_a_version_that_is_not_being_kept_changes_nothing(device: Device) -> None:
    device.command(1)
    assert device.session.adapter_refused(0, reason="digest", retryable=False, now=device.now) == []
    assert device.state is FETCHING


# -- commands --------------------------------------------------------------------------------------


def test_a_command_waits_for_the_run_and_the_trainer(small: Any) -> None:
    device = Device(small, run=None)
    device.do(device.session.connected(device.now))
    assert device.command(1) == []
    device.do(device.session.announced(small.announcement(), now=device.now))
    assert device.all(BeginRun) == [BeginRun(small.RUN)]
    assert not device.all(Respond)
    device.do(device.session.trainer_ready(device.hello, now=device.now))
    assert device.all(Respond) == [Respond(TrainResponse(small.RUN, 1, accepted=True))]
    assert device.all(PublishProfile) == [PublishProfile(device.hello)]


def test_a_repeated_command_is_answered_and_trains_once(device: Device) -> None:
    device.command(1)
    device.command(1)
    device.store(0)
    device.command(1)
    assert len(device.all(Respond)) == 3
    assert len(device.all(StartTraining)) == 1
    update = device.small.upload(1)
    device.commit(update)
    outputs = device.command(1)
    assert kinds(outputs) == ["Respond", "SendManifest"]
    device.receipt(update)
    assert device.command(1) == [
        Respond(TrainResponse(device.small.RUN, 1, accepted=False, reason="settled"))
    ]
    assert len(device.all(StartTraining)) == 1


def test_a_repeated_command_moves_the_deadline(device: Device) -> None:
    device.command(1)
    device.now += DEADLINE_S - 1
    device.command(1)
    device.now += DEADLINE_S - 1
    device.do(device.session.tick(device.now))
    assert device.state is FETCHING


def test_a_newer_round_supersedes_a_fetch(device: Device) -> None:
    device.command(1)
    device.command(2)
    assert device.all(Unsubscribe) == [Unsubscribe(0)]
    assert device.all(Subscribe) == [Subscribe(0), Subscribe(1)]
    device.store(1)
    assert device.all(StartTraining)[0].command.round_id == 2


def test_a_newer_round_waits_for_the_training_before_it(device: Device) -> None:
    device.command(1)
    device.store(0)
    assert device.command(2) == []
    outputs = device.commit(device.small.upload(1))
    assert "Subscribe" in kinds(outputs)
    assert device.state is FETCHING


@pytest.mark.parametrize("settled", [False, True])
def test_an_older_round_is_ignored(device: Device, *, settled: bool) -> None:
    device.command(1)
    update = device.train_round(2)
    if settled:
        device.receipt(update)
    assert device.command(1) == []
    device.command(3)
    assert device.command(1) == []
    assert device.state is FETCHING


def test_a_command_for_a_version_that_is_gone_is_declined(device: Device) -> None:
    device.model(4)
    device.command(3)
    assert device.all(Respond)[-1].response.reason == "stale"
    assert device.state is IDLE
    device.command(5)
    assert device.state is FETCHING


def test_a_version_that_goes_while_it_is_fetched_ends_the_fetch(device: Device) -> None:
    device.command(3)
    device.model(9, run=device.small.OTHER_RUN)
    assert device.state is FETCHING
    device.model(4)
    assert device.state is IDLE
    assert device.all(Respond)[-1].response.reason == "stale"


def test_a_codec_that_is_not_known_here_is_declined_before_anything_is_fetched(
    device: Device, small: Any
) -> None:
    device.do(device.session.announced(small.announcement(codec="fstq-9+"), now=device.now))
    device.command(1)
    response = device.all(Respond)[-1].response
    assert (response.reason, response.accepted) == ("codec", False)
    assert not device.all(Subscribe)


def test_a_device_that_holds_the_version_before_fetches_the_delta(
    device: Device, small: Any
) -> None:
    device.do(device.session.announced(small.announcement(downlink_codec="fp32"), now=device.now))
    device.command(1)
    assert device.all(Subscribe) == [Subscribe(0)]
    device.fetch(0)
    device.store(0)
    device.fail(retryable=False)
    device.model(1, chain_from=0)
    device.command(2)
    assert device.all(Subscribe)[-1] == Subscribe(1, delta=True)
    device.fetch(1)  # the whole, which nobody asked for, is not taken for the delta
    assert device.all(StoreAdapter)[-1].manifest.version == 0
    device.fetch(1, delta=True)
    assert device.all(StoreAdapter)[-1].base == small.adapter(0)
    device.do(device.session.adapter_refused(1, reason="digest", retryable=True, now=device.now))
    assert device.all(Unsubscribe)[-1] == Unsubscribe(1, delta=True)
    device.now += 5.0
    device.do(device.session.tick(device.now))
    assert device.all(Subscribe)[-1] == Subscribe(1)
    assert device.all(PublishWant)[-1] == PublishWant(1, None)


def test_a_delta_that_nobody_sends_is_given_up_for_the_whole(device: Device, small: Any) -> None:
    device.do(device.session.announced(small.announcement(downlink_codec="fp32"), now=device.now))
    device.command(1)
    device.fetch(0)
    device.store(0)
    device.fail(retryable=False)
    device.model(1, chain_from=0)
    device.command(2)
    for _ in range(3):
        device.sleep()
    assert PublishWant(1, None, delta=True) in device.all(PublishWant)
    assert device.all(Subscribe)[-1] == Subscribe(1)


def following(device: Device, *, held: int, newest: int, chain_from: int) -> None:
    """Let a device that holds one version be asked to train from the newest."""
    run = device.small.announcement(downlink_codec="fp32")
    device.do(device.session.announced(run, now=device.now))
    device.store(held)
    device.model(newest, chain_from=chain_from)
    device.command(newest + 1)


def test_a_device_that_missed_versions_follows_the_chain_hop_by_hop(
    device: Device, small: Any
) -> None:
    following(device, held=2, newest=5, chain_from=1)
    for version in (3, 4, 5):
        assert device.all(Subscribe)[-1] == Subscribe(version, delta=True)
        assert device.state is FETCHING
        device.fetch(version, delta=True)
        stored = device.all(StoreAdapter)[-1]
        assert (stored.manifest.version, stored.base) == (version, small.adapter(version - 1))
        device.store(version)
        assert device.all(Unsubscribe)[-1] == Unsubscribe(version, delta=True)
    assert device.all(StartTraining)[-1].adapter == small.adapter(5)
    assert not device.all(PublishWant)


def test_a_device_behind_the_chain_fetches_the_whole(device: Device) -> None:
    following(device, held=2, newest=5, chain_from=3)
    assert device.all(Subscribe) == [Subscribe(5)]


def test_a_chain_that_is_larger_than_the_whole_is_not_followed(device: Device, small: Any) -> None:
    run = small.announcement(downlink_codec="fp32")
    device.do(device.session.announced(run, now=device.now))
    device.store(2)
    status = ModelStatus(small.RUN, 5, "", 900, 3, chain_from=1, chain_bytes=901)
    device.do(device.session.model(status, now=device.now))
    device.command(6)
    assert device.all(Subscribe) == [Subscribe(5)]


def test_after_a_power_cut_the_chain_goes_on_from_the_last_hop(small: Any) -> None:
    device = Device(small, adapters=(small.adapter(3), small.adapter(4))).ready()
    device.do(device.session.announced(small.announcement(downlink_codec="fp32"), now=device.now))
    device.model(6, chain_from=1)
    device.command(7)
    assert device.all(Subscribe) == [Subscribe(5, delta=True)]


def test_a_hop_that_fails_is_made_up_for_by_the_whole(device: Device) -> None:
    following(device, held=2, newest=5, chain_from=1)
    device.fetch(3, delta=True)
    device.store(3)
    device.fetch(4, delta=True)
    device.do(device.session.adapter_refused(4, reason="digest", retryable=True, now=device.now))
    device.sleep()
    assert device.all(Subscribe)[-1] == Subscribe(5)
    device.fetch(5)
    device.store(5)
    assert device.state is TRAINING


def test_a_whole_that_has_begun_to_come_is_not_given_up_for_a_newer_version(
    device: Device, small: Any
) -> None:
    """Where a version takes longer than a round, beginning anew would never end."""
    device.do(device.session.announced(small.announcement(downlink_codec="fp32"), now=device.now))
    device.model(4, chain_from=2)
    device.command(5)
    assert device.all(Subscribe) == [Subscribe(4)]
    device.fetch(4, begin=2)
    device.model(5, chain_from=2)
    assert device.all(Respond)[-1].response.reason == "stale"
    device.command(6)
    assert not device.all(Unsubscribe)
    device.sleep()
    assert device.all(PublishWant)[-1] == PublishWant(4, frozenset({0, 1}))
    assert device.all(PublishStatus)[-1] == PublishStatus(FETCHING, 6, "")
    device.fetch(4)
    device.store(4)
    assert device.all(Subscribe)[-1] == Subscribe(5, delta=True)
    device.fetch(5, delta=True)
    device.store(5)
    assert device.all(StartTraining)[-1].adapter == small.adapter(5)


def test_what_has_begun_to_come_goes_on_after_the_deadline(device: Device) -> None:
    device.command(1)
    device.fetch(0, begin=3)
    device.now += DEADLINE_S
    device.do(device.session.tick(device.now))
    assert device.all(Respond)[-1].response.reason == "deadline"
    assert not device.all(Unsubscribe)
    device.fetch(0)
    device.store(0)
    assert device.state is IDLE
    assert device.all(Unsubscribe) == [Unsubscribe(0)]


def test_a_version_that_does_not_lead_to_the_newest_is_given_up(device: Device) -> None:
    device.do(
        device.session.announced(device.small.announcement(downlink_codec="fp32"), now=device.now)
    )
    device.model(4, chain_from=2)
    device.command(5)
    device.fetch(4, begin=2)
    device.model(9, chain_from=5)
    device.command(10)
    assert device.all(Unsubscribe) == [Unsubscribe(4)]
    assert device.all(Subscribe)[-1] == Subscribe(9)


def test_an_older_whole_of_which_nothing_more_comes_is_given_up_in_the_end(device: Device) -> None:
    device.do(
        device.session.announced(device.small.announcement(downlink_codec="fp32"), now=device.now)
    )
    device.model(4, chain_from=2)
    device.command(5)
    device.fetch(4, begin=2)
    device.model(5, chain_from=2)
    device.session.train(TrainCommand(device.small.RUN, 1, 6, 5, 1e6, 7, None), now=device.now)
    while not device.all(Unsubscribe):
        device.sleep()
    wants = [want for want in device.all(PublishWant) if want.version == 4]
    assert len(wants) == 1 + 4  # at once for the newcomer, then in vain
    assert device.all(Subscribe)[-1] == Subscribe(5)


def test_a_fetch_that_stalls_is_told_and_then_no_longer(device: Device) -> None:
    device.command(1)
    device.fetch(0, begin=2)
    device.sleep()
    assert device.all(PublishStatus)[-1].reason == ""
    device.sleep()
    assert device.all(PublishStatus)[-1] == PublishStatus(FETCHING, 1, "fetch-stalled")
    _, bodies = device.small.adapter_message(0)
    device.do(device.session.adapter_segment(0, index=0, body=bodies[0], now=device.now))
    assert device.all(PublishStatus)[-1] == PublishStatus(FETCHING, 1, "")


def test_a_newcomer_asks_for_the_whole_at_once(device: Device, small: Any) -> None:
    device.do(device.session.announced(small.announcement(downlink_codec="fp32"), now=device.now))
    device.model(4)
    device.command(5)
    assert device.all(Subscribe) == [Subscribe(4)]
    assert device.all(PublishWant) == [PublishWant(4, None)]


def test_another_base_model_is_declined(small: Any) -> None:
    device = Device(small)
    device.hello = replace(device.hello, base_digest="00" * 32)
    device.ready()
    device.command(1)
    device.evaluate(0)
    assert [respond.response.reason for respond in device.all(Respond)] == ["base", "base"]


@pytest.mark.parametrize("what", ["train", "eval", "answer"])
def test_a_fenced_off_aggregator_is_ignored(device: Device, what: str) -> None:
    update = device.train_round(1)
    device.have(update, 0, epoch=3)
    assert device.all(RememberEpoch)[-1] == RememberEpoch(3)
    before = len(device.all(Respond))
    match what:
        case "train":
            device.command(2, epoch=2)
        case "eval":
            device.evaluate(1, epoch=2)
        case _:
            device.receipt(update, epoch=2)
    assert device.state is UPLOADING
    declined = device.all(Respond)[before:]
    assert [(one.response.reason, one.response.epoch) for one in declined] == (
        [] if what == "answer" else [("epoch", 2)]
    )
    device.receipt(update, epoch=3)
    assert device.state is IDLE


def test_the_epoch_outlives_a_restart_but_not_its_run(small: Any) -> None:
    device = Device(small, epoch=5).ready()
    (declined,) = device.command(1, epoch=4)
    assert declined.response == TrainResponse(small.RUN, 1, accepted=False, reason="epoch", epoch=4)
    assert device.command(1, epoch=4) == []  # it was told
    assert device.state is IDLE
    other = small.announcement(run=small.OTHER_RUN)
    device.do(device.session.announced(other, now=device.now))
    device.command(1, epoch=1, run=small.OTHER_RUN)
    assert device.state is FETCHING


# -- evaluation ------------------------------------------------------------------------------------


def test_an_evaluation_is_answered_and_remembered(device: Device, small: Any) -> None:
    device.evaluate(3)
    device.store(3)
    (task,) = device.all(StartEvaluation)
    result = EvalResult(task.task_id, 2.5, 100, 40)
    device.do(device.session.evaluated(result, now=device.now))
    expected = Respond(EvalResponse(small.RUN, 3, 2.5, 100, 40))
    assert device.all(Respond) == [expected]
    assert device.state is IDLE
    device.evaluate(3)
    assert device.all(Respond) == [expected, expected]
    assert len(device.all(StartEvaluation)) == 1


def test_an_evaluation_that_cannot_be_made_has_no_tokens(device: Device) -> None:
    device.evaluate(3)
    device.store(3)
    device.fail(retryable=False)
    response = device.all(Respond)[-1].response
    assert isinstance(response, EvalResponse)
    assert (response.tokens, response.reason) == (0, "memory")


def test_a_version_older_than_those_held_can_be_worked_with(device: Device) -> None:
    for version in (4, 5, 3):
        device.evaluate(version)
        device.store(version)
        device.fail(retryable=False)
    assert [task.adapter.version for task in device.all(StartEvaluation)] == [4, 5, 3]


def test_training_and_evaluation_wait_for_each_other(device: Device) -> None:
    device.evaluate(0)
    device.store(0)
    assert device.command(1) == []
    device.fail(retryable=False)
    assert len(device.all(StartTraining)) == 1
    assert device.evaluate(0) == []
    device.commit(device.small.upload(1))
    assert len(device.all(StartEvaluation)) == 2


# -- the trainer -----------------------------------------------------------------------------------


def test_a_failed_task_is_tried_again_later_and_later(device: Device) -> None:
    device.command(1)
    device.store(0)
    pauses = []
    while True:
        device.fail(retryable=True)
        if device.state is IDLE:
            break
        before = device.now
        device.sleep()
        pauses.append(device.now - before)
    assert len(pauses) == JobPolicy().retries
    assert pauses == sorted(pauses)
    assert len({task.task_id for task in device.all(StartTraining)}) == 1
    assert device.all(Respond)[-1].response.reason == "memory"


def test_a_lost_trainer_gets_the_same_task_again(device: Device) -> None:
    device.command(1)
    device.store(0)
    device.do(device.session.trainer_gone(device.now))
    device.now += 100.0
    device.do(device.session.tick(device.now))
    assert device.session.next_wakeup() is None
    assert len(device.all(StartTraining)) == 1
    device.do(device.session.trainer_ready(device.hello, now=device.now))
    first, second = device.all(StartTraining)
    assert first == second
    assert device.state is TRAINING


def test_a_trainer_that_dies_of_its_task_every_time_is_spared(device: Device) -> None:
    device.command(1)
    device.store(0)
    while device.state is TRAINING:
        device.do(device.session.trainer_gone(device.now))
        device.now += 100.0
        device.do(device.session.trainer_ready(device.hello, now=device.now))
    assert device.all(Respond)[-1].response.reason == "trainer-lost"


def test_a_trainer_that_says_nothing_for_long_is_ended(device: Device) -> None:
    device.command(1)
    device.store(0)
    began, silence_s = device.now, JobPolicy().silence_s
    device.now += silence_s - 1
    progress = TaskProgress(f"train-{device.small.RUN}-1", 1, 2, 1.0, 1.0)
    device.do(device.session.task_progress(progress, now=device.now))
    assert device.sleep() == [EndTrainer()]
    assert device.now == began + 2 * silence_s - 1
    assert device.do(device.session.tick(device.now)) == []
    device.do(device.session.trainer_gone(device.now))
    device.sleep()
    device.do(device.session.trainer_ready(device.hello, now=device.now))
    assert len(device.all(StartTraining)) == 2
    assert device.all(EndTrainer) == [EndTrainer()]


def test_signs_of_life_of_an_evaluation_are_not_told(device: Device) -> None:
    device.evaluate(3)
    device.store(3)
    device.now += JobPolicy().silence_s - 1
    (task,) = device.all(StartEvaluation)
    life = TaskProgress(task.task_id, 0, 0, None, None)
    assert device.do(device.session.task_progress(life, now=device.now)) == []
    device.now += JobPolicy().silence_s - 1
    assert device.do(device.session.tick(device.now)) == []


def test_a_trainer_without_a_task_may_be_silent(device: Device) -> None:
    update = device.train_round(1)
    device.receipt(update)
    device.now += 1e6
    assert device.do(device.session.tick(device.now)) == []
    assert device.session.next_wakeup() is None


def test_a_trainer_that_cannot_work_declines_until_it_can(device: Device) -> None:
    device.command(1)
    device.store(0)
    unable = device.session.trainer_unable("trainer-config", "no text at /srv", now=device.now)
    device.do(unable)
    assert device.state is IDLE
    status = device.all(PublishStatus)[-1]
    assert (status.reason, status.words) == ("no text at /srv", "idle: no text at /srv")
    device.command(2)
    device.evaluate(0)
    reasons = [response.response.reason for response in device.all(Respond)[-3:]]
    assert reasons == ["trainer-config"] * 3
    device.do(device.session.trainer_ready(device.hello, now=device.now))
    assert device.session.standing.reason == ""
    device.command(3)
    assert device.all(Respond)[-1].response.accepted


def test_a_trainer_that_cannot_work_stops_no_upload(device: Device) -> None:
    update = device.train_round(1)
    device.do(device.session.trainer_unable("trainer-config", "no text", now=device.now))
    assert kinds(device.have(update))[0] == "SendSegment"
    device.receipt(update)


def test_a_status_reads_as_people_say_it(device: Device) -> None:
    assert device.session.standing.words == "idle"
    device.command(1)
    device.store(0)
    assert device.session.standing.words == "training round 1"


def test_a_lost_trainer_stops_no_upload(device: Device) -> None:
    update = device.train_round(1)
    assert device.session.trainer_gone(device.now) == []
    assert kinds(device.have(update))[0] == "SendSegment"
    device.receipt(update)
    assert device.state is IDLE


def test_results_of_tasks_that_are_over_are_ignored(device: Device) -> None:
    now = device.now
    assert device.session.trained(TrainResult("old", Path("/p")), now=now) == []
    assert device.session.evaluated(EvalResult("old", 1.0, 1, 1), now=now) == []
    assert device.session.task_failed(TaskFailed("old", "r", "t", True), now=now) == []  # noqa: FBT003 - a message
    assert device.session.task_progress(TaskProgress("old", 1, 2, 1.0, 1.0), now=now) == []


# -- the link --------------------------------------------------------------------------------------


def test_what_was_said_offline_is_said_once_the_link_is_back(device: Device) -> None:
    device.command(1)
    device.store(0)
    device.do(device.session.disconnected(device.now))
    assert device.fail(retryable=False) == []
    device.outputs.clear()
    device.do(device.session.connected(device.now))
    assert [respond.response.reason for respond in device.all(Respond)] == ["memory"]
    assert device.all(PublishStatus) == [PublishStatus(IDLE, 0, "memory")]
    device.outputs.clear()
    device.do(device.session.disconnected(device.now))
    device.do(device.session.connected(device.now))
    assert not device.all(Respond)
    assert device.all(PublishStatus)


def test_training_goes_on_without_a_link_and_the_update_waits(device: Device) -> None:
    device.command(1)
    device.store(0)
    device.do(device.session.disconnected(device.now))
    device.outputs.clear()
    progress = TaskProgress(f"train-{device.small.RUN}-1", 1, 2, 1.0, 1.0)
    assert device.session.task_progress(progress, now=device.now) == []
    update = device.small.upload(1)
    assert kinds(device.commit(update)) == ["RememberTraining"]
    assert device.session.next_wakeup() == device.now + STALL_S
    assert device.do(device.session.connected(device.now))[-2:] == [
        SendManifest(update.uid),
        PublishStatus(UPLOADING, 1, ""),
    ]


def test_a_fetch_goes_on_after_the_link_came_back(device: Device) -> None:
    device.command(1)
    device.do(device.session.disconnected(device.now))
    for _ in range(3):
        device.sleep()
    assert not device.all(PublishWant)
    device.do(device.session.connected(device.now))
    device.sleep()
    assert device.all(PublishWant) == [PublishWant(0, None)]


# -- uploads ---------------------------------------------------------------------------------------


def test_after_a_restart_the_outbox_is_offered_and_its_rounds_are_not_trained(small: Any) -> None:
    old, new = small.upload(1), small.upload(2)
    device = Device(small, uploads=(old, new), adapters=(small.adapter(2),), settled=frozenset())
    outputs = device.do(device.session.connected(device.now))
    assert [output for output in outputs if isinstance(output, SendManifest)] == [
        SendManifest(old.uid),
        SendManifest(new.uid),
    ]
    assert device.all(PublishStatus) == [PublishStatus(UPLOADING, 2, "")]
    device.ready()
    device.command(2)
    assert not device.all(StartTraining)
    device.receipt(old, ReceiptState.LATE)
    assert device.all(SettleUpdate)[0].uid == old.uid
    device.command(3)
    assert device.all(StartTraining)[0].adapter == small.adapter(2)


def test_an_update_of_a_closed_round_is_settled_behind_the_next_task(device: Device) -> None:
    update = device.train_round(1)
    device.command(2)
    device.store(1)
    assert device.state is TRAINING
    assert kinds(device.receipt(update, ReceiptState.LATE)) == ["SettleUpdate"]
    assert device.state is TRAINING


def test_uploads_go_on_by_themselves_until_the_receipt(device: Device) -> None:
    update = device.train_round(1)
    for _ in range(4):
        device.sleep()
    device.have(update, 0)
    for _ in range(4):
        device.sleep()
    assert {segment.index for segment in device.all(SendSegment)} == {0, 1, 2}
    assert any(segment.resend for segment in device.all(SendSegment))
    device.receipt(update)
    assert device.session.next_wakeup() is None


def test_progress_of_an_upload_is_told_at_most_once_a_second(device: Device) -> None:
    update = device.train_round(1)
    device.have(update)
    device.now += 0.5
    device.have(update, 0)
    assert len(device.all(PublishProgress)) == 1
    device.now += 0.6
    device.have(update, 0, 1)
    progress = device.all(PublishProgress)[-1].progress
    assert (progress.segments_accepted, progress.segments, progress.round_id) == (2, 3, 1)
    assert progress.bytes_sent == sum(entry.length for entry in update.manifest.segments)
    assert device.session.goodput_bps is not None


def test_an_aggregator_that_lost_its_journal_gets_the_manifest_again(device: Device) -> None:
    update = device.train_round(1)
    device.have(update, 0, 1, 2)
    outputs = device.do(device.session.answered(update.uid, Want(2), now=device.now))
    assert SendManifest(update.uid) in outputs
    assert device.state is UPLOADING


def test_answers_about_other_updates_are_ignored(device: Device) -> None:
    assert device.receipt(device.small.upload(5)) == []


def test_an_update_whose_payload_is_lost_may_be_trained_again(device: Device) -> None:
    update = device.train_round(1)
    device.do(device.session.payload_lost(update.uid, now=device.now))
    assert device.state is IDLE
    device.command(1)
    assert len(device.all(StartTraining)) == 2


# -- another run -----------------------------------------------------------------------------------


def test_another_run_clears_everything(device: Device, small: Any) -> None:
    update = device.train_round(1)
    device.command(2)
    other = small.announcement(run=small.OTHER_RUN)
    outputs = device.do(device.session.announced(other, now=device.now))
    assert BeginRun(small.OTHER_RUN) in outputs
    assert Unsubscribe(1) in outputs
    assert device.state is IDLE
    assert device.session.base_model == "base"
    assert device.receipt(update) == []
    device.store(0)
    device.command(1, run=small.OTHER_RUN)
    assert device.state is FETCHING


def test_the_same_run_announced_again_clears_nothing(device: Device, small: Any) -> None:
    device.train_round(1)
    assert device.do(device.session.announced(small.announcement(), now=device.now)) == []
    assert device.state is UPLOADING


def test_a_session_that_knows_no_run_names_no_base_model(small: Any) -> None:
    assert Device(small).session.base_model is None


# -- what a round costs, and why it does not move --------------------------------------------------


def test_a_response_says_what_the_round_will_cost(small: Any) -> None:
    device = Device(small, goodput_bps=80_000.0, train_s=20.0)
    device.ready()
    command = TrainCommand(small.RUN, 1, 1, 0, 60.0, 7, 1_000_000, 1000)
    device.do(device.session.train(command, now=device.now))
    (respond,) = device.all(Respond)
    # Half of the 40 s after training, at 10,000 bytes a second.
    assert respond.response == TrainResponse(
        small.RUN, 1, accepted=True, update_bytes=200_000, upload_s=20.0, goodput_bps=80_000.0
    )
    device.now += 20.0
    assert device.session.cost(command, now=device.now).update_bytes == 100_000
    other = replace(command, round_id=2)
    assert device.session.cost(other, now=device.now).update_bytes == 200_000


def test_the_time_of_training_is_learnt(device: Device) -> None:
    device.command(1)
    device.store(0)
    device.now += 30.0
    device.commit(device.small.upload(1))
    assert device.all(RememberTraining) == [RememberTraining(30.0)]


def test_a_stall_is_named_and_progress_clears_it(device: Device) -> None:
    update = device.train_round(1)
    device.have(update)
    device.outputs.clear()
    wakeups = 0
    while not device.all(PublishStatus):
        wakeup = device.session.next_wakeup()
        assert wakeup is not None
        device.now = max(device.now, wakeup)
        device.do(device.session.tick(device.now))
        wakeups += 1
        assert wakeups < 20
    (status,) = device.all(PublishStatus)
    assert status == PublishStatus(UPLOADING, 1, "stalled: nothing accepted for 60 s")
    (told,) = device.all(PublishProgress)
    assert told.progress.stalled_s == 60.0
    device.outputs.clear()
    device.have(update, 0)
    assert device.all(PublishStatus) == [PublishStatus(UPLOADING, 1, "")]


def test_a_link_that_stays_down_is_told_to_nobody(device: Device) -> None:
    device.train_round(1)
    device.do(device.session.disconnected(device.now))
    device.outputs.clear()
    device.now += STALL_S
    assert device.do(device.session.tick(device.now)) == []
    device.do(device.session.connected(device.now))
    assert device.all(PublishStatus) == [PublishStatus(UPLOADING, 1, "")]


# -- pauses ----------------------------------------------------------------------------------------


HOT = "temperature: 86 °C, resumes below 80 °C"


def test_a_paused_device_says_so_and_declines(device: Device, small: Any) -> None:
    assert device.feel(86.0) == [PublishStatus(PAUSED, 0, HOT)]
    assert device.feel(84.0) == []
    outputs = device.command(1)
    assert outputs == [
        RememberEpoch(1),
        Respond(TrainResponse(small.RUN, 1, accepted=False, reason="paused")),
    ]
    device.evaluate(0)
    (declined,) = device.all(Respond)[1:]
    assert isinstance(declined.response, EvalResponse)
    assert (declined.response.reason, declined.response.tokens) == ("paused", 0)
    assert device.feel(70.0, times=7) == [PublishStatus(IDLE, 0, "")]
    device.command(1)
    assert device.state is FETCHING


def test_a_paused_device_uploads_what_it_has(device: Device) -> None:
    update = device.train_round(1)
    assert device.feel(86.0) == [PublishStatus(PAUSED, 1, f"{HOT}; 1 update waits")]
    assert [output for output in device.have(update) if isinstance(output, SendSegment)]
    device.have(update, 0, 1, 2)
    assert kinds(device.receipt(update)) == ["SettleUpdate", "PublishStatus"]
    assert device.all(PublishStatus)[-1] == PublishStatus(PAUSED, 0, HOT)


def test_a_device_that_starts_paused_offers_its_outbox(small: Any) -> None:
    update = small.upload(1)
    device = Device(small, uploads=(update,))
    device.pauses.hold = OperatorHold(drains=True, words="moves")
    device.ready()
    assert SendManifest(update.uid) in device.outputs
    assert device.all(PublishStatus) == [PublishStatus(PAUSED, 1, "drain: moves; 1 update waits")]
    device.receipt(update)
    assert device.all(PublishStatus)[-1] == PublishStatus(PAUSED, 0, "drained: moves")


def test_a_training_is_finished_and_uploaded_in_a_pause(device: Device) -> None:
    device.command(1)
    device.store(0)
    (told,) = device.feel(86.0)
    assert told == PublishStatus(PAUSED, 1, f"{HOT}; round 1 is finished first")
    assert device.state is TRAINING
    device.evaluate(0)  # waits for the training, and is declined then
    outputs = device.commit(device.small.upload(1))
    assert "SendManifest" in kinds(outputs)
    assert device.all(Respond)[-1].response.reason == "paused"
    assert device.state is UPLOADING


def test_a_next_round_is_declined_while_the_last_one_is_finished(device: Device) -> None:
    device.command(1)
    device.store(0)
    device.feel(86.0)
    device.command(2)
    response = device.all(Respond)[-1].response
    assert isinstance(response, TrainResponse)
    assert (response.round_id, response.reason) == (2, "paused")
    assert device.state is TRAINING


@pytest.mark.parametrize("is_retry", [False, True])
def test_a_task_that_has_not_begun_is_given_back(device: Device, *, is_retry: bool) -> None:
    device.command(1)
    if is_retry:
        device.store(0)
        device.fail(retryable=True)
    outputs = device.feel(86.0)
    assert "Respond" in kinds(outputs)
    assert device.all(Respond)[-1].response.reason == "paused"
    assert device.state is IDLE
    assert device.session.waiting == 0
    assert device.session.next_wakeup() is None


def test_great_heat_ends_a_task_which_may_be_asked_for_again(device: Device) -> None:
    device.command(1)
    device.store(0)
    (first,) = device.all(StartTraining)
    assert kinds(device.feel(95.0)) == ["PublishStatus"]
    assert kinds(device.feel(96.0)) == ["Respond", "EndTrainer", "PublishStatus"]
    assert device.all(Respond)[-1].response.reason == "temperature"
    device.do(device.session.trainer_gone(device.now))
    # A result that was on its way is of no task any more.
    result = TrainResult(first.task_id, Path("/p"))
    assert device.session.trained(result, now=device.now) == []
    device.do(device.session.trainer_ready(device.hello, now=device.now))
    device.feel(70.0, times=7)
    device.command(1)
    assert device.all(StartTraining) == [first, first]


def test_a_stall_is_named_in_a_pause_as_well(device: Device) -> None:
    update = device.train_round(1)
    device.have(update)
    device.feel(86.0)
    while "stalled" not in device.all(PublishStatus)[-1].reason:
        device.sleep()
    assert device.all(PublishStatus)[-1] == PublishStatus(
        PAUSED, 1, f"{HOT}; 1 update waits; stalled: nothing accepted for 60 s"
    )

"""What is known of one device, folded from its messages into bounded memory. Pure.

A device trains for one round while the update of the one before may still be on its way, so its
progress is two things: the training's steps, and the upload's segments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from tools.monitor import foreign
from tools.monitor.series import Series
from transport import control
from transport.control import DeviceState

GONE: Final = frozenset({DeviceState.OFFLINE, DeviceState.LOST})
# Every segment of every update is accepted.
_SENT: Final = frozenset({DeviceState.IDLE, DeviceState.AWAITING_RECEIPT})
# How a device that is paused says that it is not done with sending; what it has begun goes on.
_WAITS: Final = re.compile(
    r"(^|; )(1 update waits|\d+ updates wait|round \d+ is finished first)(;|$)"
)
# [s] An upload is measured over so long before its speed is told.
_MEASURED_S: Final = 3.0
# What the longest silence between two messages weighs once they come closer again.
_GAP_DECAY: Final = 0.9
_BITS: Final = 8


@dataclass(slots=True)
class Training:
    """How far a device is with a round's training."""

    round_id: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    eta_s: float | None = None
    micro_batch: int = 0
    out_of_memory: int = 0


@dataclass(slots=True)
class Uploading:
    """How far a device is with a round's update.

    Attributes:
        began_s: When its first progress was seen.
        began_bytes: What it had sent by then.
    """

    round_id: int = 0
    segments: int = 0
    sent: int = 0
    accepted: int = 0
    resent: int = 0
    bytes_sent: int = 0
    stalled_s: float = 0.0
    began_s: float = 0.0
    began_bytes: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all of it is accepted."""
        return self.accepted >= self.segments


@dataclass(slots=True)
class Profile:
    """What a device is."""

    board: str = ""
    agent_version: str = ""
    jetpack: str = ""
    ram_mb: int = 0
    examples: int = 0
    heldout_examples: int = 0
    base_precision: str = ""


@dataclass(slots=True)
class Feeling:
    """How a device feels; None where it cannot measure."""

    goodput_bps: float | None = None
    power_w: float | None = None
    temp_c: float | None = None
    cpu_pct: float | None = None
    gpu_pct: float | None = None
    ram_used_mb: int | None = None
    swap_used_mb: int | None = None
    disk_free_mb: int | None = None
    power_mode: str = ""
    on_mains: bool | None = None
    battery_pct: float | None = None


@dataclass(slots=True)
class Device:
    """One device as an observer knows it; moments are the observer's monotonic seconds.

    Attributes:
        since_s: When its state was seen to change; None where that was before anybody looked.
        said_ts: The moment that its status gives, Unix seconds of its own clock; 0 for none.
        heard_s: When anything was last heard live; None before that.
        moved_s: When its task was last seen to move: a state, a step, an accepted segment.
        gap_s: The longest usual silence between two of its messages.
        step_s: What a training step takes it.
        declined: Why it does not take part in round `declined_round`.
        sent, resent, accepted: Segments of all updates that were seen.
        restarts: New sessions that were seen.
        accepted_updates: Updates of which every segment was accepted.
    """

    client_id: str
    known_s: float
    state: DeviceState | None = None
    session: str = ""
    reason: str = ""
    round_id: int = 0
    since_s: float | None = None
    said_ts: float = 0.0
    heard_s: float | None = None
    moved_s: float = 0.0
    gap_s: float = 0.0
    step_s: float = 0.0
    declined: str = ""
    declined_round: int = 0
    update_bytes: int | None = None
    energy_j: float | None = None
    energy_round: int = 0
    eval_version: int = -1
    eval_loss: float | None = None
    sent: int = 0
    resent: int = 0
    accepted: int = 0
    restarts: int = 0
    accepted_updates: int = 0
    training: Training = field(default_factory=Training)
    upload: Uploading = field(default_factory=Uploading)
    profile: Profile = field(default_factory=Profile)
    feeling: Feeling = field(default_factory=Feeling)
    goodput: Series = field(default_factory=Series)
    power: Series = field(default_factory=Series)
    temperature: Series = field(default_factory=Series)

    def hear(self, now: float) -> None:
        """Note a live message of its own."""
        if self.heard_s is not None:
            self.gap_s = max(now - self.heard_s, _GAP_DECAY * self.gap_s)
        self.heard_s = now

    def say(self, status: control.DeviceStatus, *, now: float, is_live: bool) -> None:
        """Take what it is doing."""
        if status.state is not self.state:
            self.since_s = now if is_live or self.state is not None else None
            self.moved_s = now
        if self.session and status.session != self.session:
            self.restarts += 1
        if _has_nothing_to_send(status):
            self._settle()
        self.state, self.session = status.state, foreign.name(status.session)
        self.reason = foreign.text(status.reason)
        self.round_id = foreign.count(status.round_id)
        self.said_ts = foreign.positive(status.ts) or 0.0

    def progress(self, told: control.Progress, *, now: float) -> None:
        """Take how far it is with a training, or with an upload."""
        if told.segments > 0:
            self._send(told, now=now)
        else:
            self._train(told, now=now)

    def feel(self, told: control.Telemetry, *, now: float) -> None:
        """Take how it feels."""
        self.feeling = Feeling(
            goodput_bps=foreign.positive(told.goodput_bps),
            power_w=foreign.number(told.power_w),
            temp_c=foreign.number(told.temp_c),
            cpu_pct=foreign.number(told.cpu_pct),
            gpu_pct=foreign.number(told.gpu_pct),
            ram_used_mb=_count(told.ram_used_mb),
            swap_used_mb=_count(told.swap_used_mb),
            disk_free_mb=_count(told.disk_free_mb),
            power_mode=foreign.name(told.power_mode or ""),
            on_mains=told.on_mains,
            battery_pct=foreign.number(told.battery_pct),
        )
        self.goodput.add(now, self.feeling.goodput_bps)
        self.power.add(now, self.feeling.power_w)
        self.temperature.add(now, self.feeling.temp_c)

    def describe(self, told: control.DeviceProfile) -> None:
        """Take what it is."""
        self.profile = Profile(
            board=foreign.name(told.board),
            agent_version=foreign.name(told.agent_version),
            jetpack=foreign.name(told.jetpack),
            ram_mb=foreign.count(told.ram_mb),
            examples=foreign.count(told.examples),
            heldout_examples=foreign.count(told.heldout_examples),
            base_precision=foreign.name(told.base_precision),
        )

    def spend(self, told: control.EnergyReport) -> None:
        """Take what a round has cost it."""
        self.energy_j = foreign.positive(told.energy_j)
        self.energy_round = foreign.count(told.round_id)

    def answer(self, told: control.TrainResponse) -> None:
        """Take whether it trains for a round."""
        if told.accepted:
            self.declined, self.declined_round = "", 0
            self.update_bytes = _count(told.update_bytes)
            if self.feeling.goodput_bps is None:
                self.feeling.goodput_bps = foreign.positive(told.goodput_bps)
        else:
            self.declined = foreign.text(told.reason) or "no reason given"
            self.declined_round = foreign.count(told.round_id)

    def evaluate(self, told: control.EvalResponse) -> None:
        """Take how an adapter version does on its held-out text."""
        if told.tokens > 0:
            self.eval_version = foreign.count(told.version)
            self.eval_loss = foreign.number(told.loss)

    def goodput_bps(self, now: float) -> float | None:
        """Return what it gets accepted per second: its own measure, or what is seen of it.

        The lower of the two: its own is smoothed over a minute, and a link that has just turned bad
        would pass for a good one.
        """
        told = [self.feeling.goodput_bps, self._seen_bps(now)]
        return min((one for one in told if one is not None), default=None)

    def _seen_bps(self, now: float) -> float | None:
        upload = self.upload
        seconds = now - upload.began_s
        if upload.sent <= 0 or seconds < _MEASURED_S or upload.is_done:
            return None
        sent_bps = _BITS * max(upload.bytes_sent - upload.began_bytes, 0) / seconds
        return sent_bps * min(upload.accepted / upload.sent, 1.0)

    def _settle(self) -> None:
        """Take the upload as accepted whole, whatever was last told of it."""
        upload = self.upload
        if not upload.is_done:
            self.accepted += upload.segments - upload.accepted
            self.accepted_updates += 1
            upload.accepted, upload.stalled_s = upload.segments, 0.0

    def _train(self, told: control.Progress, *, now: float) -> None:
        before, round_id = self.training, foreign.count(told.round_id)
        step = foreign.count(told.step)
        if round_id == before.round_id and step > before.step and before.step:
            self.step_s = min((now - self.moved_s) / (step - before.step), now - self.known_s)
        if (round_id, step) != (before.round_id, before.step):
            self.moved_s = now
        self.training = Training(
            round_id=round_id,
            step=step,
            steps=foreign.count(told.steps),
            loss=foreign.number(told.loss),
            eta_s=foreign.positive(told.eta_s),
            micro_batch=foreign.count(told.micro_batch),
            out_of_memory=foreign.count(told.out_of_memory),
        )

    def _send(self, told: control.Progress, *, now: float) -> None:
        before = self.upload
        after = Uploading(
            round_id=foreign.count(told.round_id),
            segments=foreign.count(told.segments),
            sent=foreign.count(told.segments_sent),
            accepted=foreign.count(told.segments_accepted),
            resent=foreign.count(told.segments_resent),
            bytes_sent=foreign.count(told.bytes_sent),
            stalled_s=foreign.positive(told.stalled_s) or 0.0,
            began_s=before.began_s,
            began_bytes=before.began_bytes,
        )
        is_same = after.round_id == before.round_id and after.sent >= before.sent
        if not is_same:
            before = Uploading()
            after.began_s, after.began_bytes = now, after.bytes_sent
        if not is_same or after.accepted > before.accepted:
            self.moved_s = now
        self.sent += max(after.sent - before.sent, 0)
        self.resent += max(after.resent - before.resent, 0)
        self.accepted += max(after.accepted - before.accepted, 0)
        if after.is_done and not (is_same and before.is_done):
            self.accepted_updates += 1
        self.upload = after


def _has_nothing_to_send(status: control.DeviceStatus) -> bool:
    if status.state is DeviceState.PAUSED:
        return not _WAITS.search(status.reason)
    return status.state in _SENT


def _count(value: int | None) -> int | None:
    return None if value is None else foreign.count(value)

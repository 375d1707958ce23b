"""Which devices need somebody's attention, and why, in words: rules, the first that speaks counts.

    class     when                                                          ends
    refused   it is cloned, declines the round, or cannot trust what it     with the alert, the next
              was told; something of it was not let in a moment ago         round, or by itself
    lost      it said goodbye, the broker lost it, or no word came for      with its next word
              so long that the broker must have
    stalled   it says so, the aggregator says so, or nothing moves          when it moves
    paused    it takes no task, and says why                                when it takes tasks
    slow      it will not be done by the deadline, is far behind the        when it is not
              others, or sends much of it again
    ok        else

Pure. While the observer itself is cut off, no device is blamed for its silence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from tools.monitor.device import GONE, Device
from tools.monitor.words import duration_text, rate_text, twice_text
from tools.units import bytes_text
from transport.control import DeviceState

# [s] Without any word, where telemetry comes every 10 s by default: something is wrong.
SILENT_S: Final = 60.0
# [s] The broker notices a dead connection after 1.5 keepalives (90 s) and says so itself; who is
# silent for longer is lost whatever its status says.
LOST_S: Final = 180.0
# So many of a device's own usual pauses are its silence where these are longer.
_USUAL_PAUSES: Final = 3.0
# [s] Without a step or an accepted segment; twice what a device takes to say so itself.
STILL_S: Final = 120.0
# [s] The same before the first step, when a base model may have to be loaded.
STILL_AT_FIRST_S: Final = 600.0
_USUAL_STEPS: Final = 4.0
# A goodput below this share of the median of those who upload is slow.
SLOW_SHARE: Final = 0.25
# Of what was sent so much was sent twice; fewer repeats than this say nothing.
RESENT_SHARE: Final = 0.2
RESENT_LEAST: Final = 5

_BITS: Final = 8
_STALLS: Final = ("stalled: ", "aggregator silent", "no broker")
_FETCH_STALLED: Final = "fetch-stalled"
_UNSIGNED: Final = "signature"
# Reasons to decline a round with which nothing is wrong, or of which the status tells more.
_HARMLESS: Final = frozenset({"settled", "stale", "deadline", "paused", "temperature"})
_DECLINES: Final = {
    "base": "its base model is not the run's",
    "codec": "its software does not know the run's codec",
    "layout": "its adapter's layout is not the run's",
    "run": "what it fetched is of another run",
    "adapter": "it could not get the adapter",
    "epoch": "it has followed a later start of this run",
}
_WORKING: Final = frozenset({DeviceState.TRAINING, DeviceState.UPLOADING})


class Attention(str, Enum):
    """How much a device needs attention, the most urgent first."""

    REFUSED = "refused"
    LOST = "lost"
    STALLED = "stalled"
    PAUSED = "paused"
    SLOW = "slow"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a device is judged against.

    Attributes:
        now: The observer's monotonic seconds; those of the cut while it is cut off.
        linked_s: Since when it has been hearing: nobody was silent towards it before.
        round_id: The open round, 0 for none.
        deadline_s: When that closes, None without one.
        median_bps: The median goodput of the devices that are there; None for fewer than three.
        refused: Device → why something of it is not let in.
        stalled: The devices that the aggregator's alert names.
        clock: Says a moment of the observer's clock as people do, as "12:03".
        unix_clock: The same of Unix seconds.
    """

    now: float
    linked_s: float = 0.0
    round_id: int = 0
    deadline_s: float | None = None
    median_bps: float | None = None
    refused: dict[str, str] = field(default_factory=dict)
    stalled: Collection[str] = ()
    clock: Callable[[float], str] = lambda moment_s: f"{moment_s:.0f} s"
    unix_clock: Callable[[float], str] = lambda moment_s: f"{moment_s:.0f} s"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How much attention a device needs.

    Attributes:
        why: The reason alone; "" for ok.
        words: What it does and what is wrong, one line for people.
    """

    attention: Attention
    why: str
    words: str


def judge(device: Device, scene: Scene) -> Verdict:
    """Return how much attention a device needs, and why."""
    for attention, rule in _RULES:
        if why := rule(device, scene):
            words = f"{activity(device, scene)}: {why}" if attention in _TELLS_BOTH else why
            return Verdict(attention, why, words)
    return Verdict(Attention.OK, "", activity(device, scene))


def activity(device: Device, scene: Scene) -> str:
    """Return what a device does, in words."""
    match device.state:
        case DeviceState.TRAINING if not _has_trained(device):
            return _training(device)
        case DeviceState.TRAINING:
            return f"has trained, sends its update{_size(device, ' of ')}{_speed(device, scene)}"
        case DeviceState.UPLOADING:
            return _uploading(device, scene)
        case DeviceState.FETCHING:
            return "fetches the adapter"
        case DeviceState.IDLE if _is_in(device, scene):
            return "idle: its update is in"
        case DeviceState.AWAITING_RECEIPT:
            segments = device.upload.segments if _is_told(device) else 0
            sent = f"sent all of {segments} segments, " if segments else ""
            return f"{sent}waits for the receipt"
        case None:
            return "has not said what it does"
    return str(device.state.value)


def silence_s(device: Device, scene: Scene) -> float:
    """Return for how long a device has been silent although somebody listened."""
    heard_s = scene.linked_s if device.heard_s is None else device.heard_s
    return max(scene.now - max(heard_s, scene.linked_s, device.known_s), 0.0)


def is_there(device: Device) -> bool:
    """Say whether a device's goodput can be compared; it need not upload, it tells it itself."""
    return device.state is not None and device.state not in GONE


def _is_in(device: Device, scene: Scene) -> bool:
    upload = device.upload
    return bool(scene.round_id) and upload.round_id == scene.round_id and upload.is_done


def _training(device: Device) -> str:
    training = device.training
    if not training.steps:
        return "training: begins"
    left = "" if training.eta_s is None else f", {duration_text(training.eta_s)} left"
    memory = f", out of memory {training.out_of_memory} times" if training.out_of_memory else ""
    return f"training: step {training.step} of {training.steps}{left}{memory}"


def _has_trained(device: Device) -> bool:
    """Say whether all steps are done: word of the upload waits behind the upload on a slow link."""
    training = device.training
    return training.round_id == device.round_id and 0 < training.steps <= training.step


def _is_told(device: Device) -> bool:
    """Say whether what is known of an upload is of the one that is on, not of the one before."""
    return device.upload.segments > 0 and device.round_id in {0, device.upload.round_id}


def _uploading(device: Device, scene: Scene) -> str:
    upload, speed = device.upload, _speed(device, scene)
    if not _is_told(device):
        return f"uploads{_size(device, ' ')}{speed}"
    part = f"{upload.accepted} of {upload.segments} segments"
    return f"uploads{speed}, {part}{twice_text(upload.resent)}"


def _speed(device: Device, scene: Scene) -> str:
    goodput_bps = device.goodput_bps(scene.now)
    return "" if goodput_bps is None else f" at {rate_text(goodput_bps)}"


def _size(device: Device, gap: str) -> str:
    return f"{gap}{bytes_text(device.update_bytes)}" if device.update_bytes else ""


def _refused(device: Device, scene: Scene) -> str:
    if why := scene.refused.get(device.client_id):
        return why
    if device.reason == _UNSIGNED:
        return "does not believe the aggregator: its messages are not signed as they must be"
    if not device.declined or not scene.round_id or device.declined_round != scene.round_id:
        return ""
    if device.declined in _HARMLESS:
        return ""
    why = _DECLINES.get(device.declined, device.declined)
    return f"declined round {device.declined_round}: {why}"


def _gone(device: Device, scene: Scene) -> str:
    if device.state not in GONE:
        return ""
    word = "offline" if device.state is DeviceState.OFFLINE else "lost"
    if device.since_s is not None:
        return f"{word} since {scene.clock(device.since_s)}"
    # A last will was written when the device connected, so its moment is not that of the loss.
    if device.state is DeviceState.OFFLINE and device.said_ts:
        return f"offline since {scene.unix_clock(device.said_ts)}"
    return f"{word} since before anybody looked"


def _silent(device: Device, scene: Scene) -> str:
    seconds = silence_s(device, scene)
    return _no_word(seconds) if seconds >= max(LOST_S, _USUAL_PAUSES * device.gap_s) else ""


def _stalled(device: Device, scene: Scene) -> str:
    if device.reason == _FETCH_STALLED:
        return "nothing comes of the adapter that it asked for"
    if device.reason.startswith(_STALLS):
        return device.reason.removeprefix("stalled: ")
    seconds = silence_s(device, scene)
    if seconds >= max(SILENT_S, _USUAL_PAUSES * device.gap_s):
        return _no_word(seconds)
    if device.upload.stalled_s and not device.upload.is_done:
        return f"nothing accepted for {duration_text(device.upload.stalled_s)}"
    if device.client_id in scene.stalled and device.state is not DeviceState.PAUSED:
        return "the aggregator sees no progress"
    return _still(device, scene)


def _still(device: Device, scene: Scene) -> str:
    if device.state not in _WORKING:
        return ""
    seconds = scene.now - max(device.moved_s, scene.linked_s)
    if device.state is DeviceState.UPLOADING:
        return f"nothing accepted for {duration_text(seconds)}" if seconds >= STILL_S else ""
    patience_s = STILL_S if device.training.step else STILL_AT_FIRST_S
    is_still = seconds >= max(patience_s, _USUAL_STEPS * device.step_s)
    return f"no step for {duration_text(seconds)}" if is_still else ""


def _paused(device: Device, _: Scene) -> str:
    if device.state is not DeviceState.PAUSED:
        return ""
    return f"paused: {device.reason}" if device.reason else "paused"


def _slow(device: Device, scene: Scene) -> str:
    match device.state:
        case DeviceState.TRAINING if _has_trained(device):
            return _slow_link(device, scene, left_bytes=device.update_bytes or 0)
        case DeviceState.TRAINING if device.training.eta_s is not None:
            return _late(device.training.eta_s, device.training.round_id, scene)
        case DeviceState.UPLOADING if _is_told(device):
            return _slow_upload(device, scene)
        case DeviceState.UPLOADING:
            return _slow_link(device, scene, left_bytes=device.update_bytes or 0)
    return ""


def _slow_upload(device: Device, scene: Scene) -> str:
    upload = device.upload
    if upload.resent >= RESENT_LEAST and upload.resent >= RESENT_SHARE * upload.sent:
        return f"its link loses much: {100 * upload.resent / max(upload.sent, 1):.0f} % sent twice"
    segment_bytes = upload.bytes_sent / upload.sent if upload.sent else 0.0
    left_bytes = segment_bytes * (upload.segments - upload.accepted)
    return _slow_link(device, scene, left_bytes=left_bytes)


def _slow_link(device: Device, scene: Scene, *, left_bytes: float) -> str:
    goodput_bps = device.goodput_bps(scene.now)
    if not goodput_bps:
        return ""
    left_s = _BITS * left_bytes / goodput_bps
    round_id = device.upload.round_id if _is_told(device) else device.round_id
    if late := _late(left_s, round_id, scene):
        return late
    median_bps = scene.median_bps
    if median_bps and goodput_bps < SLOW_SHARE * median_bps:
        return f"the others have {rate_text(median_bps)}"
    return ""


def _late(left_s: float, round_id: int, scene: Scene) -> str:
    if scene.deadline_s is None or round_id != scene.round_id:
        return ""
    remaining_s = scene.deadline_s - scene.now
    if left_s <= remaining_s:
        return ""
    return (
        f"needs {duration_text(left_s)}, the round ends in {duration_text(remaining_s)}"
        if remaining_s > 0
        else f"needs {duration_text(left_s)}, the round's deadline has passed"
    )


def _no_word(seconds: float) -> str:
    return f"no word for {duration_text(seconds)}"


_RULES: Final[tuple[tuple[Attention, Callable[[Device, Scene], str]], ...]] = (
    (Attention.REFUSED, _refused),
    (Attention.LOST, _gone),
    (Attention.LOST, _silent),
    (Attention.STALLED, _stalled),
    (Attention.PAUSED, _paused),
    (Attention.SLOW, _slow),
)
# Where what it does still says something beside what is wrong.
_TELLS_BOTH: Final = frozenset({Attention.SLOW, Attention.STALLED})

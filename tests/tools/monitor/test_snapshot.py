"""The whole fold: any messages in any order, in bounds, and changes that add up to the snapshot."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.monitor import snapshot as module
from tools.monitor.document import apply
from tools.monitor.series import LIMIT
from tools.monitor.snapshot import MAX_DEVICES, Monitor
from transport import control, topics
from transport.control import DeviceState, RoundPhase, ServiceState

_NAMES = topics.Topics("clinics")
_IDS = st.sampled_from(["a", "b", "nano-01"])
_COUNTS = st.integers(-5, 60) | st.just(10**30)
_FIGURES = st.none() | st.floats(allow_nan=False, allow_infinity=False)
_TEXTS = st.sampled_from(
    ["", "signature", "stalled: x", "no progress: a uploading, b offline", "\x1b["]
)
_RUNS = st.sampled_from(["one", "two"])


def _messages() -> st.SearchStrategy[tuple[topics.Address, object]]:
    def of_device(leaf: str, kind: Any, **fields: Any) -> st.SearchStrategy[Any]:
        return st.tuples(
            st.builds(topics.DeviceTopic, _IDS, st.just(leaf)), st.builds(kind, **fields)
        )

    round_status = st.builds(
        control.RoundStatus, run=_RUNS, round_id=_COUNTS, phase=st.sampled_from(RoundPhase),
        deadline_s=st.floats(-1e300, 1e300), cohort=_COUNTS, goal=_COUNTS, quorum=_COUNTS,
        complete=_COUNTS, partial=_COUNTS, late=_COUNTS, bytes_up=_COUNTS, bytes_down=_COUNTS,
    )  # fmt: skip
    summary = st.builds(
        control.RoundSummary, run=_RUNS, round_id=_COUNTS, version=_COUNTS, participants=_COUNTS,
        complete=_COUNTS, partial=_COUNTS, late=_COUNTS, seconds=st.floats(-1e300, 1e300),
        bytes_up=_COUNTS, bytes_up_payload=_COUNTS, bytes_up_fp32=_COUNTS, bytes_down=_COUNTS,
        train_loss=_FIGURES, eval_version=_COUNTS, eval_loss=_FIGURES, eval_accuracy=_FIGURES,
        eval_tokens=_COUNTS, refused=st.just({}), energy_j=_FIGURES,
    )  # fmt: skip
    plan = control.TrainingPlan()
    run = st.builds(
        control.RunAnnouncement, run=_RUNS, base_model=_TEXTS, base_digest=_TEXTS,
        layout_digest=_TEXTS, codec=_TEXTS, rounds=_COUNTS, segment_bytes=_COUNTS,
        plan=st.just(plan),
    )  # fmt: skip
    model = st.builds(
        control.ModelStatus, run=_RUNS, version=_COUNTS, sha256=_TEXTS, bytes=_COUNTS,
        segments=_COUNTS, eval_loss=_FIGURES,
    )  # fmt: skip
    service = st.builds(
        control.ServiceStatus, state=st.sampled_from(ServiceState), session=_TEXTS, version=_TEXTS
    )
    response = st.builds(
        control.TrainResponse, run=_RUNS, round_id=_COUNTS, accepted=st.booleans(), reason=_TEXTS
    )
    alert = st.builds(
        control.AlertNotice, severity=_TEXTS, text=_TEXTS, count=_COUNTS, client_id=_IDS
    )
    codes = st.sampled_from(["stalled", "cloned", "refused-round"])
    return st.one_of(
        of_device(
            "status", control.DeviceStatus, state=st.sampled_from(DeviceState), session=_IDS,
            round_id=_COUNTS, reason=_TEXTS, ts=st.floats(-1e300, 1e300),
        ),
        of_device(
            "progress", control.Progress, round_id=_COUNTS, step=_COUNTS, steps=_COUNTS,
            eta_s=_FIGURES, segments=_COUNTS, segments_sent=_COUNTS, segments_accepted=_COUNTS,
            segments_resent=_COUNTS, bytes_sent=_COUNTS, stalled_s=st.floats(-1e300, 1e300),
        ),
        of_device(
            "telemetry", control.Telemetry, ts=st.just(0.0), goodput_bps=_FIGURES, power_w=_FIGURES,
            temp_c=_FIGURES,
        ),
        st.tuples(st.builds(topics.DeviceTopic, _IDS, st.just("status")), st.none()),
        st.tuples(st.builds(topics.Response, _IDS, st.just("train"), st.just("7")), response),
        st.tuples(st.builds(topics.Alert, codes), st.none() | alert),
        st.tuples(st.just(topics.RoundNow()), round_status),
        st.tuples(st.just(topics.RoundLast()), summary),
        st.tuples(st.just(topics.CoordRun()), run),
        st.tuples(st.just(topics.Model()), model),
        st.tuples(st.just(topics.CoordStatus()), st.none() | service),
    )  # fmt: skip


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["message", "message", "message", "tick", "changes", "linked", "unlinked"]),
        _messages(),
        st.sampled_from([0.0, 0.3, 30.0, 1000.0]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=80)
@given(_STEPS)
def test_any_messages_in_any_order_and_the_changes_say_what_the_snapshot_says(
    steps: list[tuple[str, tuple[topics.Address, object], float, bool]],
) -> None:
    monitor = Monitor("clinics", unix_offset_s=1e9)
    seen = monitor.snapshot()
    joined: dict[str, Any] | None = None
    now = 0.0
    for what, (address, message), pause_s, retained in steps:
        now += pause_s
        match what:
            case "message":
                payload = b"" if message is None else control.encode(message)
                monitor.receive(_NAMES.topic(address), payload, now=now, retained=retained)
            case "tick":
                monitor.tick(now)
            case "linked":
                monitor.linked(now)
            case "unlinked":
                monitor.unlinked("why", now=now)
            case _:
                # Somebody who comes later begins with a snapshot, wherever that falls.
                joined = joined or monitor.snapshot()
                changes = monitor.changes()
                apply(seen, changes)
                apply(joined, changes)
    late = monitor.changes()
    apply(seen, late)
    current = monitor.snapshot()
    assert seen == current
    if joined is not None:
        apply(joined, late)
        assert joined == current
    assert json.loads(json.dumps(current, allow_nan=False)) == current
    assert monitor.changes() == {}


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("fl/v1/clinics/d/a/status", b"no json"),
        ("fl/v1/clinics/d/a/status", b'{"state": "flying", "session": "x"}'),
        ("fl/v1/clinics/d/a/telemetry", b'{"ts": 1e999}'),
        ("fl/v1/clinics/d/a/progress", b"[" * 60_000),
        ("fl/v1/clinics/d/a/progress", b" " * 70_000),
        ("fl/v1/others/d/a/status", b"{}"),
        ("fl/v1/clinics/d/a/unheard-of", b"{}"),
        ("fl/v1/clinics/d/a/rsp/train/7", b"{}"),
        ("fl/v1/clinics/coord/run", b"{}"),
    ],
)
def test_what_cannot_be_read_is_counted_and_left_out(topic: str, payload: bytes) -> None:
    monitor = Monitor("clinics")
    before = monitor.snapshot()
    monitor.receive(topic, payload, now=0.0)
    after = monitor.snapshot()
    assert after["observer"]["malformed"] == 1
    assert after["devices"] == before["devices"] == {}


@pytest.mark.parametrize(
    "topic",
    [
        "fl/v1/clinics/round",
        "fl/v1/clinics/d/a/cmd/train/7",
        "fl/v1/clinics/d/a/rsp/ping/1",
        "flx/v1/clinics/want/a/7",
    ],
)
def test_what_says_nothing_here_is_no_error(topic: str) -> None:
    monitor = Monitor("clinics")
    monitor.receive(topic, b"", now=0.0)
    assert monitor.snapshot()["observer"]["malformed"] == 0


def test_more_devices_than_there_is_room_for_are_counted(desk: Any) -> None:
    for number in range(MAX_DEVICES + 5):
        desk.telemetry(f"d{number}")
    response = control.TrainResponse("run", 7, accepted=True)
    desk.hear(topics.Response("one-more", "train", "7"), response)
    snapshot = desk.monitor.snapshot()
    assert len(snapshot["devices"]) == MAX_DEVICES
    assert snapshot["observer"]["devices_left_out"] == 6


def test_500_devices_with_everything_that_is_kept_take_little_memory() -> None:
    """Ten of them say the longest that they may, for as long as anything is kept."""
    devices = 10
    tracemalloc.start()
    try:
        monitor = _filled(devices)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert monitor.snapshot()["observer"]["malformed"] == 0
    assert kept_bytes / devices * 500 < 50e6


def _filled(devices: int) -> Monitor:
    monitor = Monitor("clinics")
    long = "y" * 30_000
    status = control.encode(control.DeviceStatus(DeviceState.IDLE, "s", 7, long))
    profile = control.encode(control.DeviceProfile(long, long, "", "", "", 1, 1, 1, ""))
    figures = {"temp_c": 1.0, "power_w": 2.0, "goodput_bps": 3.0}
    rails = {f"rail-{number}": 1.0 for number in range(1_000)}
    telemetry = control.encode(control.Telemetry(0.0, **figures, rails_w=rails))
    for moment in range(LIMIT):
        for number in range(devices):
            root = f"fl/v1/clinics/d/device-{number}"
            monitor.receive(f"{root}/telemetry", telemetry, now=moment)
            if not moment:
                monitor.receive(f"{root}/status", status, now=moment)
                monitor.receive(f"{root}/info", profile, now=moment)
    monitor.changes()
    history = monitor.history("device-0")
    assert history is not None
    assert len(history["temp_c"]) == LIMIT
    return monitor


def test_the_link_is_told(desk: Any) -> None:
    monitor = desk.monitor
    assert monitor.snapshot()["link"]["state"] == "connecting"
    monitor.linked(1000.0)
    desk.now = 1001.0
    desk.telemetry("a")
    link = {"state": "connected", "since_s": 1000.0, "reason": "", "heard_s": 1001.0}
    assert monitor.snapshot()["link"] == link
    monitor.unlinked("cable", now=1010.0)
    monitor.unlinked("cable, still", now=1020.0)
    link = {"state": "disconnected", "since_s": 1010.0, "reason": "cable, still", "heard_s": 1001.0}
    assert monitor.snapshot()["link"] == link
    monitor.unlinked("not you", now=1030.0, is_final=True)
    assert monitor.snapshot()["link"]["state"] == "refused"


def test_a_clock_that_was_set_counts_from_then_on(desk: Any) -> None:
    desk.now = 0.0
    desk.monitor.set_clock(12 * 3600.0)
    desk.status("a", DeviceState.IDLE)
    desk.status("a", DeviceState.LOST)
    assert desk.told("a") == ("lost", "lost since 12:00")
    assert desk.monitor.snapshot()["unix_offset_s"] == 12 * 3600.0


def test_the_docstring_names_every_key(desk: Any) -> None:
    """The page and the stream are built on it."""
    desk.status("a", DeviceState.IDLE)
    desk.summary(6)
    desk.alert("stalled", "x")
    documented = set(re.findall(r"\w+", module.__doc__ or ""))
    snapshot = desk.monitor.snapshot()
    keys = set(snapshot)
    for section in ("link", "service", "run", "round", "model", "savings", "fleet", "observer"):
        keys |= set(snapshot[section])
    for section in ("devices", "rounds", "losses", "alerts", "alert_log"):
        keys |= set(next(iter(snapshot[section].values())))
    assert keys - documented == set()

"""A page of 500 devices, each of which says something every second."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from tools.soak.fleet import FEDERATION, Fleet, FleetSpec, NoMosquitto
from transport import control, topics
from transport.control import DeviceState

pytestmark = [pytest.mark.browser, pytest.mark.broker, pytest.mark.processes]

DEVICES = 500
BEATS_PER_S = 10
# [batches] After so many the page is judged.
ENOUGH = 24
# [ms] Between two batches: a page that needs longer never catches up. What is promised, a median
# below 100 ms, is printed; a machine that is busy otherwise does not reach it.
MOST_MS = 250.0
NAMES = topics.Topics(FEDERATION)


class Crowd:
    """Speaks for all devices: each says one thing a second, a tenth of them at a time."""

    def __init__(self, port: int) -> None:
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="crowd")
        self._client.max_inflight_messages_set(0)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.beats = 0
        self._begin()
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _begin(self) -> None:
        self._say(topics.CoordRun(), control.RunAnnouncement(
            "5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d", "/srv/base", "9f" * 32, "1c" * 32, "fstq-r", 20,
            32_768, control.TrainingPlan(),
        ))  # fmt: skip
        self._say(topics.RoundNow(), control.RoundStatus(
            "5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d", 1, control.RoundPhase.OPEN, 600.0, cohort=DEVICES,
            goal=400, quorum=200, complete=0, partial=0, late=0, bytes_up=0, bytes_down=0,
        ))  # fmt: skip
        for number in range(DEVICES):
            status = control.DeviceStatus(DeviceState.UPLOADING, "b07d", 1)
            self._say(topics.DeviceTopic(_name(number), "status"), status)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._ending.is_set():
            for number in range(self.beats % BEATS_PER_S, DEVICES, BEATS_PER_S):
                self._speak(number, self.beats // BEATS_PER_S)
            self.beats += 1
            self._ending.wait(max(began + self.beats / BEATS_PER_S - time.monotonic(), 0))

    def _speak(self, number: int, second: int) -> None:
        name = _name(number)
        if (number + second) % 2:
            told = control.Telemetry(
                0.0, goodput_bps=1e6 + 1e4 * (number * 7 % 97) + second, temp_c=40.0 + second % 9,
                power_w=8.0 + (number + second) % 5,
            )  # fmt: skip
            self._say(topics.DeviceTopic(name, "telemetry"), told, retained=False)
        else:
            sent = min(2 * second + number % 10, 200)
            told_more = control.Progress(
                1, segments=200, segments_sent=sent, segments_accepted=sent, bytes_sent=sent << 15
            )
            self._say(topics.DeviceTopic(name, "progress"), told_more, retained=False)

    def _say(self, address: topics.Address, message: object, *, retained: bool = True) -> None:
        self._client.publish(NAMES.topic(address), control.encode(message), retain=retained)


def _name(number: int) -> str:
    return f"nano-{number + 1:03}"


@pytest.fixture
def crowd(
    tmp_path: Path, chromium: object, serve: Callable[[Path, int], Any]
) -> Iterator[tuple[Crowd, Any]]:
    assert chromium is not None
    with Fleet(tmp_path / "fleet", FleetSpec(agents=1, rounds=1)) as fleet:
        try:
            fleet.start_broker()
        except NoMosquitto as error:
            pytest.skip(str(error))
        one = Crowd(fleet.port)
        yield one, serve(fleet.folder, fleet.port)
        one.close()


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_page_of_500_devices_keeps_up_with_them(
    crowd: tuple[Crowd, Any],
    browser: Any,
    size: tuple[int, int],
    record_property: Callable[[str, object], None],
) -> None:
    _, dashboard = crowd
    browser.resize(size)
    browser.open(dashboard.url)
    browser.wait(lambda: browser.text("shown") == f"{DEVICES} devices", "all of them")
    browser.do("void (window.fedfstq.recent.length = 0)")
    recent = "window.fedfstq.recent.filter((one) => one.renderMs !== null)"
    browser.wait(lambda: browser.do(f"{recent}.length") >= ENOUGH, "so many batches")
    batches = browser.do(recent)
    # Four batches a second: in each a quarter of the devices has said something.
    assert statistics.median(one["devices"] for one in batches) > DEVICES / 8
    took_ms = sorted(one["applyMs"] + one["renderMs"] for one in batches)
    median_ms, p90_ms = statistics.median(took_ms), took_ms[int(0.9 * len(took_ms))]
    apply_ms = statistics.median(one["applyMs"] for one in batches)
    record_property("median_ms", round(median_ms, 1))
    record_property("p90_ms", round(p90_ms, 1))
    print(f"{size[0]} px: median {median_ms:.1f} ms (script {apply_ms:.1f}), p90 {p90_ms:.1f} ms")  # noqa: T201  # the figure itself
    assert median_ms < MOST_MS
    assert browser.do("document.documentElement.scrollWidth") <= size[0]
    assert browser.complaints() == []
    browser.shoot(f"dashboard-500-{size[0]}")

from __future__ import annotations

from typing import Any

from transport.control import DeviceState


def test_a_fleet_is_the_sum_of_its_devices(desk: Any) -> None:
    assert desk.monitor.snapshot()["fleet"]["words"] == "no device is known yet"
    desk.status("a", DeviceState.UPLOADING)
    desk.telemetry("a", power_w=9.5, temp_c=52.5, goodput_bps=100.0)
    desk.status("b", DeviceState.IDLE)
    desk.telemetry("b", power_w=4.5, temp_c=62.5, goodput_bps=100.0)
    desk.telemetry("c", power_w=4.5, temp_c=99.0)
    desk.status("c", DeviceState.LOST)
    fleet = desk.monitor.snapshot()["fleet"]
    assert fleet == {
        "devices": 3,
        "attention": {"refused": 0, "lost": 1, "stalled": 0, "paused": 0, "slow": 0, "ok": 2},
        "states": {"idle": 1, "lost": 1, "uploading": 1},
        "power_w": 14.0,
        "goodput_bps": 100,
        "hottest_c": 62.5,
        "hottest_id": "b",
        "words": "3 devices: 1 lost, 2 ok",
    }


def test_every_device_has_the_same_keys(desk: Any) -> None:
    desk.telemetry("a")
    desk.status("b", DeviceState.UPLOADING)
    desk.upload("b", accepted=1, sent=2)
    devices = desk.monitor.snapshot()["devices"]
    assert devices["a"].keys() == devices["b"].keys()

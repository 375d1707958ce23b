"""What stands on a terminal, line by line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from tools.monitor.screen import bar, by_urgency, screen, sparkline
from transport import control, topics
from transport.control import DeviceState, ServiceState


def shown(desk: Any, *, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(screen(desk.monitor.snapshot(), width=width, height=height))
    lines = capture.get().splitlines()
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    return [line.rstrip() for line in lines]


@pytest.fixture
def fleet(desk: Any) -> Any:
    desk.monitor.linked(desk.now)
    desk.hear(topics.CoordStatus(), control.ServiceStatus(ServiceState.RUNNING, "s", "0.1.0"))
    desk.run()
    for round_id in range(1, 7):
        desk.summary(round_id, eval_loss=3.0 - 0.1 * round_id)
    desk.round(7)
    desk.hear(
        topics.Model(),
        control.ModelStatus("5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d", 6, "3e", 18_350_080, 560),
    )
    desk.status("nano-01", DeviceState.UPLOADING)
    desk.telemetry("nano-01", goodput_bps=12_000.0, power_w=9.8, temp_c=52.5)
    desk.upload("nano-01", accepted=14, sent=40, resent=9)
    desk.status("nano-02", DeviceState.PAUSED, "temperature: 86 °C, resumes below 80 °C")
    desk.status("nano-03", DeviceState.TRAINING)
    desk.training("nano-03", 3, eta_s=40.0)
    return desk


def test_a_small_terminal_has_everything_that_matters(fleet: Any) -> None:
    fleet.alert("stalled", "no progress: nano-09 offline", "nano-09", count=2)
    fleet.now += 0.2
    fleet.monitor.tick(fleet.now)
    assert shown(fleet) == [
        "clinics  connected  aggregator running  adapter 6 (18.4 MB)  fstq-r",
        "██████████████░░░░░░ round 7 of 20: 5 of 8 updates, 2 on their way, 6 min left",
        "held-out loss █▇▅▄▂▁ 2.400 at version 5, 2.900 at 0",
        "6.00 kB up in 6 rounds instead of 96.0 kB: 16.0 times less; 12.0 kB down",
        "3 devices: 1 paused, 1 slow, 1 ok; 10 W; hottest nano-01 52 °C",
        "device           what it does, and what is wrong                          W  °C",
        "nano-02 paused   paused: temperature: 86 °C, resumes below 80 °C",
        "nano-01 slow     uploads at 12 kbit/s, 14 of 40 segments; 9 sent        9.8  52",
        "                 twice: its link loses much: 22 % sent twice",
        "nano-03 ok       training: step 3 of 16, 40 s left",
        "alert stalled no progress: nano-09 offline (2 times), 0 s ago",
    ]


def test_a_large_terminal_has_the_figures_beside_the_words(fleet: Any) -> None:
    lines = shown(fleet, width=160, height=50)
    assert lines[1].endswith("6 min left; segments 14 of 40, 9 sent twice")
    header = next(line for line in lines if line.startswith("device"))
    assert header.split()[-6:] == ["loss", "goodput", "sent", "twice", "W", "°C"]
    slow = next(line for line in lines if line.startswith("nano-01"))
    assert slow.split()[-6:] == ["12", "kbit/s", "40", "9", "9.8", "52"]


def test_what_needs_attention_is_on_the_screen_and_the_rest_is_counted(desk: Any) -> None:
    for number in range(500):
        desk.status(f"nano-{number:03}", DeviceState.IDLE)
    desk.status("nano-499", DeviceState.LOST)
    for width, height in ((80, 24), (160, 50), (40, 10)):
        lines = shown(desk, width=width, height=height)
        assert lines[6].startswith("nano-499 lost")
        assert lines[-1].startswith("and 4")
        assert len(lines) == height


def test_many_alerts_leave_room_for_devices(fleet: Any) -> None:
    for number in range(9):
        fleet.alert(f"refused-{number}", "x" * 200)
    lines = shown(fleet)
    assert lines[-1] == "and 5 alerts more"
    assert any(line.startswith("nano-03") for line in lines)


def test_who_is_cut_off_says_so_first(fleet: Any) -> None:
    fleet.monitor.unlinked("no MQTT broker at here:1883", now=fleet.now)
    fleet.now += 40
    fleet.monitor.tick(fleet.now)
    lines = shown(fleet)
    assert lines[0] == "clinics  NOT CONNECTED for 40 s: no MQTT broker at here:1883"
    assert "last known: round" in lines[1]
    assert "left" not in lines[1]
    assert any(re.match(r"last known: \d+ devices: ", line) for line in lines)


def test_an_empty_federation_is_told_as_such(desk: Any) -> None:
    assert shown(desk)[:5] == [
        "clinics  CONNECTING: no answer yet",
        "no round has been opened yet",
        "no loss has been told yet",
        "no round has closed yet",
        "no device is known yet",
    ]


def test_training_losses_stand_in_where_nobody_evaluates(desk: Any) -> None:
    desk.summary(1, eval_loss=None)
    assert shown(desk)[2] == "training loss ▄ 2.200 at version 1"


def test_a_deadline_that_has_passed_and_energy_are_told(desk: Any) -> None:
    desk.summary(6, energy_j=31_842.5)
    desk.round(7, deadline_s=5.0)
    desk.pass_time(6)
    lines = shown(desk)
    assert lines[1].endswith("past its deadline")
    assert lines[3].endswith("; 31.8 kJ")


def test_no_text_of_a_device_draws_on_the_screen(desk: Any) -> None:
    desk.status("a", DeviceState.PAUSED, "[red]\x1b[2J\nfake")
    assert "paused: [red]�[2J�fake" in "\n".join(shown(desk))


def test_urgent_devices_come_first_and_numbers_in_their_order() -> None:
    attentions = {"d-10": "ok", "d-9": "ok", "9": "ok", "z": "lost"}
    rows = [{"id": name, "attention": one} for name, one in attentions.items()]
    assert [row["id"] for row in by_urgency(rows)] == ["z", "9", "d-9", "d-10"]


def test_lines_and_bars() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([1.0, 2.0, 3.0]) == "▁▅█"
    assert bar(1, 2, width=4) == "██░░"
    assert bar(3, 2, width=4) == "████"
    assert bar(3, 0, width=4) == "░░░░"

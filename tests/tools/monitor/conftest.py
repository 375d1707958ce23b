"""A monitor that is fed by hand, on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tools.monitor.snapshot import Monitor
from transport import control, topics
from transport.control import DeviceState, RoundPhase

RUN = "5f0c9d1e7a324b6f8c1d2e3f4a5b6c7d"


@dataclass
class Desk:
    """Speaks for a whole federation: `clinics`, whose devices are named at will."""

    monitor: Monitor = field(default_factory=lambda: Monitor("clinics"))
    now: float = 1000.0
    names: topics.Topics = field(default_factory=lambda: topics.Topics("clinics"))

    def hear(self, address: topics.Address, message: object, *, retained: bool = False) -> None:
        payload = control.encode(message) if message is not None else b""
        topic = self.names.topic(address)
        self.monitor.receive(topic, payload, now=self.now, retained=retained)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.monitor.tick(self.now)

    def device(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = self.monitor.snapshot()["devices"][name]
        return row

    def told(self, name: str) -> tuple[str, str]:
        row = self.device(name)
        return row["attention"], row["words"]

    def status(
        self,
        name: str,
        state: DeviceState,
        reason: str = "",
        *,
        session: str = "b07d",
        round_id: int = 7,
        ts: float = 0.0,
        retained: bool = False,
    ) -> None:
        message = control.DeviceStatus(state, session, round_id, reason, ts)
        self.hear(topics.DeviceTopic(name, "status"), message, retained=retained)

    def training(self, name: str, step: int, *, eta_s: float | None = None, **more: Any) -> None:
        told = control.Progress(7, step=step, steps=16, loss=2.2, eta_s=eta_s, **more)
        self.hear(topics.DeviceTopic(name, "progress"), told)

    def upload(self, name: str, accepted: int, sent: int, resent: int = 0, **more: Any) -> None:
        told = control.Progress(
            more.pop("round_id", 7),
            segments=more.pop("segments", 40),
            segments_sent=sent,
            segments_accepted=accepted,
            segments_resent=resent,
            bytes_sent=32_768 * sent,
            **more,
        )
        self.hear(topics.DeviceTopic(name, "progress"), told)

    def telemetry(self, name: str, **figures: Any) -> None:
        self.hear(topics.DeviceTopic(name, "telemetry"), control.Telemetry(0.0, **figures))

    def run(self, run: str = RUN, rounds: int = 20) -> None:
        plan = control.TrainingPlan()
        told = control.RunAnnouncement(
            run, "/srv/base", "9f" * 32, "1c" * 32, "fstq-r", rounds, 32_768, plan
        )
        self.hear(topics.CoordRun(), told)

    def round(self, round_id: int = 7, *, deadline_s: float = 400.0, **more: Any) -> None:
        told = control.RoundStatus(
            more.pop("run", RUN), round_id, more.pop("phase", RoundPhase.OPEN), deadline_s,
            cohort=11, goal=8, quorum=4, complete=more.pop("complete", 5), partial=2, late=0,
            bytes_up=100, bytes_down=200, **more,
        )  # fmt: skip
        self.hear(topics.RoundNow(), told)

    def summary(self, round_id: int, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "run": RUN, "round_id": round_id, "version": round_id, "participants": 9,
            "complete": 8, "partial": 1, "late": 2, "seconds": 100.0, "bytes_up": 1_000,
            "bytes_up_payload": 900, "bytes_up_fp32": 16_000, "bytes_down": 2_000,
            "train_loss": 2.2, "eval_version": round_id - 1, "eval_loss": 2.3,
            "eval_accuracy": 0.5, "eval_tokens": 1_000, "refused": {},
        }  # fmt: skip
        self.hear(topics.RoundLast(), control.RoundSummary(**(fields | changes)))

    def alert(
        self, code: str, text: str, client_id: str = "", *, count: int = 1, retained: bool = False
    ) -> None:
        notice = control.AlertNotice("warning", text, count, client_id)
        self.hear(topics.Alert(code), notice, retained=retained)

    def clear(self, code: str) -> None:
        self.hear(topics.Alert(code), None)


@pytest.fixture
def desk() -> Desk:
    return Desk()

"""Runs as values, made up: what a journal could hold, in any length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aggregator.account import Contribution, DeviceTraffic
from aggregator.evaluation import FleetEvaluation
from aggregator.tensors import TensorFigures
from tools.report.reading import DeviceRound, Round, Run
from transport.control import RoundSummary

LAYOUT = (("a.lora_A", 100), ("b.lora_B", 300))


def make_summary(round_id: int, **changes: Any) -> RoundSummary:
    values: dict[str, Any] = {
        "run": "ab" * 16,
        "round_id": round_id,
        "version": round_id,
        "participants": 2,
        "complete": 1,
        "partial": 1,
        "late": 1,
        "seconds": 12.5,
        "bytes_up": 1000,
        "bytes_up_payload": 700,
        "bytes_up_fp32": 8000,
        "bytes_down": 4000,
        "train_loss": 2.0 / round_id,
        "eval_version": round_id - 1,
        "eval_loss": 3.0 / round_id,
        "eval_accuracy": 0.5,
        "eval_tokens": 100,
        "refused": {"round": 1},
    }
    return RoundSummary(**values | changes)


def make_contribution(client_id: str, round_id: int, **changes: Any) -> Contribution:
    values: dict[str, Any] = {
        "uid": f"{client_id}-{round_id}",
        "client_id": client_id,
        "trained_for": round_id,
        "weight": 10.0,
        "examples": 20,
        "steps": 8,
        "train_s": 30.0,
        "train_loss": 2.0,
        "eval_loss": 3.0,
        "eval_tokens": 50,
        "accepted": 3,
        "segments": 4,
        "payload_bytes": 350,
        "norm": 1.5,
        "clipped": False,
    }
    return Contribution(**values | changes)


def make_round(
    round_id: int, *, names: tuple[str, ...] = ("dev-1", "dev-2"), **changes: Any
) -> Round:
    traffic = DeviceTraffic(
        payload_bytes=350,
        framing_bytes=50,
        mqtt_bytes=40,
        repeated_bytes=50,
        refused_bytes=10,
        packets=9,
        repeated_packets=1,
    )
    return Round(
        summary=make_summary(round_id, **changes),
        attempts=1,
        committed_at=1_800_000_000.0 + 60 * round_id,
        devices=tuple(
            DeviceRound(name, was_asked=True, traffic=traffic, energy_j=50.0, above_idle_j=20.0)
            for name in names
        ),
        contributions=tuple(make_contribution(name, round_id) for name in names),
        tensors=TensorFigures((150, 450), (0.25, 0.75)),
    )


def make_run(*rounds: Round, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "run": "ab" * 16,
        "starts": 1,
        "finished": True,
        "about": {"federation": "lab", "codec": "fstq-r", "rounds": len(rounds)},
        "base_model": "tiny",
        "layout": LAYOUT,
        "rounds": rounds,
        "open_round": None,
        "evaluation": FleetEvaluation(1.25, 0.6, 200, 2),
        "receipts": {("dev-1", "accepted"): len(rounds), ("dev-2", "partial"): len(rounds)},
    }
    return Run(**values | changes)


@pytest.fixture
def run_of() -> Callable[..., Run]:
    return make_run


@pytest.fixture
def round_of() -> Callable[..., Round]:
    return make_round

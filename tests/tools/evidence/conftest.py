"""Trial files, made up: every method's loss falls by a law, at its own bytes per round."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.evidence.commands import axes_of
from tools.evidence.contest import Contest, contest_of
from tools.evidence.reading import Trial, read_folder, read_trial
from tools.evidence.targets import Comparison, compare

# Bytes of one client's update, and how fast the loss falls beside the baseline's.
METHODS: dict[str, tuple[int, float]] = {
    "fp32": (400_000, 1.0),
    "fp32,momentum=0.9": (400_000, 1.1),
    "fp16": (200_000, 1.0),
    "eden@1": (12_500, 0.85),
    "sign,ef": (12_500, 0.6),
    "top-k@0.5,ef": (6_000, 0.5),
    "fstq@2,mask=hard": (25_000, 0.7),
    "fstq@4,mask=hard": (50_000, 0.8),
    "fstq-r@0.15:0.8": (4_000, 1.2),
    "fstq+@0.25,ef": (3_000, 0.9),
    "fstq+@0.25,ef,importance=random": (3_000, 0.5),
    "fstq+@0.25,ef,importance=uniform": (3_000, 0.8),
    "fstq-random@0.25,ef": (3_000, 0.45),
}

Write = Callable[..., Path]


def header(**changes: Any) -> dict[str, Any]:
    trial = {
        "workload": "med",
        "alpha": 0.1,
        "clients": 8,
        "cohort": 3,
        "dropout": 0.0,
        "rank": 16,
        "lora_alpha": 32,
        "model": "tools/base",
        "base_digest": "ab" * 8,
        "local": {"local_steps": 4, "batch_size": 4, "learning_rate": 1e-3},
        "slowdown": {"share": 0.3, "factor": [2, 4]},
        "rounds": 20,
        "seed": 0,
        "segment_bytes": 32768,
        "heldout_rows": 64,
        "evaluate_every": 1,
        "target_share": 0.5,
        "baseline": "fp32",
        "method": "fp32",
    } | changes
    name = f"{trial['workload']}-a{trial['alpha']}-s{trial['seed']}-{trial['method']}"
    return {
        "kind": "trial",
        "format": 1,
        "experiment": "uplink",
        "trial": trial,
        "fingerprint": "5f0e",
        "command": f"fedfstq simulate experiment uplink.yaml --only trial={name}",
        "machine": "2 cores",
        "versions": {"numpy": "2.1"},
        "git": "0123abc",
        "started": "2026-11-23T10:00:00Z",
    }


def round_lines(
    trial: dict[str, Any], *, bytes_up: int, bytes_down: int, speed: float, frames: int
) -> list[dict[str, Any]]:
    """Return the rounds of a trial whose loss falls exponentially, with some noise of its seed."""
    noise = np.random.default_rng(
        [trial["seed"], *trial["method"].encode(), *trial["workload"].encode()]
    )
    rate = speed * 0.12 * math.exp(0.03 * 4 * noise.standard_normal())
    lines: list[dict[str, Any]] = [
        {"kind": "round", "round": 0, "loss": 4.0, "accuracy": 0.2, "bytes_up": 0, "wire_up": 0,
         "bytes_down": 0, "seconds": 0.5},
    ]  # fmt: skip
    for number in range(1, trial["rounds"] + 1):
        loss = 2 + 2 * math.exp(-rate * number)
        names = [f"c{(number + at) % trial['clients']:02}" for at in range(trial["cohort"])]
        lines.append(
            {
                "kind": "round",
                "round": number,
                "loss": loss if number % trial["evaluate_every"] == 0 else None,
                "accuracy": 0.2 + 0.1 * (4 - loss),
                "bytes_up": number * bytes_up * trial["cohort"],
                "wire_up": number * (bytes_up + frames) * trial["cohort"],
                "bytes_down": number * bytes_down * trial["cohort"],
                "clients": [
                    {"id": name, "bytes": bytes_up, "wire": bytes_up + frames, "train_s": 0.3,
                     "encode_s": 0.01, "arrived": True, "examples": 20}
                    for name in names
                ],
                "seconds": 1.0,
            }
        )  # fmt: skip
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_trial(
    folder: Path,
    *,
    bytes_up: int | None = None,
    bytes_down: int = 400_000,
    speed: float | None = None,
    failure: str = "",
    frames: int = 0,
    quality: dict[str, float] | None = None,
    experiment: str = "uplink",
    **changes: Any,
) -> Path:
    """Write one trial's file, of the method's own law where nothing else is said."""
    head = header(**changes) | {"experiment": experiment}
    trial = head["trial"]
    usual = METHODS.get(trial["method"], (10_000, 1.0))
    rounds = round_lines(
        trial,
        bytes_up=bytes_up or usual[0],
        bytes_down=bytes_down,
        speed=usual[1] if speed is None else speed,
        frames=frames,
    )
    end = {"kind": "end", "ok": not failure} | ({"why": failure} if failure else {})
    middle = [{"kind": "quality", **quality}] if quality else []
    place = "-".join(str(trial[key]) for key in ("workload", "alpha", "dropout", "seed", "method"))
    name = f"{place.replace(',', '_').replace(':', '~')}.jsonl"
    lines = [head, *(rounds[:3] if failure else rounds), *middle, end]
    return write_lines(folder / experiment / name, lines)


def write_matrix(
    folder: Path,
    *,
    seeds: int = 5,
    workloads: tuple[str, ...] = ("med",),
    methods: tuple[str, ...] = tuple(METHODS),
    **changes: Any,
) -> Path:
    """Write the trials of all methods."""
    for workload in workloads:
        for seed in range(seeds):
            for method in methods:
                write_trial(folder, workload=workload, seed=seed, method=method, **changes)
    return folder


@pytest.fixture
def trial_file() -> Write:
    return write_trial


@pytest.fixture
def matrix() -> Write:
    return write_matrix


@pytest.fixture
def lines_file() -> Write:
    return write_lines


@pytest.fixture
def head_of() -> Callable[..., dict[str, Any]]:
    return header


@pytest.fixture
def trial_of(tmp_path: Path) -> Callable[..., Trial]:
    """Makes a trial with given losses and bytes: `trial_of([4, 3], [0, 10])`."""

    def make(losses: list[Any], sent: list[float], **changes: Any) -> Trial:
        head = header(rounds=len(losses) - 1, **changes)
        rounds = [
            {"kind": "round", "round": at, "loss": loss, "bytes_up": count}
            for at, (loss, count) in enumerate(zip(losses, sent, strict=True))
        ]
        path = tmp_path / "one.jsonl"
        trial = read_trial(write_lines(path, [head, *rounds, {"kind": "end", "ok": True}]))
        assert trial is not None
        return trial

    return make


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """All methods, five seeds, one workload."""
    trials = read_folder(write_matrix(tmp_path_factory.mktemp("trials"))).trials
    return compare(trials, axes_of(trials))


@pytest.fixture(scope="session")
def contest(comparison: Comparison) -> Contest:
    return contest_of(comparison)

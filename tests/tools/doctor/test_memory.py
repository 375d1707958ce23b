"""Memory against what the base model takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.memory import judge_service_memory, judge_swap, judge_trainer_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("available", "weights", "is_loaded", "state"),
    [
        (8 * GIB, 3 * GIB, False, State.OK),
        (4 * GIB, 3 * GIB, False, State.WARN),
        (3 * GIB, 3 * GIB, False, State.FAIL),
        (3 * GIB, 3 * GIB, True, State.OK),
        (1 * GIB, None, False, State.OK),
    ],
)
def test_the_base_model_and_its_training_must_fit(
    available: int, weights: int | None, state: State, *, is_loaded: bool
) -> None:
    assert judge_trainer_memory(available, weights=weights, is_loaded=is_loaded).state is state


def test_a_service_needs_little() -> None:
    assert judge_service_memory(GIB).state is State.OK
    assert judge_service_memory(GIB // 10).state is State.WARN


def test_a_small_board_needs_swap() -> None:
    assert judge_swap(0, total=8 * GIB).state is State.WARN
    assert judge_swap(GIB, total=8 * GIB).state is State.OK
    assert judge_swap(0, total=64 * GIB).state is State.OK


def test_half_the_bits_on_disk_are_twice_the_memory_on_a_cpu(
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Callable[..., dict[str, Finding]],
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weights = model / "model.safetensors"
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1 << 15, 1 << 15]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "proc").mkdir()
    lines = {"MemTotal": 16, "MemAvailable": 8, "SwapTotal": 1}
    text = "".join(f"{name}: {gib << 20} kB\n" for name, gib in lines.items())
    (tmp_path / "proc/meminfo").write_text(text)
    context = Context(agent_config(model=str(model)), root=tmp_path)
    found = examine("memory", context)
    assert "weights take 4.0 GiB" in found["memory"].text
    assert found["swap"].text == "1.0 GiB"
    context.known.has_cuda = True
    assert "weights take 2.0 GiB" in examine("memory", context)["memory"].text
    weights.write_bytes(b"torn")
    assert "is not known" in examine("memory", context)["memory"].text


def test_a_kernel_that_tells_nothing_is_skipped(
    tmp_path: Path, examine: Callable[..., dict[str, Finding]]
) -> None:
    found = examine("memory", Context(root=tmp_path))
    assert found["memory"].state is State.SKIP

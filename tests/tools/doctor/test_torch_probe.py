"""torch and CUDA by what a child process tells of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.config import AgentConfig
from tools.doctor import torch_probe
from tools.doctor.context import Context
from tools.doctor.finding import State
from tools.doctor.torch_probe import (
    TorchTold,
    ask_python,
    judge_cuda,
    judge_quantised,
    judge_torch,
    read_torch,
    vendor_torch,
)

CPU = TorchTold("2.6.0+cpu")
CUDA = TorchTold("2.6.0", "12.6", usable=True, name="Orin")
BROKEN = TorchTold("2.6.0", "12.6", error="no kernel image")
NONE = TorchTold("", error="ModuleNotFoundError: No module named 'torch'")


@pytest.mark.parametrize(
    ("told", "jetson", "state", "mend"),
    [
        (CPU, False, State.OK, ""),
        (CPU, True, State.FAIL, "the vendor's"),
        (CUDA, True, State.OK, ""),
        (CUDA, False, State.OK, ""),
        (NONE, True, State.FAIL, "the vendor's"),
        (NONE, False, State.FAIL, "fedfstq[agent]"),
    ],
)
def test_a_torch_without_cuda_is_wrong_on_a_jetson(
    told: TorchTold, state: State, mend: str, *, jetson: bool
) -> None:
    found = judge_torch(told, jetson=jetson, vendor="the vendor's")
    assert found.state is state
    assert mend in found.mend


@pytest.mark.parametrize(
    ("told", "jetson", "wanted", "state"),
    [
        (CUDA, True, "auto", State.OK),
        (CUDA, True, "cpu", State.OK),
        (BROKEN, True, "auto", State.FAIL),
        (CPU, True, "auto", State.FAIL),
        (CPU, True, "cpu", State.OK),
        (CPU, False, "auto", State.OK),
        (CPU, False, "cuda", State.FAIL),
        (BROKEN, False, "cuda", State.FAIL),
    ],
)
def test_a_gpu_that_is_wanted_must_compute(
    told: TorchTold, wanted: str, state: State, *, jetson: bool
) -> None:
    assert judge_cuda(told, jetson=jetson, wanted=wanted, vendor="v").state is state


@pytest.mark.parametrize(
    ("wanted", "tried", "state"),
    [
        ("auto", {"bitsandbytes": "no", "torchao": ""}, State.OK),
        ("auto", {"bitsandbytes": "no", "torchao": "no"}, State.WARN),
        ("torchao", {"torchao": "no"}, State.FAIL),
    ],
)
def test_one_library_that_quantises_is_enough(
    wanted: str, tried: dict[str, str], state: State
) -> None:
    assert judge_quantised(wanted, tried).state is state


def test_jetpack_6_has_an_index_of_its_own() -> None:
    assert "jp6" in vendor_torch(6)
    assert "jp6" not in vendor_torch(7)
    assert "NVIDIA" in vendor_torch(None)


def test_a_child_is_asked_and_its_last_word_kept() -> None:
    assert ask_python("-c", 'print(1); print(\'{"torch": "2"}\')') == ({"torch": "2"}, "")
    told, error = ask_python("-c", "raise ValueError('wrong')")
    assert (told, error) == ({}, "ValueError: wrong")
    assert ask_python("-c", "import os; os._exit(3)") == ({}, "it ended with code 3")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (({"torch": "2", "cuda": "12", "usable": True, "name": "n"}, ""), ("2", "12", True, "")),
        (({}, "it broke"), ("", "", False, "it broke")),
    ],
)
def test_an_answer_may_be_short(
    answer: tuple[dict[str, Any], str], expected: tuple[object, ...]
) -> None:
    told = read_torch(answer)
    assert (told.version, told.cuda, told.usable, told.error) == expected


@pytest.mark.parametrize(
    ("torch", "probe", "expected"),
    [
        ({}, {}, ["FAIL", "SKIP", "SKIP"]),
        ({"torch": "2.6"}, {}, ["OK", "OK", "OK"]),
        (
            {"torch": "2.6", "cuda": "12.6", "usable": True},
            {"works": True},
            ["OK", "OK", "OK"],
        ),
        (
            {"torch": "2.6", "cuda": "12.6", "usable": True},
            {"works": False, "reason": "no kernel"},
            ["OK", "OK", "WARN"],
        ),
    ],
)
def test_each_child_is_asked_when_it_matters(
    monkeypatch: pytest.MonkeyPatch,
    agent_config: Callable[..., AgentConfig],
    torch: dict[str, Any],
    probe: dict[str, Any],
    expected: list[str],
) -> None:
    def ask(*arguments: str) -> tuple[dict[str, Any], str]:
        return (torch, "gone") if arguments[0] == "-c" else (probe, "")

    monkeypatch.setattr(torch_probe, "ask_python", ask)
    context = Context(agent_config())
    assert [one.state.value for one in torch_probe.examine_torch(context)] == expected
    assert context.known.has_cuda is bool(torch.get("usable"))


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_probe, "PROBE_S", 0.05)
    assert "no answer" in ask_python("-c", "import time; time.sleep(60)")[1]

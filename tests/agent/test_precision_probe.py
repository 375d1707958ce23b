"""The trial goes the trainer's way, and sees gradients that are wrong without an error."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from agent import precision_probe
from agent.precision_probe import compare, main, trouble
from agent.quantized import Library

pytestmark = pytest.mark.torch
Change = Callable[[torch.nn.Module], None]


@pytest.fixture(name="quantises")
def set_quantiser(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Let a model loaded in full, changed by the test, stand for a quantised one."""

    def quantises(change: Change) -> None:
        def load(folder: Path, library: Library, *, dtype: Any, device: str) -> Any:
            assert (library, device) == (Library.TORCHAO, "cpu")
            base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            change(base)
            return base

        monkeypatch.setattr(precision_probe, "load_quantized", load)

    monkeypatch.setattr(precision_probe, "hide_others", lambda _library: None)
    return quantises


def round_weights(base: torch.nn.Module) -> None:
    """Do what 8 bits for each weight do."""
    for name, parameter in base.named_parameters():
        if "proj" in name:
            scale = parameter.detach().abs().max() / 127
            parameter.data = (parameter.data / scale).round() * scale


def lose_gradients(base: torch.nn.Module) -> None:
    """Do what a kernel without a derivative does: the forward pass is right, nothing goes back."""
    for name, module in base.named_modules():
        if name.endswith("down_proj"):
            module.register_forward_hook(lambda _module, _inputs, output: output.detach())


def refuse(_base: torch.nn.Module) -> None:
    raise RuntimeError("no kernel image is available\nsecond line")


def test_what_only_rounds_weights_works(quantises: Callable[[Change], None]) -> None:
    quantises(round_weights)
    assert trouble(Library.TORCHAO, "cpu") == ""


def test_gradients_that_are_lost_without_an_error_are_seen(
    quantises: Callable[[Change], None], capfd: pytest.CaptureFixture[str]
) -> None:
    quantises(lose_gradients)
    assert main("torchao", "cpu") == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert answer["works"] is False
    assert answer["reason"].startswith("its gradients are wrong (cosine 0.")


def test_an_error_is_a_reason_in_one_line(
    quantises: Callable[[Change], None], capfd: pytest.CaptureFixture[str]
) -> None:
    quantises(refuse)
    assert main("torchao", "cpu") == 0
    answer = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert answer == {"works": False, "reason": "RuntimeError: no kernel image is available"}


@pytest.mark.parametrize("library", list(Library))
def test_a_library_that_is_installed_passes_or_says_why_not(library: Library) -> None:
    """In the child that the trainer starts; the extra `qlora` installs both."""
    # By its name: another test may have hidden the module from this process.
    if library.value not in packages_distributions():
        pytest.skip(f"{library.value} is not installed")
    command = [sys.executable, "-m", "agent.precision_probe", library.value, "cpu"]
    child = subprocess.run(command, capture_output=True, timeout=120, check=True)
    answer = json.loads(child.stdout.splitlines()[-1])
    assert answer["works"] is (answer["reason"] == "")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([1.0, 2.0], ""),
        ([1.1, 1.9], ""),
        ([0.5, 1.0], "its gradients are wrong (cosine 1.00, 0.50 times as long)"),
        ([2.0, -1.0], "its gradients are wrong (cosine 0.00, 1.00 times as long)"),
        ([0.0, 0.0], "its gradients are wrong (cosine 0.00, 0.00 times as long)"),
        ([float("nan"), 2.0], "its gradients are not finite"),
    ],
)
def test_gradients_are_compared_in_direction_and_length(found: list[float], reason: str) -> None:
    assert compare(torch.tensor([1.0, 2.0]), torch.tensor(found)) == reason

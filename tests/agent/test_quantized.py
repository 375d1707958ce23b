"""Which numbers hold the base model: the rule, the trial in a child, and what is kept of it."""

import json
import sys
import types
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agent import quantized
from agent.base import BaseError
from agent.quantized import Choice, Library, Verdict, choose, held_bytes, hide_others, probe

GIB = 1 << 30
WORKS = 'print("noise"); print(\'{"works": true, "reason": ""}\')'


def verdicts(**works: bool) -> Any:
    """Return a probe with prepared verdicts; asking for another is a failure of the test."""
    return lambda library: Verdict(
        works[library.value], f"{library.value} {'works' if works[library.value] else 'fails'}"
    )


def chosen(wanted: Any, probe: Any, *, full: int | None = 6 * GIB) -> Choice:
    return choose(wanted, full_bytes=full, memory_bytes=8 * GIB, probe=probe)


def test_full_asks_nobody() -> None:
    assert chosen("full", verdicts()) == Choice(None, "configured")


def test_a_model_that_takes_half_of_the_memory_stays_in_full_and_nobody_is_asked() -> None:
    choice = chosen("auto", verdicts(), full=4 * GIB)
    assert choice == Choice(None, "in full it takes 50 % of the memory")
    assert chosen("auto", verdicts(), full=None).library is None


@pytest.mark.parametrize(
    ("works", "library", "reason"),
    [
        ({"bitsandbytes": True}, Library.BITSANDBYTES, "bitsandbytes works"),
        (
            {"bitsandbytes": False, "torchao": True},
            Library.TORCHAO,
            "bitsandbytes fails; torchao works",
        ),
        ({"bitsandbytes": False, "torchao": False}, None, "bitsandbytes fails; torchao fails"),
    ],
)
def test_a_larger_one_takes_the_first_that_works(
    works: dict[str, bool], library: Library | None, reason: str
) -> None:
    choice = chosen("auto", verdicts(**works))
    assert choice == Choice(library, f"in full it takes 75 % of the memory; {reason}")


def test_a_library_asked_for_by_name_is_taken_or_the_configuration_is_wrong() -> None:
    choice = chosen("torchao", verdicts(torchao=True), full=1)
    assert choice == Choice(Library.TORCHAO, "configured; torchao works")
    with pytest.raises(BaseError, match="bitsandbytes fails; set base_precision to auto or full"):
        chosen("bitsandbytes", verdicts(bitsandbytes=False))


@pytest.fixture(name="version")
def set_version(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of what is installed, by distribution."""
    versions = {"torchao": "0.9", "torch": "2.8"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    return versions


def tried(
    cache: Path, program: str, *, library: Library = Library.TORCHAO, timeout_s: float = 60.0
) -> Verdict:
    command = [sys.executable, "-c", program]
    return probe(library, device="cpu", cache=cache, command=command, timeout_s=timeout_s)


@pytest.mark.usefixtures("version")
def test_a_library_that_is_not_installed_is_not_tried(tmp_path: Path) -> None:
    verdict = tried(tmp_path / "c", "raise SystemExit(1)", library=Library.BITSANDBYTES)
    assert verdict == Verdict(works=False, reason="bitsandbytes is not installed")
    assert not (tmp_path / "c").exists()


def test_a_verdict_is_kept_for_the_same_versions_and_device(
    tmp_path: Path, version: dict[str, str]
) -> None:
    cache = tmp_path / "state" / "c"
    assert tried(cache, WORKS) == Verdict(works=True, reason="torchao 0.9 works here")
    assert tried(cache, "raise SystemExit(1)").works, "it was tried again"
    for name in ("torch", "torchao"):
        version[name] += ".1"
        assert not tried(cache, "raise SystemExit(1)").works
        assert tried(cache, WORKS) == Verdict(
            works=False,
            reason=f"torchao {version['torchao']} does not work here: its trial ends with exit "
            "code 1",
        )


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it crashes (signal 11)"),
        ("import os; os.abort()", "it crashes (signal 6)"),
        ("print('no json')", "its trial ends with exit code 0"),
        ("print('{}')", "its trial ends with exit code 0"),
        ('print(\'{"works": 1, "reason": 2}\')', "its trial ends with exit code 0"),
        (
            'print(\'{"works": false, "reason": "its gradients are wrong"}\')',
            "its gradients are wrong",
        ),
    ],
)
def test_a_trial_that_fails_is_a_verdict_and_kept(
    tmp_path: Path, program: str, reason: str
) -> None:
    verdict = tried(tmp_path / "c", program)
    assert verdict == Verdict(works=False, reason=f"torchao 0.9 does not work here: {reason}")
    assert tried(tmp_path / "c", WORKS) == verdict


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    ("program", "timeout_s", "reason"),
    [
        ("import time; time.sleep(60)", 0.5, "without an end"),
        ("import os; os.kill(os.getpid(), 9)", 60.0, "ended by signal 9"),
    ],
)
def test_a_trial_that_something_else_may_have_ended_is_made_again(
    tmp_path: Path, program: str, timeout_s: float, reason: str
) -> None:
    verdict = tried(tmp_path / "c", program, timeout_s=timeout_s)
    assert not verdict.works
    assert reason in verdict.reason
    assert tried(tmp_path / "c", WORKS).works


@pytest.mark.usefixtures("version")
def test_a_trial_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    command = [str(tmp_path / "absent")]
    verdict = probe(Library.TORCHAO, device="cpu", cache=tmp_path / "c", command=command)
    assert verdict.reason == "torchao 0.9 could not be tried: No such file or directory"


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("content", ["", "[]", '{"torchao": 3}', '{"torchao": {"stamp": 1}}'])
def test_a_damaged_cache_costs_another_trial(tmp_path: Path, content: str) -> None:
    (tmp_path / "c").write_text(content)
    assert tried(tmp_path / "c", WORKS).works
    assert json.loads((tmp_path / "c").read_text())["torchao"]["works"] is True


@pytest.mark.usefixtures("version")
def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert tried(tmp_path / "file" / "c", WORKS).works


def test_libraries_that_are_not_used_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft would import bitsandbytes, which may crash, to train a model in full."""
    for library in Library:
        monkeypatch.delitem(sys.modules, library.value, raising=False)
        monkeypatch.setitem(sys.modules, library.value, None)
        del sys.modules[library.value]
    hide_others(Library.TORCHAO)
    assert sys.modules.get("torchao", "untouched") == "untouched"
    with pytest.raises(ImportError):
        __import__("bitsandbytes")


def test_what_quantised_tensors_hold_is_counted_and_not_what_they_stand_for() -> None:
    plain = torch.zeros(10, dtype=torch.bfloat16)
    packed = SimpleNamespace(
        numel=lambda: 32,
        element_size=lambda: 1,
        quant_state=SimpleNamespace(
            absmax=torch.zeros(2, dtype=torch.uint8), state2=SimpleNamespace(absmax=torch.zeros(1))
        ),
    )
    wrapped = SimpleNamespace(
        tensor_data_names=["qdata", "scale"],
        qdata=torch.zeros(8, dtype=torch.int8),
        scale=torch.zeros(2),
    )
    model = SimpleNamespace(parameters=lambda: [plain, packed, wrapped], buffers=lambda: [plain])
    assert held_bytes(model) == 20 + (32 + 2 + 4) + (8 + 8) + 20


@pytest.mark.parametrize("library", list(Library))
def test_a_model_is_loaded_by_its_library_and_kept_fit_for_gradients(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import transformers  # noqa: PLC0415  # slow

    asked: dict[str, Any] = {}
    layer = torch.nn.Linear(2, 2)
    layer.support_avx512bf16_for_cpu = True  # type: ignore[assignment]

    def from_pretrained(folder: Path, **options: Any) -> torch.nn.Module:
        asked.update(options, folder=folder)
        return torch.nn.Sequential(layer)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    for name in ("BitsAndBytesConfig", "TorchAoConfig"):
        monkeypatch.setattr(transformers, name, lambda *args, **options: (args, options))
    fake = types.ModuleType("torchao.quantization")
    fake.Int8WeightOnlyConfig = lambda: "int8"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", fake)
    quantized.load_quantized(tmp_path, library, dtype=torch.float32, device="cpu")
    assert asked["device_map"] == {"": "cpu"}
    assert asked["use_safetensors"] is asked["local_files_only"] is True
    args, options = asked["quantization_config"]
    if library is Library.TORCHAO:
        assert args == ("int8",)
    else:
        assert (options["load_in_4bit"], options["bnb_4bit_quant_type"]) == (True, "nf4")
        assert options["bnb_4bit_compute_dtype"] is torch.float32
        assert layer.support_avx512bf16_for_cpu is False

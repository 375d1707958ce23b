"""What a trainer loads once: the base model frozen, the rows, and clear words when it cannot."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agent.base import BaseError, base_digest
from agent.config import AgentConfig
from agent.data import DataError
from agent.model import _memory, load
from agent.quantized import Library, Verdict

pytestmark = pytest.mark.torch
BASE = Path(__file__).parents[2] / "tools" / "base"


def write_texts(path: Path, count: int) -> Path:
    texts = [f"def function_{number}():\n    return {number}\n" for number in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def configured(
    tmp_path: Path, *, data: dict[str, Any] | None = None, **changes: Any
) -> AgentConfig:
    train = write_texts(tmp_path / "train.jsonl", 40)
    options = {
        "federation": "f",
        "client_id": "c",
        "state_dir": tmp_path / "state",
        "model": str(BASE),
        "data": {"train": train, **(data or {})},
        "device": "cpu",
        **changes,
    }
    return AgentConfig(**options)


def test_base_is_frozen_float32_on_the_cpu_and_in_evaluation_mode(tmp_path: Path) -> None:
    loaded = load(configured(tmp_path))
    assert {p.dtype for p in loaded.base.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.base.parameters())
    assert not loaded.base.training
    assert loaded.base_digest == base_digest(BASE)
    assert loaded.cuda == ""
    assert loaded.max_positions == loaded.base.config.max_position_embeddings


def test_share_is_held_out(tmp_path: Path) -> None:
    loaded = load(configured(tmp_path, data={"heldout_share": 0.3}))
    assert len(loaded.train_rows) + len(loaded.heldout_rows) == 40
    assert 1 <= len(loaded.heldout_rows) <= 25
    assert loaded.train_rows[0].learnt[1:].all()


def test_heldout_file_is_taken_as_it_is(tmp_path: Path) -> None:
    heldout = write_texts(tmp_path / "heldout.jsonl", 3)
    loaded = load(configured(tmp_path, data={"heldout": heldout}))
    assert (len(loaded.train_rows), len(loaded.heldout_rows)) == (40, 3)


def test_named_dtype_is_taken(tmp_path: Path) -> None:
    loaded = load(configured(tmp_path, dtype="bfloat16"))
    assert {p.dtype for p in loaded.base.parameters()} == {torch.bfloat16}


def test_model_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="set `model` to a folder or a hub id"):
        load(configured(tmp_path, model=None))


def test_missing_model_and_missing_data_are_told(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="there is no such folder"):
        load(configured(tmp_path, model="/no/such/model"))
    with pytest.raises(DataError, match=r"absent\.jsonl: cannot be read"):
        load(configured(tmp_path, data={"train": tmp_path / "absent.jsonl"}))


def test_data_without_anything_to_learn_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.model.tokenize", lambda _examples, _tokenizer: [])
    with pytest.raises(DataError, match="no example has anything to learn"):
        load(configured(tmp_path))


def test_cuda_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BaseError, match="torch finds none"):
        load(configured(tmp_path, device="cuda"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.safetensors", b"not weights", "the model cannot be loaded"),
        ("config.json", b"{", "cannot be loaded"),
        ("config.json", b'{"model_type": "unheard-of"}', "cannot be loaded"),
        ("tokenizer.json", b"{}", "its tokenizer cannot be loaded"),
        ("tokenizer.json", b"nonsense", "its tokenizer cannot be loaded"),
        ("tokenizer.json", b'{"version": "1.0", "model": 3}', "its tokenizer cannot be loaded"),
        ("config.json", b"[]", "cannot be loaded"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "x"}', "cannot be loaded"),
    ],
)
def test_broken_model_is_told_in_one_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(BaseError, match=expected) as caught:
        load(configured(tmp_path, model=str(folder)))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tokenizer_of_another_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoConfig.from_pretrained(BASE)
    config.vocab_size = 10
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *_args, **_options: AutoModelForCausalLM.from_config(config),
    )
    with pytest.raises(BaseError, match="do not belong together"):
        load(configured(tmp_path))


def test_what_holds_the_base_model_and_why_is_told(tmp_path: Path) -> None:
    loaded = load(configured(tmp_path, dtype="bfloat16"))
    assert (loaded.library, loaded.precision) == (None, "bfloat16")
    assert loaded.precision_reason.startswith("in full it takes 0 % of the memory")
    weights = (BASE / "model.safetensors").stat().st_size
    assert loaded.base_bytes == pytest.approx(weights, rel=0.01)
    assert load(configured(tmp_path, base_precision="full")).precision_reason == "configured"


def test_a_model_that_takes_too_much_is_loaded_in_few_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load_quantized(folder: Path, library: Library, *, dtype: Any, device: str) -> Any:
        asked.append((library, dtype, device))
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    monkeypatch.setattr("agent.model.total_bytes", lambda: 15_000_000)
    monkeypatch.setattr("agent.model.load_quantized", load_quantized)
    monkeypatch.setattr(
        "agent.model.probe",
        lambda library, **_options: Verdict(library is Library.TORCHAO, f"{library.value}!"),
    )
    loaded = load(configured(tmp_path))
    assert asked == [(Library.TORCHAO, torch.float32, "cpu")]
    assert (loaded.library, loaded.precision) == (Library.TORCHAO, "int8")
    reason = "in full it takes 68 % of the memory; bitsandbytes!; torchao!"
    assert loaded.precision_reason == reason


def test_a_library_asked_for_that_does_not_work_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agent.model.probe", lambda *_args, **_options: Verdict(works=False, reason="it fails")
    )
    with pytest.raises(BaseError, match="it fails; set base_precision to auto or full"):
        load(configured(tmp_path, base_precision="torchao"))


def test_memory_is_looked_at_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would end the trainer without a word, and whoever starts it would do so again."""
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *_args, **_options: pytest.fail("loaded")
    )
    monkeypatch.setattr("agent.model.available_bytes", lambda: 5 << 20)
    with pytest.raises(MemoryError, match="it needs 9 MiB and 5 MiB are available; stop other"):
        load(configured(tmp_path))
    monkeypatch.setattr("agent.model.total_bytes", lambda: 8 << 20)
    with pytest.raises(BaseError, match=r"needs 9 MiB, all memory is 8 MiB; take a smaller base"):
        load(configured(tmp_path, base_precision="full"))


def test_what_the_kernel_does_not_tell_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("available_bytes", "total_bytes"):
        monkeypatch.setattr(f"agent.model.{name}", lambda: None)
    assert load(configured(tmp_path)).precision_reason == "how much memory it takes is not known"


@pytest.mark.parametrize(("integrated", "expected"), [(1, (8, 4)), (0, (100, 40))])
def test_a_gpu_of_its_own_has_its_own_memory_and_a_jetsons_the_machines(
    monkeypatch: pytest.MonkeyPatch, integrated: int, expected: tuple[int, int]
) -> None:
    properties = SimpleNamespace(is_integrated=integrated)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 100))
    monkeypatch.setattr("agent.model.total_bytes", lambda: 8)
    monkeypatch.setattr("agent.model.available_bytes", lambda: 4)
    assert _memory("cuda") == expected


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")]
)
def test_memory_that_is_short_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It may fit after a while, where a bad model never would."""

    def refuse(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(type(error), match="memory"):
        load(configured(tmp_path))

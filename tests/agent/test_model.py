"""What a trainer loads once: the base model frozen, the rows, and clear words when it cannot."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agent.base import BaseError, base_digest
from agent.config import AgentConfig
from agent.data import DataError
from agent.model import load

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

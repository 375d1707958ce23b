"""What a model's files say that its weights take."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from agent.weights import Weights, count_weights

BASE = Path(__file__).parents[2] / "tools" / "base"


def test_matrices_of_linear_layers_are_told_from_all_else(tmp_path: Path) -> None:
    first = {"model.embed_tokens.weight": (10, 4), "l.q_proj.weight": (4, 4), "norm.weight": (4,)}
    second = {"l.up_proj.weight": (8, 4), "l.up_proj.bias": (8,), "lm_head.weight": (10, 4)}
    for number, shapes in enumerate((first, second)):
        tensors = {name: np.zeros(shape, dtype=np.float16) for name, shape in shapes.items()}
        save_file(tensors, tmp_path / f"{number}.safetensors", metadata={"format": "pt"})
    assert count_weights(tmp_path) == Weights(linear=16 + 32, other=40 + 4 + 8 + 40)


def test_what_they_take_depends_on_who_holds_them() -> None:
    weights = Weights(linear=1000, other=100)
    assert weights.needed_bytes(library="", itemsize=2) == 2200
    assert weights.needed_bytes(library="torchao", itemsize=2) == 1220
    assert weights.needed_bytes(library="bitsandbytes", itemsize=2) == 720


def test_the_demos_base_model() -> None:
    weights = count_weights(BASE)
    assert weights is not None
    # Its file is bfloat16, and has a header besides.
    size = (BASE / "model.safetensors").stat().st_size
    assert 0.99 * size < weights.needed_bytes(library="", itemsize=2) < size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 16,
        (5).to_bytes(8, "little") + b"not{}",
        (2).to_bytes(8, "little") + b"[]",
        (8).to_bytes(8, "little") + b'{"a": 1}',
        (9).to_bytes(8, "little") + b'{"a": {}}',
    ],
)
def test_a_damaged_file_is_for_loading_to_complain_about(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert count_weights(tmp_path) is None

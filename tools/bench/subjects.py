"""Models to measure on: the demo's own, and larger shapes with random weights."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from agent.adapter import AdaptedModel, make_initial_adapter
from agent.tokens import Row
from tools.bench.fleet import FloatArray, open_fleet
from tools.bench.hooks import Subject
from tools.demo.options import BASE_FOLDER

# Hidden size, layers, heads, feed-forward size, vocabulary: 29 million weights.
_LLAMA_30M: Final = (512, 8, 8, 1376, 8192)
DEMO: Final = "demo"
LLAMA_30M: Final = "llama-30m"
NAMES: Final = (DEMO, LLAMA_30M)
RANK: Final = 16
_ALPHA: Final = 32
_ROWS: Final = 64


def open_subject(name: str, *, max_tokens: int) -> Subject:
    """Return a model with a new adapter of rank 16 in it, and rows of this many tokens."""
    if name == DEMO:
        fleet = open_fleet(1, max_tokens=max_tokens)
        model, start = adapted(fleet.model.detach(), BASE_FOLDER)
        return Subject(name, model, start, fleet.clients[0].train)
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  # slow

    hidden, layers, heads, between, vocabulary = _LLAMA_30M
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=between,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config)
    base.requires_grad_(requires_grad=False)
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        # A base model is none without one; the rows are random ids.
        shutil.copy(BASE_FOLDER / "tokenizer.json", folder)
        model, start = adapted(base.eval(), Path(folder))
    generator = np.random.default_rng(0)
    rows = tuple(
        Row(
            ids=generator.integers(vocabulary, size=max_tokens).astype(np.int32),
            learnt=np.ones(max_tokens, dtype=bool),
        )
        for _ in range(_ROWS)
    )
    return Subject(name, model, start, rows)


def adapted(base: Any, folder: Path) -> tuple[AdaptedModel, FloatArray]:
    """Return a base model with a new adapter in it, and that adapter's values."""
    from safetensors.numpy import load_file  # noqa: PLC0415  # slow

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_initial_adapter(
            str(folder), place, rank=RANK, alpha=_ALPHA, target_modules="all-linear", seed=0
        )
        model = AdaptedModel(base, (place / "adapter_config.json").read_text())
        return model, model.layout.flatten(load_file(place / "adapter_model.safetensors"))

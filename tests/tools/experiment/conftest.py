"""A model small enough to train in milliseconds, and rows for it."""

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent.adapter import AdaptedModel
from agent.tokens import Row

TinyModel = Callable[[], AdaptedModel]
VOCABULARY = 40
# Threads that wait for each other on cores that others use as well take ten times as long.
torch.set_num_threads(1)


@pytest.fixture
def tiny_model() -> TinyModel:
    """Return what makes a random model of three layers with an adapter in it, always the same."""

    def made() -> AdaptedModel:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
        base = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
        with torch.no_grad():
            base.lm_head.weight.mul_(30)  # a random output layer is too weak to be right at all
        text = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
        targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
        return AdaptedModel(base, json.dumps({**text, "target_modules": targets}))

    return made


@pytest.fixture
def tiny_rows() -> list[Row]:
    """Return rows of one repeated phrase with a prompt of three tokens, of several lengths."""
    phrase = np.arange(1, 11, dtype=np.int32)
    made = []
    for index in range(12):
        ids = np.resize(np.roll(phrase, index), 10 + index % 4)
        made.append(Row(ids, np.arange(len(ids)) >= 3))
    return made


@pytest.fixture
def tiny_start() -> Callable[[AdaptedModel], npt.NDArray[np.float32]]:
    """Return what gives an adapter whose A and B are both not zero."""

    def made(model: AdaptedModel) -> npt.NDArray[np.float32]:
        generator = np.random.default_rng(5)
        return generator.normal(scale=0.05, size=model.layout.size).astype(np.float32)

    return made

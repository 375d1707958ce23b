"""Held-out loss and accuracy: every target weighs alike, and always the same."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent.adapter import AdaptedModel
from agent.evaluate import chosen, evaluate
from agent.loss import CausalLoss
from agent.tokens import Row

pytestmark = pytest.mark.torch


@pytest.fixture
def model() -> AdaptedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    base = LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    text = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4}
    return AdaptedModel(base, json.dumps({**text, "target_modules": ["q_proj"]}))


def some_rows() -> list[Row]:
    generator = np.random.default_rng(0)
    rows = []
    for length in (9, 3, 6, 12, 2):
        learnt = np.arange(length) >= length // 2
        rows.append(Row(generator.integers(20, size=length, dtype=np.int32), learnt))
    return rows


def test_evaluation_weighs_targets_alike_and_ignores_prompts(model: AdaptedModel) -> None:
    losses: list[float] = []
    correct = 0
    for row in some_rows():
        ids = torch.from_numpy(row.ids.astype(np.int64))
        logits = model.base(input_ids=ids[None, :-1]).logits[0].detach()
        kept = torch.from_numpy(row.learnt[1:])
        nats = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        losses += nats[kept].tolist()
        correct += int((logits.argmax(-1) == ids[1:])[kept].sum())
    evaluation = evaluate(model.base, some_rows(), rows_at_once=2)
    assert evaluation.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (evaluation.tokens, evaluation.correct) == (len(losses), correct)


def test_evaluation_is_the_same_again_and_for_any_number_at_once(model: AdaptedModel) -> None:
    first = evaluate(model.base, some_rows(), rows_at_once=2)
    assert evaluate(model.base, some_rows(), rows_at_once=2) == first
    for rows_at_once in (1, 5, 100):
        other = evaluate(model.base, some_rows(), rows_at_once=rows_at_once)
        assert other.loss == pytest.approx(first.loss, rel=1e-6)
        assert (other.tokens, other.correct) == (first.tokens, first.correct)


def test_out_of_memory_halves_the_rows(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(model.base, some_rows(), rows_at_once=5)
    tally = CausalLoss.tally

    def short(self: CausalLoss, inputs: Any, targets: Any) -> Any:
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tally(self, inputs, targets)

    monkeypatch.setattr(CausalLoss, "tally", short)
    assert evaluate(model.base, some_rows(), rows_at_once=5).loss == pytest.approx(expected.loss)


def test_chosen_rows_are_evenly_spaced() -> None:
    rows = some_rows()
    assert chosen(rows, 2) == [rows[0], rows[2]]
    assert chosen(rows, 9) == rows
    assert chosen(rows, 0) == []

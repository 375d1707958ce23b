"""Rates, batches, and training that is stored and taken up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tools.pretraining import WINDOW_TOKENS, Recipe, StableRecipe, Training, training_batches

pytestmark = pytest.mark.torch

SHORT = StableRecipe(steps=6, batch_windows=2, warmup_steps=1, decay_steps=2)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def training(recipe: Recipe) -> Training:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    stream = torch.arange(WINDOW_TOKENS * 8) % 64
    return Training(LlamaForCausalLM(config), stream, recipe, compiled=False)


def test_batches_follow_from_the_seed_and_go_through_all_windows() -> None:
    """A second pass cuts the stream elsewhere; the ids here are positions."""
    stream = torch.arange(WINDOW_TOKENS * 10)
    recipe = Recipe(steps=1, batch_windows=4)
    batches, again = training_batches(stream, recipe), training_batches(stream, recipe)
    first_pass = [next(batches) for _ in range(3)]
    assert all(torch.equal(batch, next(again)) for batch in first_pass)
    starts = torch.cat(first_pass)[:, 0].sort().values
    assert torch.equal(starts, starts[0] + WINDOW_TOKENS * torch.arange(len(starts)))
    assert int(next(batches)[0, 0]) % WINDOW_TOKENS != int(starts[0]) % WINDOW_TOKENS
    other = next(training_batches(stream, Recipe(steps=1, seed=1, batch_windows=4)))
    assert not torch.equal(other, first_pass[0])


def test_the_rate_warms_up_and_falls_to_a_twentieth() -> None:
    recipe = Recipe(steps=1000, learning_rate=1.0, warmup_steps=100)
    rates = [recipe.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == rates[100] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)


def test_a_cosine_ends_where_it_was_planned_to() -> None:
    recipe = Recipe(steps=1000)
    assert recipe.finished_at(10) == recipe


def test_a_stable_rate_falls_only_at_the_end() -> None:
    recipe = StableRecipe(steps=1000, learning_rate=1.0, warmup_steps=100, decay_steps=200)
    rates = [recipe.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert set(rates[100:801]) == {1.0}
    assert rates[900] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.01


def test_a_stable_recipe_ends_one_decay_after_it_is_told_to() -> None:
    recipe = StableRecipe(steps=1000, learning_rate=1.0, warmup_steps=100, decay_steps=200)
    ended = recipe.finished_at(400)
    assert ended.steps == 600
    assert ended.learning_rate_at(399) == recipe.learning_rate_at(399)
    assert ended.learning_rate_at(500) == pytest.approx(0.5)
    assert recipe.finished_at(900) == recipe


@pytest.mark.parametrize("recipe", [SHORT, Recipe(steps=6, batch_windows=2, warmup_steps=1)])
def test_training_lowers_the_loss(recipe: Recipe) -> None:
    run = training(recipe)
    losses = [run.step() for _ in range(recipe.steps)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("recipe", [SHORT, Recipe(steps=6, batch_windows=2, warmup_steps=1)])
def test_training_that_was_stored_goes_on_as_if_nothing_had_been(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Over the end of a pass of four batches, too; and another start is forgotten."""
    whole = training(recipe)
    losses = [whole.step() for _ in range(6)]
    cut = training(recipe)
    assert [cut.step() for _ in range(2)] == losses[:2]
    cut.store(tmp_path / "state")
    other = training(recipe)
    other.step()
    other.restore(tmp_path / "state")
    assert other.steps_done == 2
    assert [other.step() for _ in range(4)] == losses[2:]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]

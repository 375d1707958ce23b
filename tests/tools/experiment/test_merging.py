"""Merging: causality, shares, and that nothing merged is nothing changed."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from agent.adapter import AdaptedModel
from agent.batches import pad
from agent.loss import CausalLoss
from agent.tokens import Row
from tools.experiment.merging import Merged, MergedLoss, MergingUnsupported, choose

pytestmark = pytest.mark.torch
Start = Callable[[AdaptedModel], np.ndarray[tuple[int], np.dtype[np.float32]]]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 24), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_positions_and_sizes_add_up(positions: int, share: float, seed: int) -> None:
    keys = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, positions, 4)))
    merged = choose(keys, share=share)
    sums = torch.where(merged.real, merged.sizes, 0).sum(dim=1)
    assert sums.tolist() == [positions] * 3
    for ends, real in zip(merged.ends, merged.real, strict=True):
        stand = ends[real].tolist()
        assert stand == sorted(set(stand))
        assert stand[-1] == positions - 1


def test_about_the_share_is_merged_and_the_most_alike_of_them() -> None:
    keys = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 400, 4)))
    for share in (0.0, 0.1, 0.25, 0.5):
        merged = choose(keys, share=share)
        assert 1 - merged.real.sum() / 3200 == pytest.approx(share, abs=0.02)
    alike = torch.cosine_similarity(keys[:, 0::2], keys[:, 1::2], dim=-1)
    merged = choose(keys, share=0.25)
    paired = torch.zeros(8, 200, dtype=torch.bool)
    for row in range(8):
        double = merged.ends[row][merged.sizes[row] == 2]
        paired[row, double // 2] = True
    assert alike[paired].mean() > alike[~paired].mean() + 0.5


def test_a_choice_depends_on_no_later_key() -> None:
    keys = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20, 4)))
    whole = choose(keys, share=0.3)
    for length in range(2, 20, 2):
        part = choose(keys[:, :length], share=0.3)
        assert part.ends[0].tolist() == [end for end in whole.ends[0].tolist() if end < length]


def test_later_tokens_never_change_earlier_outputs(
    tiny_model: Callable[[], AdaptedModel], tiny_start: Start
) -> None:
    model = tiny_model()
    model.load_flat(tiny_start(model))
    loss = MergedLoss(model.base, share=0.3)
    generator = np.random.default_rng(1)
    ids = torch.from_numpy(generator.integers(0, 40, size=(2, 16)))
    with torch.no_grad():
        states, merged = loss.merged_states(ids)
        for place in range(16):
            changed = ids.clone()
            changed[:, place:] = torch.from_numpy(generator.integers(0, 40, size=(2, 16 - place)))
            others, other = loss.merged_states(changed)
            for row in range(2):
                before, after = _index(merged, row, place), _index(other, row, place)
                # The first place of a pair that is merged with what comes now is gone.
                assert before.keys() ^ after.keys() <= {place - 1}
                for end in before.keys() & after.keys():
                    torch.testing.assert_close(others[row, after[end]], states[row, before[end]])
    assert (merged.sizes == 2).any()


def test_without_a_share_the_gradients_are_the_plain_losses(
    tiny_model: Callable[[], AdaptedModel], tiny_start: Start, tiny_rows: list[Row]
) -> None:
    model = tiny_model()
    model.load_flat(tiny_start(model))
    found = []
    for loss in (CausalLoss(model.base), MergedLoss(model.base, share=0.0)):
        value, gradient = _gradient(model, loss, tiny_rows[:4])
        found.append((value, gradient))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_merging_leaves_the_model_as_it_was_and_trains_on_what_is_left(
    tiny_model: Callable[[], AdaptedModel], tiny_start: Start, tiny_rows: list[Row]
) -> None:
    model = tiny_model()
    model.load_flat(tiny_start(model))
    plain = CausalLoss(model.base)
    before = _gradient(model, plain, tiny_rows[:4])
    value, gradient = _gradient(model, MergedLoss(model.base, share=0.4), tiny_rows[:4])
    assert np.isfinite(value)
    assert not torch.equal(gradient, before[1])
    after = _gradient(model, plain, tiny_rows[:4])
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])


def test_a_batch_with_no_target_left_gives_nothing(
    tiny_model: Callable[[], AdaptedModel],
) -> None:
    model = tiny_model()
    loss = MergedLoss(model.base, share=0.5)
    ids, targets = torch.tensor([[1, 2]]), torch.tensor([[2, -100]])
    none = torch.full((1, 2), -100)
    assert loss.backward(ids, targets, torch.ones(1, 2), normaliser=1.0) == 0.0
    assert loss.backward(ids, none, torch.ones(1, 2), normaliser=1.0) == 0.0


def test_a_model_of_another_build_is_refused() -> None:
    other = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(MergingUnsupported, match="Llama's build"):
        MergedLoss(other, share=0.3)


def _index(merged: Merged, row: int, below: int) -> dict[int, int]:
    """Return original position → place among those left, for positions below one."""
    pairs = zip(merged.ends[row].tolist(), merged.real[row].tolist(), strict=True)
    return {end: place for place, (end, real) in enumerate(pairs) if real and end < below}


def _gradient(model: AdaptedModel, loss: CausalLoss, rows: list[Row]) -> tuple[float, torch.Tensor]:
    model.drop_gradients()
    batch = pad(rows)
    weights = (batch.targets != -100).astype(np.float32)
    value = loss.backward(
        torch.from_numpy(batch.inputs),
        torch.from_numpy(batch.targets),
        torch.from_numpy(weights),
        normaliser=float(weights.sum()),
    )
    parts = [p.grad.flatten() for p in model.parameters if p.grad is not None]
    return value, torch.cat(parts).clone()

"""The chunked loss is the loss: in value, in gradient, and for targets alone."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from agent.batches import UNLEARNT
from agent.loss import CausalLoss

pytestmark = pytest.mark.torch
VOCABULARY = 23


def llama() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config)


def gpt2() -> Any:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0
    )
    return GPT2LMHeadModel(config)


def gemma2() -> Any:
    """Return a model that caps its logits, so that its output layer is not the last word."""
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        final_logit_softcapping=0.05,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config)


@pytest.fixture(params=[llama, gpt2, gemma2])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return request.param().eval()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(VOCABULARY, (3, 9), generator=generator)
    targets = torch.randint(VOCABULARY, (3, 9), generator=generator)
    targets[0, :4] = UNLEARNT
    targets[2, 5:] = UNLEARNT
    weights = torch.rand(3, 9, generator=generator)
    weights[1, ::2] = 0
    return inputs, targets, weights


def plain_loss(model: Any, *, normaliser: float) -> torch.Tensor:
    inputs, targets, weights = batch()
    losses = cross_entropy(
        model(input_ids=inputs).logits.flatten(0, 1).float(),
        targets.flatten(),
        reduction="none",
        ignore_index=UNLEARNT,
    )
    return (losses * weights.flatten()).sum() / normaliser


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("chunk_logits", [1, 4 * VOCABULARY, 1 << 20])
def test_value_and_gradients_are_those_of_the_full_loss(model: Any, chunk_logits: int) -> None:
    expected = plain_loss(model, normaliser=7.0)
    expected.backward()
    expected_gradients = gradients(model)
    loss = CausalLoss(model, chunk_logits=chunk_logits)
    value = loss.backward(*batch(), normaliser=7.0)
    assert value == pytest.approx(float(expected.detach()), rel=1e-5)
    found = gradients(model)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-7)


def test_capped_logits_are_seen_and_taken_whole() -> None:
    torch.manual_seed(0)
    assert CausalLoss(llama().eval()).chunked
    assert CausalLoss(gpt2().eval()).chunked
    capped = gemma2().eval()
    with torch.no_grad():
        capped.get_output_embeddings().weight.mul_(100)
    assert not CausalLoss(capped).chunked


def test_scale_multiplies_gradients_and_not_the_value(model: Any) -> None:
    loss = CausalLoss(model)
    value = loss.backward(*batch(), normaliser=7.0)
    plain = gradients(model)
    assert loss.backward(*batch(), normaliser=7.0, scale=8.0) == pytest.approx(value, rel=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 8 * plain[name], rtol=1e-4, atol=1e-6)


def test_without_targets_there_is_no_loss_and_no_gradient(model: Any) -> None:
    inputs, targets, weights = batch()
    loss = CausalLoss(model)
    assert loss.backward(inputs, torch.full_like(targets, UNLEARNT), weights, normaliser=1.0) == 0
    assert loss.backward(inputs, targets, torch.zeros_like(weights), normaliser=1.0) == 0
    assert gradients(model) == {}


def test_given_tokens_reach_the_loss_only_as_context() -> None:
    """What is predicted at a prompt's positions changes nothing, however wrong it is."""
    torch.manual_seed(0)
    model = llama().eval()
    inputs, targets, weights = batch()
    loss = CausalLoss(model)
    value = loss.backward(inputs, targets, weights, normaliser=1.0)
    weights[targets == UNLEARNT] = 1e9
    assert loss.backward(inputs, targets, weights, normaliser=1.0) == value


@pytest.mark.parametrize("chunk_logits", [1, 1 << 20])
def test_tally_sums_losses_and_counts_right_predictions(model: Any, chunk_logits: int) -> None:
    inputs, targets, _ = batch()
    tally = CausalLoss(model, chunk_logits=chunk_logits).tally(inputs, targets)
    logits = model(input_ids=inputs).logits.detach().float()
    kept = targets != UNLEARNT
    expected = cross_entropy(logits[kept], targets[kept], reduction="sum")
    assert tally.loss == pytest.approx(float(expected), rel=1e-5)
    assert tally.tokens == int(kept.sum())
    assert tally.correct == int((logits.argmax(-1) == targets)[kept].sum())


def test_no_more_logits_than_a_chunk_are_held() -> None:
    model = llama().eval()
    loss = CausalLoss(model, chunk_logits=4 * VOCABULARY)
    widths: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: widths.append(output.numel())
    )
    loss.backward(*batch(), normaliser=1.0)
    assert widths
    assert max(widths) <= 4 * VOCABULARY

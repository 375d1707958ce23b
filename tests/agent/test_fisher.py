"""Both Fisher averages against plain re-computations."""

import numpy as np
import pytest
import torch

from agent.fisher import DiagonalFisher, EmbeddingScores

pytestmark = pytest.mark.torch


def parameters_with_gradients(gradients: list[list[float]]) -> list[torch.nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def test_diagonal_fisher_is_the_bias_corrected_average_of_squares() -> None:
    steps = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    first, second = parameters_with_gradients([[0.0, 0.0], [0.0]])
    fisher = DiagonalFisher([first, second], decay=0.9)
    expected = np.zeros(3)
    for step in steps:
        first.grad, second.grad = torch.tensor(step[:2]), torch.tensor(step[2:])
        fisher.update()
        expected = 0.9 * expected + 0.1 * step.astype(np.float64) ** 2
    flat = fisher.flat()
    assert flat.dtype == np.float32
    np.testing.assert_allclose(flat, expected / (1 - 0.9**5), rtol=1e-5)


def test_first_step_alone_gives_its_own_squares() -> None:
    fisher = DiagonalFisher(parameters_with_gradients([[2.0, -3.0]]), decay=0.99)
    fisher.update()
    np.testing.assert_allclose(fisher.flat(), [4.0, 9.0], rtol=1e-5)


def test_before_a_step_and_without_gradients_it_is_zero() -> None:
    (parameter,) = parameters_with_gradients([[1.0]])
    parameter.grad = None
    fisher = DiagonalFisher([parameter], decay=0.9)
    assert fisher.flat().tolist() == [0.0]
    fisher.update()
    assert fisher.flat().tolist() == [0.0]
    with pytest.raises(ValueError, match="decay"):
        DiagonalFisher([parameter], decay=1.0)


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_embedding_scores_are_the_squared_gradients_of_the_embeddings(
    *, needs_gradient: bool
) -> None:
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(7, 3)
    embedding.requires_grad_(needs_gradient)
    ids = torch.tensor([[1, 2, 2], [0, 6, 1]])
    mixing = torch.randn(3, 3)

    def loss_of(embedded: torch.Tensor) -> torch.Tensor:
        return (mixing @ embedded).tanh().square().sum()

    by_hand = embedding(ids).detach().requires_grad_()
    loss_of(by_hand).backward()
    assert by_hand.grad is not None

    scores = EmbeddingScores(embedding)
    with scores.collecting():
        loss_of(embedding(ids)).backward()
    collected = scores.take()
    np.testing.assert_allclose(collected, by_hand.grad.square().sum(-1).numpy(), rtol=1e-5)
    assert collected.shape == (2, 3)


def test_nothing_is_collected_outside() -> None:
    embedding = torch.nn.Embedding(3, 2).requires_grad_(requires_grad=False)
    scores = EmbeddingScores(embedding)
    with scores.collecting():
        pass
    assert not embedding(torch.tensor([0])).requires_grad
    with pytest.raises(AssertionError, match="no backward pass"):
        scores.take()

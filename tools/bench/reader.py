"""A model with a trained adapter that reads prompts whole or in part, and how it chooses.

Besides the token mask's own table (scores of targets), training keeps two more of the same
gradients: by the id of a prompt's token, and by its distance from the prompt's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from agent.adapter import AdaptedModel
from agent.batches import UNLEARNT, Batch
from agent.mask import TokenScores
from agent.memory import RowsAtOnce
from agent.tokens import Row
from agent.train import Steps, train
from tools.bench.fleet import FloatArray, OnProgress
from tools.bench.token_reduction import (
    HEAD,
    TAIL,
    IndexArray,
    Positions,
    ScoreArray,
    Selection,
    kept,
    of_spans,
    random_scores,
)
from transport.control import TrainingPlan

DISTANCE_TOKENS: Final = 16
_DISTANCES: Final = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """One held-out prompt and the answer that is expected.

    Attributes:
        ids: int64 (tokens,), what is given.
        answer: int64 (tokens,), what is expected after it.
    """

    ids: npt.NDArray[np.int64]
    answer: npt.NDArray[np.int64]

    @classmethod
    def of(cls, row: Row) -> Prompt:
        """Return a row's prompt, which ends before the first learnt token, and the rest."""
        first = int(np.flatnonzero(row.learnt)[0])
        ids = np.asarray(row.ids, dtype=np.int64)
        return cls(ids[:first], ids[first:])


@dataclass(frozen=True, slots=True)
class Reader:
    """A trained model, and all that prompts are chosen by.

    Attributes:
        workload: Its name.
        name: The model's.
        model: With the trained adapter in it.
        scores: float64 (vocabulary,), the mask's table, of tokens as targets.
        input_scores: float64 (vocabulary,), the same of tokens as inputs in prompts.
        distance_scores: float64 (spans,), the same by distance from the prompt's end in spans of
            `DISTANCE_TOKENS`; what is further away counts as the last of them.
        steps: That the adapter was trained for.
    """

    workload: str
    name: str
    model: AdaptedModel
    scores: ScoreArray
    input_scores: ScoreArray
    distance_scores: ScoreArray
    steps: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """One way to read a prompt."""

    selection: Selection
    positions: Positions
    ratio: float
    span: int = 1


NOTHING: Final = Reduction(Selection.NONE, Positions.ORIGINAL, 1.0)


def train_reader(
    workload: str,
    name: str,
    model: AdaptedModel,
    rows: Sequence[Row],
    *,
    start: FloatArray,
    plan: TrainingPlan,
    on_progress: OnProgress,
) -> Reader:
    """Return the model with an adapter trained on these rows, and the mask's table of scores."""
    made: list[_ScoringSteps] = []

    def keep(model: AdaptedModel, plan: TrainingPlan, *, seed: int, at_once: RowsAtOnce) -> Steps:
        made.append(_ScoringSteps(model, plan, seed=seed, at_once=at_once))
        return made[0]

    def on_step(step: int, steps: int, loss: float) -> None:
        on_progress(f"step {step} of {steps}: loss {loss:.3f}", step / steps)

    trained = train(model, rows, start=start, plan=plan, seed=0, on_step=on_step, make_steps=keep)
    model.load_flat(start + trained.delta)
    ids = np.arange(model.base.get_input_embeddings().weight.shape[0])
    steps = made[0]
    return Reader(
        workload=workload,
        name=name,
        model=model,
        scores=steps.scores.of(ids),
        input_scores=steps.input_scores.of(ids),
        distance_scores=steps.distance_scores.of(np.arange(_DISTANCES)),
        steps=plan.local_steps,
    )


def distances(tokens: int) -> IndexArray:
    """Return each token's index into a table by distance from a prompt's end."""
    return np.minimum(np.arange(tokens - 1, -1, -1) // DISTANCE_TOKENS, _DISTANCES - 1)


class _ScoringSteps(Steps):
    """An agent's steps that keep a table of prompts' tokens besides."""

    def __init__(
        self, model: AdaptedModel, plan: TrainingPlan, *, seed: int, at_once: RowsAtOnce
    ) -> None:
        super().__init__(model, plan, seed=seed, at_once=at_once)
        vocabulary = model.base.get_input_embeddings().weight.shape[0]
        self.input_scores = TokenScores(vocabulary, decay=plan.score_decay)
        self.distance_scores = TokenScores(_DISTANCES, decay=plan.score_decay)

    def refresh_scores(self, batch: Batch) -> None:
        """Take in how sensitive the loss is at each target, and at each token that is given."""
        super().refresh_scores(batch)
        found = self.embedding_scores
        learnt = batch.targets != UNLEARNT
        # The token before the first target is the prompt's last; padding is after the last one.
        lengths = learnt.argmax(axis=1) + learnt.any(axis=1)
        rows = [(row, length) for row, length in enumerate(lengths) if length]
        ids = np.concatenate([batch.inputs[row, :length] for row, length in rows])
        scores = np.concatenate([found[row, :length] for row, length in rows])
        self.input_scores.refresh(ids, scores)
        places = np.concatenate([distances(length) for _, length in rows])
        self.distance_scores.refresh(places, scores)


def choose(reader: Reader, ids: npt.NDArray[np.int64], way: Reduction, *, seed: int) -> IndexArray:
    """Return the indices of a prompt's tokens that are read."""
    match way.selection:
        case Selection.NONE:
            return np.arange(len(ids))
        case Selection.SCORES:
            scores = reader.scores[ids]
        case Selection.INPUT_SCORES:
            scores = reader.input_scores[ids]
        case Selection.PLACED_SCORES:
            scores = reader.input_scores[ids] * reader.distance_scores[distances(len(ids))]
        case Selection.RANDOM:
            scores = random_scores(len(ids), seed=seed)
        case Selection.ATTENTION:
            scores = first_layer_attention(reader.model.base, ids)
        case Selection.LAST:
            scores = np.arange(len(ids), dtype=np.float64)
    scores = of_spans(scores, span=way.span)
    if way.ratio == 0:
        return kept(scores, ratio=min(1.0, (HEAD + TAIL) / len(ids)))
    return kept(scores, ratio=way.ratio)


@torch.no_grad()
def first_layer_attention(base: Any, ids: npt.NDArray[np.int64]) -> ScoreArray:
    """Return float64 (tokens,), what each token receives in a Llama model's first layer.

    The mean over heads and over the queries that may look at it: later tokens have fewer. All
    tokens look: most of these looks are at neighbours, and a part of them would choose tokens for
    standing before one that looks.

    Args:
        base: The model.
        ids: int64 (tokens,).
    """
    body = base.model
    layer, attention = body.layers[0], body.layers[0].self_attn
    states = layer.input_layernorm(body.embed_tokens(torch.from_numpy(ids)[None]))
    tokens, width = len(ids), attention.head_dim
    cosine, sine = (
        part[:, None] for part in body.rotary_emb(states, position_ids=torch.arange(tokens)[None])
    )
    query = attention.q_proj(states).view(1, tokens, -1, width).transpose(1, 2)
    query = query * cosine + _half_turned(query) * sine
    key = attention.k_proj(states).view(1, tokens, -1, width).transpose(1, 2)
    key = key * cosine + _half_turned(key) * sine
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    weights = query @ key.transpose(2, 3) * attention.scaling
    ahead = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    shares = weights.masked_fill(ahead, -torch.inf).softmax(dim=-1).mean(dim=(0, 1))
    received: ScoreArray = shares.sum(dim=0).double().numpy()
    return received / np.arange(tokens, 0, -1)


def _half_turned(states: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)

"""What reading fewer tokens of a prompt gains and costs: `fedfstq bench inference`.

An adapter is trained on a workload's texts as an agent trains it, with the token mask on, and the
mask's own table of scores per vocabulary id then says which tokens of held-out prompts the model
reads, beside other ways to choose them (`tools.bench.token_reduction`). Latency is measured on the
first dozen prompts, at batch size 1 with a key-value cache: `prefill` is from the ids to the first
token's logits, choosing included; `end_to_end` adds the other new tokens, greedily. Time is that of
the processor (one thread), since other programs have less of a say in it; a speed-up is the median
over prompts of (nothing dropped) / (dropped), each prompt's two times measured in one turn, with a
confidence interval of 95 % by the bootstrap over prompts.

Quality is that of the expected answers after the reduced prompts: mean loss per answer token, and
the share of answer tokens that are the most likely ones.

`inference.json` holds (see `tools.bench.figures_file`) rows of:

    workload, model, parameters, prompts, prompt_tokens_mean, trained_steps
    selection               "none", "scores", "input-scores", "placed-input-scores",
                            "random", "attention", "last"
    positions               "original", "compacted"
    span_tokens             tokens that stay or go together, by the mean of their scores
    keep_ratio              0.0 is the control without a prompt (but for its first and last tokens)
    new_tokens              that the end-to-end time is for
    prefill_ms, end_to_end_ms           medians
    prefill_speedup, end_to_end_speedup, end_to_end_speedup_low, end_to_end_speedup_high
    answer_loss, relative_loss_change           the change as a share: 0.01 is 1 % more loss
    token_accuracy, relative_accuracy_change    negative is worse
    goal_speedup, goal_relative_loss, reached
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from tools.bench.fleet import OnProgress
from tools.bench.reader import NOTHING, Prompt, Reader, Reduction, choose
from tools.bench.token_reduction import (
    IndexArray,
    Positions,
    Selection,
    next_position,
    position_ids,
)

GOAL_SPEEDUP: Final = 1.55
GOAL_RELATIVE_LOSS: Final = 0.01
KEEP_RATIOS: Final = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
NEW_TOKENS: Final = (1, 4, 16)
SPANS: Final = (1, 16)
# Prompts that the latency is measured on; the quality is measured on all.
_TIMED: Final = 12
_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the expected answers are after the prompts: nats per token, and share right."""

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds per prompt, float64 (prompts,).

    Attributes:
        prefill: To the first token.
        decoding: One further token; (prompts, tokens).
    """

    prefill: npt.NDArray[np.float64]
    decoding: npt.NDArray[np.float64]

    def end_to_end(self, new_tokens: int) -> npt.NDArray[np.float64]:
        """Return float64 (prompts,), the seconds to this many new tokens."""
        seconds: npt.NDArray[np.float64] = self.prefill + self.decoding[:, : new_tokens - 1].sum(1)
        return seconds


@dataclass(frozen=True, slots=True)
class InferenceRow:
    """One line of the answer; the head of this file tells what its fields are."""

    workload: str
    model: str
    parameters: int
    prompts: int
    prompt_tokens_mean: float
    trained_steps: int
    selection: str
    positions: str
    span_tokens: int
    keep_ratio: float
    new_tokens: int
    prefill_ms: float
    end_to_end_ms: float
    prefill_speedup: float
    end_to_end_speedup: float
    end_to_end_speedup_low: float
    end_to_end_speedup_high: float
    answer_loss: float
    relative_loss_change: float
    token_accuracy: float
    relative_accuracy_change: float
    goal_speedup: float
    goal_relative_loss: float
    reached: bool


def reductions(ratios: Sequence[float] = KEEP_RATIOS) -> list[Reduction]:
    """Return all ways to read that are compared, the whole prompt first."""
    chosen = [
        (selection, span)
        for selection in (
            Selection.SCORES,
            Selection.INPUT_SCORES,
            Selection.PLACED_SCORES,
            Selection.RANDOM,
            Selection.ATTENTION,
        )
        for span in SPANS
    ]
    ways = [
        Reduction(selection, positions, ratio, span)
        for selection, span in [*chosen, (Selection.LAST, 1)]
        for positions in Positions
        for ratio in ratios
    ]
    controls = [Reduction(Selection.RANDOM, positions, 0.0) for positions in Positions]
    return [NOTHING, *ways, *controls]


def measure(
    reader: Reader,
    prompts: Sequence[Prompt],
    *,
    ways: Sequence[Reduction],
    on_progress: OnProgress,
) -> list[InferenceRow]:
    """Return a row for each way to read and number of new tokens; the first way reads everything.

    Args:
        reader: The model.
        prompts: Each with one token and an answer at least.
        ways: `NOTHING`, and others.
        on_progress: Is told of each way or prompt.
    """
    assert ways[0] == NOTHING
    qualities = []
    for place, way in enumerate(ways):
        qualities.append(quality(reader, prompts, way))
        said = f"{way.selection.value} at {way.ratio:g}: loss {qualities[-1].loss:.4f}"
        on_progress(said, (place + 1) / len(ways))
    # What a token is said to stand at costs nothing.
    timed = {(way.selection, way.ratio): way for way in ways}
    measured = _latencies(reader, prompts[:_TIMED], list(timed.values()), on_progress=on_progress)
    found = dict(zip(timed, measured, strict=True))
    latencies = [found[way.selection, way.ratio] for way in ways]
    return [
        _row(
            reader,
            prompts,
            way,
            (qualities[0], latencies[0]),
            (good, quick),
            new_tokens=new_tokens,
        )
        for way, good, quick in zip(ways, qualities, latencies, strict=True)
        for new_tokens in NEW_TOKENS
    ]


@torch.no_grad()
def quality(reader: Reader, prompts: Sequence[Prompt], way: Reduction) -> Quality:
    """Return how good the expected answers are after these prompts, read this way."""
    loss, correct, tokens = 0.0, 0, 0
    for seed, prompt in enumerate(prompts):
        chosen = choose(reader, prompt.ids, way, seed=seed)
        after = next_position(len(prompt.ids), len(chosen), positions=way.positions)
        answer = prompt.answer
        ids = np.concatenate([prompt.ids[chosen], answer[:-1]])
        places = np.concatenate(
            [position_ids(chosen, positions=way.positions), after + np.arange(len(answer) - 1)]
        )
        logits = _forward(reader.model.base, ids, places, keep_logits=len(answer)).logits[0]
        targets = torch.from_numpy(answer)
        loss += float(cross_entropy(logits.float(), targets, reduction="sum"))
        correct += int((logits.argmax(dim=-1) == targets).sum())
        tokens += len(answer)
    return Quality(loss / tokens, correct / tokens)


def _forward(
    base: Any,
    ids: npt.NDArray[np.int64],
    places: IndexArray,
    *,
    keep_logits: int,
    cache: Any = None,
    use_cache: bool = False,
) -> Any:
    return base(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(np.asarray(places, dtype=np.int64))[None],
        logits_to_keep=keep_logits,
        past_key_values=cache,
        use_cache=use_cache,
    )


def _latencies(
    reader: Reader,
    prompts: Sequence[Prompt],
    ways: Sequence[Reduction],
    *,
    on_progress: OnProgress,
) -> list[Latency]:
    """Measure every way for one prompt after the other, in an order that changes."""
    prefill = np.zeros((len(ways), len(prompts)))
    decoding = np.zeros((len(ways), len(prompts), max(NEW_TOKENS) - 1))
    for way in ways[:3]:  # warms up
        _generate(reader, prompts[0], way, seed=0)
    for seed, prompt in enumerate(prompts):
        for place in np.random.default_rng(seed).permutation(len(ways)):
            first, others = _generate(reader, prompt, ways[place], seed=seed)
            prefill[place, seed], decoding[place, seed] = first, others
        on_progress(f"latency, prompt {seed + 1}", (seed + 1) / len(prompts))
    return [Latency(*pair) for pair in zip(prefill, decoding, strict=True)]


@torch.no_grad()
def _generate(
    reader: Reader, prompt: Prompt, way: Reduction, *, seed: int
) -> tuple[float, list[float]]:
    """Write tokens greedily; return the seconds to the first and those of each further one."""
    clock: Callable[[], float] = time.process_time
    began = clock()
    chosen = choose(reader, prompt.ids, way, seed=seed)
    places = position_ids(chosen, positions=way.positions)
    base = reader.model.base
    output = _forward(base, prompt.ids[chosen], places, keep_logits=1, use_cache=True)
    token = int(output.logits[0, -1].argmax())
    moments = [clock()]
    first = moments[0] - began
    after = next_position(len(prompt.ids), len(chosen), positions=way.positions)
    for number in range(max(NEW_TOKENS) - 1):
        output = _forward(
            base,
            np.array([token]),
            np.array([after + number]),
            keep_logits=1,
            cache=output.past_key_values,
            use_cache=True,
        )
        token = int(output.logits[0, -1].argmax())
        moments.append(clock())
    return first, list(np.diff(moments))


def _row(
    reader: Reader,
    prompts: Sequence[Prompt],
    way: Reduction,
    whole: tuple[Quality, Latency],
    here: tuple[Quality, Latency],
    *,
    new_tokens: int,
) -> InferenceRow:
    adapter = {id(parameter) for parameter in reader.model.parameters}
    ratios = whole[1].end_to_end(new_tokens) / here[1].end_to_end(new_tokens)
    speedup, low, high = median_interval(ratios)
    change = here[0].loss / whole[0].loss - 1
    return InferenceRow(
        workload=reader.workload,
        model=reader.name,
        parameters=sum(p.numel() for p in reader.model.base.parameters() if id(p) not in adapter),
        prompts=len(prompts),
        prompt_tokens_mean=float(np.mean([len(prompt.ids) for prompt in prompts])),
        trained_steps=reader.steps,
        selection=way.selection.value,
        positions=way.positions.value,
        span_tokens=way.span,
        keep_ratio=way.ratio,
        new_tokens=new_tokens,
        prefill_ms=1000 * float(np.median(here[1].prefill)),
        end_to_end_ms=1000 * float(np.median(here[1].end_to_end(new_tokens))),
        prefill_speedup=float(np.median(whole[1].prefill / here[1].prefill)),
        end_to_end_speedup=speedup,
        end_to_end_speedup_low=low,
        end_to_end_speedup_high=high,
        answer_loss=here[0].loss,
        relative_loss_change=change,
        token_accuracy=here[0].accuracy,
        relative_accuracy_change=here[0].accuracy / max(whole[0].accuracy, 1e-9) - 1,
        goal_speedup=GOAL_SPEEDUP,
        goal_relative_loss=GOAL_RELATIVE_LOSS,
        reached=speedup >= GOAL_SPEEDUP and change <= GOAL_RELATIVE_LOSS,
    )


def median_interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median and its interval of 95 %, by the bootstrap."""
    draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), (2.5, 97.5))
    return float(np.median(values)), float(low), float(high)

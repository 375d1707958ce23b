"""Opens a trial's fleet; what is slow to import or to load is so once per process."""
# ruff: noqa: PLC0415  # a campaign's list of trials needs no torch

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from codec.codec import FloatArray
from tools.experiment.quality.token_recall import TOKEN_ORDER
from tools.experiment.spec import CPU, ExperimentError, Trial
from tools.experiment.trials import Opened

if TYPE_CHECKING:
    from agent.adapter import AdaptedModel
    from tools.experiment.model_fleet import FleetSettings

# Held-out questions that the last adapter answers; greedy answers of a small model take a second
# or two per batch of sixteen on one core.
_QUESTIONS: Final = 64


def open_trial(trial: Trial, data: Path) -> Opened:
    """Return what a trial needs.

    Raises:
        ExperimentError: Model, adapter, workload or data cannot be had; the line says which.
    """
    import torch

    from agent.adapter import AdapterError
    from agent.base import BaseError
    from agent.data import DataError
    from agent.quantized import hide_others
    from tools.experiment.model_fleet import FleetSettings, open_fleet
    from tools.experiment.workloads.partition import TooFewItems

    # Threads that wait for each other on cores that others use as well take ten times as long.
    torch.set_num_threads(1)
    hide_others(None)  # no base model is held in few bits for this
    if trial.device != CPU and not torch.cuda.is_available():
        raise ExperimentError(f"device: {trial.device}: torch finds no GPU here; leave it out")
    settings = FleetSettings(
        model=trial.model,
        device=trial.device,
        dtype=trial.dtype,
        workload=trial.workload,
        data=data,
        alpha=trial.alpha,
        clients=trial.clients,
        heldout_rows=trial.heldout_rows,
        rank=trial.rank,
        lora_alpha=trial.lora_alpha,
        target_modules=trial.target_modules,
        plan=trial.local,
    )
    try:
        fleet = open_fleet(settings, seed=trial.seed)
    except (AdapterError, BaseError, DataError, TooFewItems) as error:
        raise ExperimentError(f"{trial.workload}: {error}") from error

    def quality(adapter: FloatArray) -> Mapping[str, Any]:
        order = fleet.token_order(adapter, seed=trial.seed, options=trial.parsed.local)
        fleet.model.load_flat(adapter)
        return {**_answers(settings, fleet.model), TOKEN_ORDER: order}

    return Opened(fleet, quality=quality)


def _answers(settings: FleetSettings, model: AdaptedModel) -> Mapping[str, Any]:
    """Return the scores of what a model answers; {} where nothing is asked."""
    from tools.experiment.model_fleet import read_rows, tokenizer_of
    from tools.experiment.quality.quality import evaluate_quality

    # The process has read all of this for the trial already.
    workload, _ = read_rows(
        settings.model, settings.workload, settings.data, settings.plan.max_tokens
    )
    questions = workload.question_sample(_QUESTIONS)
    if not questions:
        return {}
    return evaluate_quality(model.base, tokenizer_of(settings.model), questions).record()

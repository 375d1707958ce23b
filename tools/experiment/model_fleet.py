"""The fleet of a trial: clients that take turns on one model, as many as the trial has."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from agent.adapter import AdaptedModel, make_initial_adapter
from agent.base import locate_base
from agent.batches import pad
from agent.loss import CausalLoss
from agent.tokens import Row, tokenize
from agent.train import TrainingDiverged
from aggregator.adapter_folder import Adapter, read_adapter
from codec.codec import FloatArray
from codec.layout import Layout
from tools.experiment.fleet import Control, Evaluation, LocalUpdate, TrialFailed
from tools.experiment.kernels import use_onednn
from tools.experiment.local import token_order, train_client
from tools.experiment.local_options import LocalOptions
from tools.experiment.merging import MergedLoss, MergingUnsupported
from tools.experiment.workloads.opening import open_workload
from tools.experiment.workloads.partition import deal
from tools.experiment.workloads.workload import Item, Workload
from transport.control import TrainingPlan

# Held-out rows that go through the model together.
_ROWS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """What a fleet is made of.

    Attributes:
        model: Base model: a folder or a hub name.
        workload: By its name.
        data: Folder of the data sets; None where the workload needs none.
        alpha: Of the Dirichlet law that divides the classes over the clients; infinity is even.
        clients: How many.
        heldout_rows: Rows that an adapter is evaluated on, of all classes alike.
        rank: LoRA's r.
        lora_alpha: LoRA's alpha.
        target_modules: "all-linear", or names that the adapted modules end in.
        plan: The local training.
        dtype: Of the base model: float32 or bfloat16; the adapter is float32.
        device: "cpu", or one of torch's others.
    """

    model: str
    workload: str
    data: Path | None
    alpha: float
    clients: int
    heldout_rows: int
    rank: int
    lora_alpha: int
    target_modules: str | tuple[str, ...]
    plan: TrainingPlan
    dtype: str = "float32"
    device: str = "cpu"


class ModelFleet:
    """Clients with their rows, which take turns on one model; see `Fleet` for what is promised.

    Args:
        model: The base with an adapter in it.
        start: float32 (model.layout.size,), the adapter of version 0.
        rows: Each client's rows to train on, cut to the plan's length.
        heldout: Rows that adapters are evaluated on, cut as well; not empty.
        plan: The local training that all methods share.
    """

    def __init__(
        self,
        model: AdaptedModel,
        *,
        start: FloatArray,
        rows: dict[str, tuple[Row, ...]],
        heldout: Sequence[Row],
        plan: TrainingPlan,
    ) -> None:
        self._model = model
        self._start = start
        self._rows = rows
        self._heldout_rows = tuple(heldout)
        self._heldout = [
            (inputs.to(model.device), targets.to(model.device))
            for inputs, targets in _batches(heldout)
        ]
        self._plan = plan
        # Each loss asks the model twice how it is built; a trial trains some hundred times.
        self._loss = CausalLoss(model.base)
        self._merged: dict[float, MergedLoss] = {}

    @property
    def model(self) -> AdaptedModel:
        """The model that clients take turns on, with the adapter of whoever was last in it."""
        return self._model

    @property
    def layout(self) -> Layout:
        """The adapter's layout."""
        return self._model.layout

    @property
    def client_ids(self) -> tuple[str, ...]:
        """All clients, sorted."""
        return tuple(sorted(self._rows))

    def start(self) -> FloatArray:
        """Return float32 (layout.size,), the adapter of version 0."""
        return self._start

    def train(
        self,
        client_id: str,
        adapter: FloatArray,
        *,
        seed: int,
        options: LocalOptions,
        control: Control | None,
    ) -> LocalUpdate:
        """Return what a client's local steps from an adapter give.

        Raises:
            TrialFailed: Training diverged.
        """
        try:
            return train_client(
                self._model,
                self._rows[client_id],
                start=adapter,
                plan=self._plan,
                seed=seed,
                options=options,
                control=control,
                loss_for=self._loss_for,
            )
        except TrainingDiverged as error:
            raise TrialFailed(f"diverged: {client_id}: {error}") from error

    def evaluate(self, adapter: FloatArray) -> Evaluation:
        """Return how good an adapter is on the held-out rows, every target weighing alike."""
        self._model.load_flat(adapter)
        with torch.inference_mode():
            tallies = [self._loss.tally(inputs, targets) for inputs, targets in self._heldout]
        tokens = sum(tally.tokens for tally in tallies)
        return Evaluation(
            loss=sum(tally.loss for tally in tallies) / tokens,
            accuracy=sum(tally.correct for tally in tallies) / tokens,
        )

    def token_order(self, adapter: FloatArray, *, seed: int, options: LocalOptions) -> list[int]:
        """Return the ids of held-out targets, those first that a method's mask keeps first."""
        return token_order(
            self._model,
            self._heldout_rows,
            adapter=adapter,
            plan=self._plan,
            seed=seed,
            options=options,
            loss_for=self._loss_for,
        )

    def _loss_for(self, options: LocalOptions) -> CausalLoss:
        if not options.merge:
            return self._loss
        if options.merge not in self._merged:
            try:
                self._merged[options.merge] = MergedLoss(self._model.base, share=options.merge)
            except MergingUnsupported as error:
                raise TrialFailed(f"merge: {error}") from error
        return self._merged[options.merge]


def open_fleet(settings: FleetSettings, *, seed: int) -> ModelFleet:
    """Return a trial's fleet; model and texts are read once per process.

    Args:
        settings: What it is made of.
        seed: Of the initial adapter and of who has which items.

    Raises:
        BaseError: There is no such base model.
        AdapterError: The adapter's options are refused, or no module has such a name.
        DataError: There is no such workload, or its files are missing.
        TooFewItems: There are not enough items for so many clients.
    """
    plan = settings.plan
    workload, rows = read_rows(settings.model, settings.workload, settings.data, plan.max_tokens)

    def rows_of(items: Sequence[Item]) -> tuple[Row, ...]:
        return tuple(rows[item] for item in items if item in rows)

    shares = deal(workload, clients=settings.clients, alpha=settings.alpha, seed=seed)
    width = max(2, len(str(settings.clients - 1)))
    adapter = _initial_adapter(
        settings.model, settings.rank, settings.lora_alpha, settings.target_modules, seed
    )
    return ModelFleet(
        _adapted(settings, adapter.config),
        start=adapter.flat,
        rows={f"c{place:0{width}d}": rows_of(items) for place, items in enumerate(shares)},
        heldout=rows_of(workload.heldout_sample(settings.heldout_rows)),
        plan=plan,
    )


@lru_cache(maxsize=4)
def read_rows(
    model: str, workload: str, data: Path | None, max_tokens: int
) -> tuple[Workload, dict[Item, Row]]:
    """Return a workload, and the cut row of each of its items that has anything to learn.

    Both are read once per process.

    Raises:
        BaseError: There is no such base model.
        DataError: There is no such workload, or its files are missing.
    """
    tokenizer = tokenizer_of(model)
    opened = open_workload(workload, data, tokenizer, max_tokens=max_tokens)
    rows = tokenize([item.example for item in opened.items], tokenizer)
    if len(rows) == len(opened.items):
        return opened, {i: row.cut(max_tokens) for i, row in zip(opened.items, rows, strict=True)}
    each = ((item, tokenize([item.example], tokenizer)) for item in opened.items)
    return opened, {item: found[0].cut(max_tokens) for item, found in each if found}


def _adapted(settings: FleetSettings, config: str) -> AdaptedModel:
    """Return the model with an adapter of this configuration in it, loaded once per process."""
    return _loaded(settings.model, settings.dtype, settings.device, config)


@lru_cache(maxsize=1)
def _loaded(model: str, dtype: str, device: str, config: str) -> AdaptedModel:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  # slow

    folder = locate_base(model)
    _quieten()
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
    )
    base.requires_grad_(requires_grad=False)
    adapted = AdaptedModel(base.to(device).eval(), config)
    use_onednn(base)
    return adapted


@lru_cache(maxsize=1)
def tokenizer_of(model: str) -> Any:
    """Return a base model's tokenizer, loaded once per process.

    Raises:
        BaseError: There is no such base model.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415  # slow

    # The trial's processes are as many as the cores already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _quieten()
    return AutoTokenizer.from_pretrained(locate_base(model), local_files_only=True)


@lru_cache(maxsize=8)
def _initial_adapter(
    model: str, rank: int, alpha: int, target_modules: str | tuple[str, ...], seed: int
) -> Adapter:
    with tempfile.TemporaryDirectory() as name:
        make_initial_adapter(
            model, Path(name), rank=rank, alpha=alpha, target_modules=target_modules, seed=seed
        )
        return read_adapter(Path(name))


def _batches(rows: Sequence[Row]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return inputs and targets of all rows, those of like length together."""
    assert rows, "there is nothing to evaluate on"
    ordered = sorted(rows, key=lambda row: len(row.ids))
    parts = [
        pad(ordered[first : first + _ROWS_AT_ONCE])
        for first in range(0, len(ordered), _ROWS_AT_ONCE)
    ]
    return [(torch.from_numpy(part.inputs), torch.from_numpy(part.targets)) for part in parts]


def _quieten() -> None:
    from transformers.utils import logging  # noqa: PLC0415  # slow

    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to each other
    logging.set_verbosity_error()
    logging.disable_progress_bar()

"""Trains a small language model from nothing: rates, batches, optimizers and their stored state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

WINDOW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train; the best of four settings tried on 1.2 M tokens each."""

    steps: int
    seed: int = 0
    batch_windows: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0
    muon: bool = False  # for the layers' matrices; all else is AdamW's

    def learning_rate_at(self, step: int) -> float:
        """Returns the rate of a step: linear warm-up, then a cosine down to a twentieth."""
        warmup = min(self.warmup_steps, max(1, self.steps // 10))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def finished_at(self, step: int) -> Recipe:
        """Returns the recipe that ends well when it is told at a step to end: this one.

        A cosine cannot be cut short: its rates follow from its end.
        """
        del step
        return self


@dataclass(frozen=True, slots=True)
class StableRecipe(Recipe):
    """Warm-up, one rate, and a short straight fall to nothing that may begin at any step.

    Source: Hu et al., "MiniCPM" (arXiv 2404.06395), warm-up, stable, decay; the straight line is
    Hägele et al. (arXiv 2405.18392); Muon: Jordan et al. 2024.

    Attributes:
        decay_steps: The last steps, in which the rate falls.
    """

    batch_windows: int = 16
    warmup_steps: int = 100
    muon: bool = True
    decay_steps: int = 300

    def learning_rate_at(self, step: int) -> float:
        """Returns the rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * min(warm, (self.steps - step) / self.decay_steps, 1.0)

    def finished_at(self, step: int) -> Recipe:
        """Returns the recipe whose fall begins at a step, or earlier if it already has."""
        return replace(self, steps=min(self.steps, step + self.decay_steps))


def training_batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yields batches of windows, int64 [batch_windows, WINDOW_TOKENS], without end.

    Every pass over the stream cuts it at another offset and shuffles the windows; the order
    follows from the seed alone.
    """
    random = torch.Generator().manual_seed(recipe.seed)
    while True:
        offset = int(torch.randint(WINDOW_TOKENS, (1,), generator=random))
        windows = stream[offset:].unfold(0, WINDOW_TOKENS, WINDOW_TOKENS)
        order = torch.randperm(len(windows), generator=random)
        for start in range(0, len(order), recipe.batch_windows):
            yield windows[order[start : start + recipe.batch_windows]]


class Training:
    """A model in training, which can be stored and taken up again.

    Attributes:
        recipe: May be replaced between steps by one of another length.
        steps_done: Of this training, those before it was taken up counted.
    """

    def __init__(
        self, model: LlamaForCausalLM, stream: torch.Tensor, recipe: Recipe, *, compiled: bool
    ) -> None:
        """Takes a model that is trained in place.

        Args:
            model: float32.
            stream: Token ids, int64 [tokens].
            recipe: Rates and lengths.
            compiled: Whether torch compiles the step, which takes a C++ compiler and a minute.
        """
        self.recipe = recipe
        self.steps_done = 0
        self._model = model
        # The compiler's wrapper shares the model's weights.
        self._forward: Any = torch.compile(model, dynamic=False) if compiled else model
        self._stream = stream
        self._batches = training_batches(stream, recipe)
        self._optimizers = _optimizers(model, recipe)

    def step(self) -> float:
        """Trains on the next batch under bfloat16 autocast; returns its loss before the step."""
        self._model.train()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate_at(self.steps_done)
        batch = next(self._batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self._forward(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self.recipe.gradient_norm_max)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.steps_done += 1
        return float(loss.detach())

    def store(self, path: Path) -> None:
        """Writes weights, optimizers and the step to one file, whole or not at all."""
        tensors = {f"model/{name}": p.detach() for name, p in self._model.named_parameters()}
        for number, optimizer in enumerate(self._optimizers):
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"{number}/{parameter}/{key}"] = torch.as_tensor(value)
        partial = path.with_name(path.name + ".partial")
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, partial, metadata={"steps_done": str(self.steps_done)})
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Takes up what `store` wrote, at the batch that comes next."""
        states: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in self._optimizers]
        parameters = dict(self._model.named_parameters())
        with safe_open(path, framework="pt") as stored, torch.no_grad():
            self.steps_done = int(stored.metadata()["steps_done"])
            for name in stored.keys():  # noqa: SIM118 -- no dictionary, and not iterable
                tensor = stored.get_tensor(name)
                owner, _, rest = name.partition("/")
                if owner == "model":
                    parameters[rest].copy_(tensor)
                else:
                    number, _, key = rest.partition("/")
                    states[int(owner)].setdefault(int(number), {})[key] = tensor
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
        batches = training_batches(self._stream, self.recipe)
        self._batches = islice(batches, self.steps_done, None)


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Returns AdamW for all parameters, or with Muon for the layers' matrices."""
    parameters = list(model.parameters())
    matrices: list[torch.nn.Parameter] = []
    if recipe.muon:
        matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]  # noqa: PLR2004
    chosen = {id(parameter) for parameter in matrices}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [parameter for parameter in parameters if id(parameter) not in chosen],
            betas=(0.9, 0.95),
            weight_decay=recipe.weight_decay,
        )
    ]
    if matrices:
        # Scaled so that its steps are as long as AdamW's and one rate fits both.
        muon = torch.optim.Muon(
            matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        optimizers.append(muon)
    return optimizers

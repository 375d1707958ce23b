"""Tries whether a quantised base model can be trained on: a program of its own, for it may crash.

    python -m agent.precision_probe bitsandbytes|torchao cpu|cuda

It goes the trainer's way in small: a model of two layers is saved, loaded quantised, given an
adapter, evaluated, and then differentiated. The gradients are compared with those of the model that
is not quantised: a library that computes without an error and gives wrong gradients does not work.
(bitsandbytes 0.50 repacks its weights at an evaluation on CPUs with AVX512-BF16, and gives none at
all from then on, with a warning.)
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.adapter import AdaptedModel
from agent.quantized import Library, hide_others, load_quantized, quieten
from transport.exit_codes import ExitCode

# Quantisation turns this model's gradients to a cosine of 0.96 (nf4) and 0.999 (int8). Losing what
# goes back through one projection of each layer leaves 0.75 at most: weights are drawn wider than
# usual, since layers that hardly change their input would hardly change its gradient either.
_LEAST_COSINE = 0.85
_LEAST_NORM, _MOST_NORM = 0.8, 1.25
_INITIALIZER_RANGE = 0.06
_VOCABULARY = 96


def main(library: str, device: str) -> int:
    """Say on stdout, as one line of JSON, whether the library works here."""
    try:
        reason = trouble(Library(library), device)
    except Exception as error:  # noqa: BLE001  # whatever a library that does not fit here raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        reason = f"{type(error).__name__}: {reason}"
    print(json.dumps({"works": not reason, "reason": reason}), flush=True)  # noqa: T201  # its answer
    return ExitCode.OK


def trouble(library: Library, device: str) -> str:
    """Return what is wrong with training on a base model quantised by this library, "" if nothing.

    Args:
        library: What quantises.
        device: Where, as torch names it.
    """
    hide_others(library)
    quieten()
    dtype = torch.bfloat16 if device == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        _save_model(Path(folder))
        from transformers import AutoModelForCausalLM  # noqa: PLC0415  # slow

        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        expected = _gradients(whole.to(device))
        found = _gradients(load_quantized(Path(folder), library, dtype=dtype, device=device))
    return compare(expected, found)


def compare(expected: torch.Tensor, found: torch.Tensor) -> str:
    """Return in which way two gradients differ by more than quantisation makes them, or ""."""
    if not bool(torch.isfinite(found).all()):
        return "its gradients are not finite"
    ratio = float(found.norm() / expected.norm())
    cosine = float(torch.nn.functional.cosine_similarity(expected, found, dim=0))
    if cosine < _LEAST_COSINE or not _LEAST_NORM <= ratio <= _MOST_NORM:
        return f"its gradients are wrong (cosine {cosine:.2f}, {ratio:.2f} times as long)"
    return ""


def _save_model(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  # slow

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=_INITIALIZER_RANGE,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _gradients(base: Any) -> torch.Tensor:
    """Return float32 (coordinates,), the adapter's gradients after an evaluation, on the CPU."""
    base.requires_grad_(requires_grad=False)
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    options = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
    model = AdaptedModel(base, json.dumps({**options, "target_modules": targets}))
    generator = np.random.default_rng(0)
    model.load_flat(generator.normal(scale=0.1, size=model.layout.size).astype(np.float32))
    ids = torch.arange(48, device=base.device).reshape(2, 24) % _VOCABULARY
    base.eval()
    with torch.no_grad():
        base(input_ids=ids)
    base.train()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.enable_input_require_grads()
    base(input_ids=ids, labels=ids).loss.backward()
    return torch.cat(
        [
            torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten()
            for each in model.parameters
        ]
    ).cpu()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

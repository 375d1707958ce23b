"""Loads the base model and the device's rows: what the trainer keeps for all tasks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.base import BaseError, base_digest, locate_base
from agent.config import AgentConfig
from agent.data import AnyExample, DataError, load_examples, split_heldout
from agent.headroom import available_bytes, total_bytes
from agent.quantized import (
    Choice,
    Library,
    choose,
    held_bytes,
    load_quantized,
    probe,
    quieten,
)
from agent.tokens import Row, tokenize
from agent.weights import count_weights

_LOG = logging.getLogger(__name__)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """The base model and the device's text, ready for any task.

    Attributes:
        base: The Hugging Face causal language model, frozen, in evaluation mode, on its device.
        base_digest: 32 bytes.
        train_rows: Uncut.
        heldout_rows: Uncut; empty where there is nothing to measure with.
        cuda: The version of CUDA that is used, "" on a CPU.
        library: What has quantised the base model; None where it is in full.
        precision: In which numbers the base model is held, such as bfloat16, int8 or nf4.
        precision_reason: Why in these.
        base_bytes: What its weights take.
        max_positions: The longest sequence that the base model can read.
    """

    base: Any
    base_digest: bytes
    train_rows: tuple[Row, ...]
    heldout_rows: tuple[Row, ...]
    cuda: str
    max_positions: int
    library: Library | None
    precision: str
    precision_reason: str
    base_bytes: int


def load(config: AgentConfig) -> Loaded:
    """Return the base model and the rows that the configuration names.

    Raises:
        BaseError: There is no such model, or it cannot be loaded as it is configured.
        DataError: The examples cannot be read, or nothing can be learnt from them.
        MemoryError: Memory is short now (torch has errors of its own for it).
    """
    if config.model is None:
        raise BaseError("no base model is named: set `model` to a folder or a hub id")
    # The text is read first: a mistake in it should not wait for gigabytes of weights.
    train_examples, heldout_examples = _examples(config)
    folder = locate_base(config.model)
    digest = base_digest(folder, cache=config.state_dir / "base_digest.json")
    quieten()
    _LOG.debug("loading %s", folder)
    tokenizer = _tokenizer(folder)
    train_rows = _rows(train_examples, tokenizer, config.data.train)
    heldout_rows = _rows(heldout_examples, tokenizer, config.data.heldout or config.data.train)
    if not train_rows:
        raise DataError(f"{config.data.train}: no example has anything to learn")
    base, choice = _base(folder, config)
    _check_ids([*train_rows, *heldout_rows], base, folder)
    return Loaded(
        base=base,
        base_digest=digest,
        train_rows=tuple(train_rows),
        heldout_rows=tuple(heldout_rows),
        cuda=_cuda_version(base),
        max_positions=int(getattr(base.config, "max_position_embeddings", None) or 1 << 30),
        library=choice.library,
        precision=choice.library.numbers if choice.library else str(base.dtype).split(".")[-1],
        precision_reason=choice.reason,
        base_bytes=held_bytes(base),
    )


def _examples(config: AgentConfig) -> tuple[list[AnyExample], list[AnyExample]]:
    examples = load_examples(config.data.train)
    if config.data.heldout is not None:
        return examples, load_examples(config.data.heldout)
    return split_heldout(examples, share=config.data.heldout_share)


def _rows(examples: Sequence[AnyExample], tokenizer: Any, path: Path) -> list[Row]:
    rows = tokenize(examples, tokenizer)
    if len(rows) < len(examples):
        _LOG.warning("%s: %d examples have nothing to learn", path, len(examples) - len(rows))
    return rows


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415  # slow

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a damaged file makes the libraries raise
        raise BaseError(f"{folder}: its tokenizer cannot be loaded: {_line(error)}") from error


def _base(folder: Path, config: AgentConfig) -> tuple[Any, Choice]:
    import torch  # noqa: PLC0415  # slow

    from agent.memory import is_out_of_memory  # noqa: PLC0415  # imports torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise BaseError(
            "device is cuda, but torch finds none; install a torch built for this machine's CUDA, "
            "or set device to cpu"
        )
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device, dtype = "cuda" if cuda else "cpu", _dtype(config.dtype, cuda=cuda)
    choice = _chosen(folder, config, device=device, dtype=dtype)
    try:
        if choice.library:
            base = load_quantized(folder, choice.library, dtype=dtype, device=device)
        else:
            base = _in_full(folder, dtype).to(device)
        base.requires_grad_(requires_grad=False)
        return base.eval(), choice
    except Exception as error:  # whatever a damaged file makes the libraries raise
        if is_out_of_memory(error):
            raise  # it may fit later
        raise BaseError(f"{folder}: the model cannot be loaded: {_line(error)}") from error


def _in_full(folder: Path, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  # slow

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True
    )


def _chosen(folder: Path, config: AgentConfig, *, device: str, dtype: Any) -> Choice:
    """Return in which numbers to hold the base model, of which there is known to be room for it.

    Raises:
        BaseError: A library that is asked for does not work, or the model is too large for ever.
        MemoryError: The model is too large now.
    """
    weights = count_weights(folder)
    total, available = _memory(device)
    full = weights.needed_bytes(library="", itemsize=dtype.itemsize) if weights else None
    choice = choose(
        config.base_precision,
        full_bytes=full,
        memory_bytes=total,
        probe=lambda library: probe(
            library, device=device, cache=config.state_dir / "precision.json"
        ),
    )
    _LOG.info("base model in %s: %s", choice.library or dtype, choice.reason)
    if weights:
        library = choice.library.value if choice.library else ""
        needed = weights.needed_bytes(library=library, itemsize=dtype.itemsize)
        _check_room(folder, needed, total=total, available=available, choice=choice)
    return choice


def _memory(device: str) -> tuple[int | None, int | None]:
    """Return the bytes that there are and that could be had now, where the model is to be."""
    import torch  # noqa: PLC0415  # slow

    # A Jetson's GPU has the machine's own memory; CUDA counts caches that the kernel would give up.
    if device == "cpu" or getattr(torch.cuda.get_device_properties(0), "is_integrated", False):
        return total_bytes(), available_bytes()
    free, total = torch.cuda.mem_get_info()
    return int(total), int(free)


def _check_room(
    folder: Path, needed: int, *, total: int | None, available: int | None, choice: Choice
) -> None:
    if available is None or needed <= available:
        return
    remedy = "take a smaller base model"
    if choice.library is None:
        remedy = f"{remedy}, or install fedfstq[qlora] and set base_precision to auto"
    if total is not None and needed > total:
        raise BaseError(
            f"{folder}: the model needs {needed // _MIB} MiB, all memory is {total // _MIB} MiB; "
            f"{remedy}"
        )
    raise MemoryError(
        f"it needs {needed // _MIB} MiB and {available // _MIB} MiB are available; stop other "
        f"programs, {remedy}"
    )


def _dtype(name: str, *, cuda: bool) -> Any:
    import torch  # noqa: PLC0415  # slow

    if name != "auto":
        return getattr(torch, name)
    # bfloat16 halves the base's memory; CPUs and older GPUs emulate it, slower than float32.
    return torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float32


def _cuda_version(base: Any) -> str:
    import torch  # noqa: PLC0415  # slow

    return str(torch.version.cuda or "") if base.device.type == "cuda" else ""


def _check_ids(rows: Sequence[Row], base: Any, folder: Path) -> None:
    highest = max(int(row.ids.max()) for row in rows)
    vocabulary = base.get_input_embeddings().weight.shape[0]
    if highest >= vocabulary:
        raise BaseError(
            f"{folder}: tokenizer and model do not belong together: the tokenizer gives id "
            f"{highest}, the model has {vocabulary}"
        )


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]

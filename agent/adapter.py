"""LoRA adapters: the only file that imports peft.

The adapter's tensors have the names of PEFT's safetensors file, and their flat order is that of
`codec.layout`. A configuration comes from the aggregator and is not trusted: what is not known to
leave the base model as it is, is refused.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agent.base import base_digest, locate_base
from codec.layout import Layout

FloatArray = npt.NDArray[np.float32]

# [characters] PEFT's file with the module names of the deepest published models is some 200 KB.
_MAX_CONFIG_CHARS = 1 << 20
_MAX_RANK = 1024
_MAX_TARGETS = 16_384
_MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")

# Says where an adapter comes from and how its file is kept; nothing of it reaches the model.
_INFORMATIVE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
    }
)
_WEIGHT = re.compile(r"\.(lora_[AB])\.default\.weight$")


class AdapterError(Exception):
    """The adapter's configuration, names or values do not fit; the text says which and why."""


class AdaptedModel:
    """A base model with a LoRA adapter in it; the base is frozen, the adapter is float32.

    Attributes:
        base: The Hugging Face causal language model, whose linear layers now hold the adapter.
        layout: Names and shapes of the adapter's tensors.
        parameters: The adapter's parameters in the layout's order.
    """

    def __init__(self, base: Any, config_text: str) -> None:
        """Put a new adapter into the base model.

        Args:
            base: The model, changed in place until `detach`.
            config_text: PEFT's adapter_config.json.

        Raises:
            AdapterError: The configuration is refused, or names modules that the model has not.
        """
        options = checked_options(config_text)
        try:
            self._peft = _inserted(base, options)
            trained = _trained(self._peft)
            self.layout = Layout.from_shapes(
                {name: tuple(parameter.shape) for name, parameter in trained.items()}
            )
        except Exception:
            _take_out(base)
            raise
        self.base = base
        self.config_text = config_text
        self.parameters: tuple[torch.nn.Parameter, ...] = tuple(
            trained[tensor.name] for tensor in self.layout.tensors
        )

    @property
    def device(self) -> torch.device:
        """Where the adapter is."""
        return self.parameters[0].device

    @torch.no_grad()
    def load_flat(self, flat: FloatArray) -> None:
        """Set the adapter, bit by bit.

        Args:
            flat: float32 (layout.size,).

        Raises:
            AdapterError: Another size or dtype, or a value that is not finite.
        """
        if flat.dtype != np.float32 or flat.shape != (self.layout.size,):
            raise AdapterError(
                f"the adapter has {flat.dtype} {flat.shape}, the layout float32 "
                f"({self.layout.size},)"
            )
        if not np.isfinite(flat).all():
            raise AdapterError("the adapter holds a value that is not finite")
        for tensor, parameter in zip(self.layout.tensors, self.parameters, strict=True):
            values = flat[tensor.offset : tensor.end].reshape(tensor.shape)
            parameter.copy_(torch.from_numpy(values.copy()))

    @torch.no_grad()
    def read_flat(self) -> FloatArray:
        """Return float32 (layout.size,), the adapter as it is, bit by bit."""
        flat = np.empty(self.layout.size, dtype=np.float32)
        for tensor, parameter in zip(self.layout.tensors, self.parameters, strict=True):
            flat[tensor.offset : tensor.end] = parameter.detach().reshape(-1).cpu().numpy()
        return flat

    def drop_gradients(self) -> None:
        """Free the memory of the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def detach(self) -> Any:
        """Take the adapter out again, and return the base model as it was."""
        base = self._peft.unload()
        base.__dict__.pop("peft_config", None)  # unload leaves it, and it warns the next adapter
        return base


def read_adapter_file(path: Path, layout: Layout) -> FloatArray:
    """Return float32 (layout.size,) of a raw little-endian float32 file in layout order.

    Raises:
        AdapterError: The file has another length than the layout, or a value is not finite.
        OSError: It is missing or cannot be read.
    """
    size, expected = path.stat().st_size, 4 * layout.size
    if size != expected:
        raise AdapterError(f"{path.name} has {size} bytes, the layout says {expected}")
    flat = np.fromfile(path, dtype="<f4").astype(np.float32, copy=False)
    if not np.isfinite(flat).all():
        raise AdapterError(f"{path.name} holds a value that is not finite")
    return flat


def make_initial_adapter(
    model: str,
    out: Path,
    *,
    rank: int,
    alpha: int,
    target_modules: str | Sequence[str],
    seed: int,
) -> None:
    """Write a run's adapter version 0 as a PEFT folder with `fedfstq.json` beside it.

    A is uniform in ±1/√(inputs) from numpy's PCG64 stream in layout order, B is zero (as PEFT
    starts LoRA), so that the adapted model is the base model, and the same seed gives the same
    bytes whatever version of torch is there. No weights of the base model are loaded.

    Args:
        model: Folder or hub id of the base model; written as given.
        out: The folder to write to; it is made where it is not there.
        rank: r.
        alpha: lora_alpha.
        target_modules: "all-linear" for all linear layers but the output layer, or names that the
            chosen modules end in; the full names of all of them are written.
        seed: Of A.

    Raises:
        BaseError: There is no such base model.
        AdapterError: The options are refused, or no module has such a name.
    """
    from safetensors.numpy import save  # noqa: PLC0415  # only this function writes one

    folder = locate_base(model)
    targets = target_modules if isinstance(target_modules, str) else sorted(target_modules)
    config, layout = _expand(folder, rank=rank, alpha=alpha, targets=targets)
    config["base_model_name_or_path"] = model
    text = json.dumps(config, indent=2, sort_keys=True)
    checked_options(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "adapter_config.json").write_text(text + "\n")
    tensors = layout.unflatten(_initial_values(layout, seed))
    # Not save_file: its file is for its owner alone, and an aggregator is another user.
    (out / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    origin = {"base_model": model, "base_digest": base_digest(folder).hex()}
    (out / "fedfstq.json").write_text(json.dumps(origin, indent=2) + "\n")


def load_peft_folder(base: Any, folder: Path) -> Any:
    """Return the base model with a PEFT folder's adapter in it, loaded as any user of peft would.

    Args:
        base: A Hugging Face causal language model, changed in place.
        folder: Written by an aggregator, or by `make_initial_adapter`.
    """
    from peft import PeftModel  # noqa: PLC0415  # slow; only here needed

    return PeftModel.from_pretrained(base, folder).eval().get_base_model()


def checked_options(config_text: str) -> dict[str, Any]:
    """Return LoraConfig's arguments for a configuration that is known to leave the base as it is.

    Raises:
        AdapterError: No JSON object, no plain LoRA, a value out of range, or an option that could
            change the base model, its other layers or how the adapter is applied.
    """
    config = _parse(config_text)
    for key, expected in (("peft_type", "LORA"), ("task_type", "CAUSAL_LM"), ("bias", "none")):
        found = config.pop(key, expected if key == "bias" else None)
        if found != expected:
            raise AdapterError(f"{key} is {found!r:.60}, only {expected!r} is accepted")
    options = {
        "r": _integer(config.pop("r", None), "r", most=_MAX_RANK),
        "lora_alpha": _number(config.pop("lora_alpha", None), "lora_alpha"),
        "lora_dropout": _number(
            config.pop("lora_dropout", 0.0), "lora_dropout", least=0.0, most=0.99
        ),
        "fan_in_fan_out": _boolean(config.pop("fan_in_fan_out", False), "fan_in_fan_out"),
        "target_modules": _targets(config.pop("target_modules", None)),
    }
    start = config.pop("init_lora_weights", True)
    if not isinstance(start, bool) and start != "gaussian":
        # PiSSA, OLoRA, CorDA, EVA and LoftQ move a part of the base's weights into the adapter.
        raise AdapterError(f"init_lora_weights is {start!r:.60}, which may change the base model")
    for key, value in config.items():
        if key not in _INFORMATIVE and value not in (None, False, {}, []):
            raise AdapterError(f"{key} is set, which is not accepted (only plain LoRA is)")
    return {**options, "task_type": "CAUSAL_LM", "bias": "none"}


def _inserted(base: Any, options: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  # slow; only here needed

    try:
        with _without_future_warnings():
            return get_peft_model(base, LoraConfig(**options))
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"the adapter does not fit the model: {_line(error)}") from error


def _trained(adapted: Any) -> dict[str, torch.nn.Parameter]:
    """Return what is trained, by the names of PEFT's file."""
    trained = {
        _WEIGHT.sub(r".\1.weight", name): parameter
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    if any(parameter.dtype is not torch.float32 for parameter in trained.values()):
        raise AdapterError("the adapter is not float32")
    return trained


def _take_out(base: Any) -> None:
    """Put the base's own layers back: PEFT refuses a module after it has replaced others."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415  # slow

    replaced = [
        (name, module)
        for name, module in base.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
    for name, module in replaced:
        parent, _, attribute = name.rpartition(".")
        setattr(base.get_submodule(parent), attribute, module.get_base_layer())
    base.__dict__.pop("peft_config", None)


def _parse(text: str) -> dict[str, Any]:
    if len(text) > _MAX_CONFIG_CHARS:
        raise AdapterError(f"the configuration has {len(text)} characters, which is too long")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"the configuration is not JSON: {_line(error)}") from error
    if not isinstance(config, dict):
        raise AdapterError("the configuration is no JSON object")
    return config


def _integer(value: object, name: str, *, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise AdapterError(f"{name} is {value!r:.60}, an integer from 1 to {most} was expected")
    return value


def _number(value: object, name: str, *, least: float = 1e-6, most: float = 1e6) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise AdapterError(
            f"{name} is {value!r:.60}, a number from {least:g} to {most:g} was expected"
        )
    return value


def _boolean(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise AdapterError(f"{name} is {value!r:.60}, true or false was expected")
    return value


def _targets(value: object) -> list[str]:
    # A string would be a regular expression (or a shorthand that each PEFT version expands its own
    # way): both sides must mean the same modules.
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_TARGETS:
        raise AdapterError("target_modules is no list of module names")
    for name in value:
        if not isinstance(name, str) or not _MODULE.fullmatch(name):
            raise AdapterError(f"target_modules holds {name!r:.60}, which is no module's name")
    return sorted(value)


def _expand(
    folder: Path, *, rank: int, alpha: int, targets: str | list[str]
) -> tuple[dict[str, Any], Layout]:
    """Return the configuration with its modules' full names, and the layout, without weights."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        base = AutoModelForCausalLM.from_config(config)
        wanted = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", bias="none"
        )
        try:
            with _without_future_warnings():
                adapted = get_peft_model(base, wanted, low_cpu_mem_usage=True)
        except (ValueError, TypeError) as error:
            raise AdapterError(f"the adapter does not fit the model: {_line(error)}") from error
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    layout = Layout.from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    options = adapted.peft_config["default"].to_dict()
    # PEFT shortens long lists to the suffixes that tell the modules apart in this model.
    options["target_modules"] = sorted({_module_of(tensor.name) for tensor in layout.tensors})
    options["inference_mode"] = True
    return options, layout


def _module_of(name: str) -> str:
    return name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]


def _initial_values(layout: Layout, seed: int) -> FloatArray:
    generator = np.random.Generator(np.random.PCG64(seed))
    flat = np.zeros(layout.size, dtype=np.float32)
    for tensor in layout.tensors:
        if tensor.name.endswith(".lora_A.weight"):
            bound = 1 / math.sqrt(tensor.shape[1])
            uniform = generator.random(tensor.size, dtype=np.float32)
            flat[tensor.offset : tensor.end] = (2 * uniform - 1) * np.float32(bound)
    return flat


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """Keep what the libraries say to each other about later versions from the user's terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]

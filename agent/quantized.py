"""In which numbers the base model is held: in full where it fits, in few bits where that works.

The adapter is float32 whatever the base is in, and its layout is of the base's shapes alone, so
devices of one run may differ here. What is not a linear layer (embeddings, norms, the output layer)
stays in the base's own dtype: the norms compute in float32 by themselves, and the loss is taken of
float32 logits, so that nothing needs to be turned into float32 to train on it.

The only file that imports bitsandbytes or torchao, and what of transformers drives them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from agent import heap
from agent.base import BaseError

_LOG = logging.getLogger(__name__)

# [s] Loading torch twice over from a slow card takes a minute; a driver that hangs takes for ever.
PROBE_TIMEOUT_S = 180.0
PROBE_COMMAND = (sys.executable, "-m", "agent.precision_probe")
# A base model that takes more of the memory leaves too little for activations, the optimizer, the
# encoder and everything else that the device does.
_FULL_SHARE = 0.5

Wanted = Literal["auto", "full", "bitsandbytes", "torchao"]


class Library(str, Enum):
    """What can quantise a base model, in the order of trial."""

    BITSANDBYTES = "bitsandbytes"
    TORCHAO = "torchao"

    @property
    def numbers(self) -> str:
        """What it holds linear layers in."""
        return {Library.BITSANDBYTES: "nf4", Library.TORCHAO: "int8"}[self]


@dataclass(frozen=True, slots=True)
class Choice:
    """What holds the base model, and why.

    Attributes:
        library: What quantises it; None leaves it in full.
        reason: One line.
    """

    library: Library | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a library works here, and a line that says so."""

    works: bool
    reason: str


Probe = Callable[[Library], Verdict]


def choose(
    wanted: Wanted, *, full_bytes: int | None, memory_bytes: int | None, probe: Probe
) -> Choice:
    """Return what is to hold the base model.

    Args:
        wanted: As configured.
        full_bytes: What the base model takes in full; None where that is not known.
        memory_bytes: The memory that there is where it computes; None where that is not known.
        probe: Tells whether a library works; not asked where nothing depends on it.

    Raises:
        BaseError: A library is asked for by name that does not work here.
    """
    if wanted == "full":
        return Choice(None, "configured")
    if wanted != "auto":
        verdict = probe(Library(wanted))
        if verdict.works:
            return Choice(Library(wanted), f"configured; {verdict.reason}")
        raise BaseError(
            f"base_precision is {wanted}, but {verdict.reason}; set base_precision to auto or full"
        )
    if full_bytes is None or memory_bytes is None:
        return Choice(None, "how much memory it takes is not known")
    share = f"in full it takes {100 * full_bytes / memory_bytes:.0f} % of the memory"
    if full_bytes <= _FULL_SHARE * memory_bytes:
        return Choice(None, share)
    failures: list[str] = []
    for library in Library:
        verdict = probe(library)
        if verdict.works:
            return Choice(library, "; ".join([share, *failures, verdict.reason]))
        failures.append(verdict.reason)
    return Choice(None, "; ".join([share, *failures]))


def probe(
    library: Library,
    *,
    device: str,
    cache: Path,
    command: Sequence[str] = PROBE_COMMAND,
    timeout_s: float = PROBE_TIMEOUT_S,
) -> Verdict:
    """Return whether training on a base model that this library quantises works here.

    It is tried in a process of its own, once for each version of library and torch and each
    device. A trial that was ended from outside, or took too long, is made again at the next start.

    Args:
        library: Which.
        device: "cpu" or "cuda".
        cache: The file that keeps verdicts.
        command: What tries; library and device are added to it.
        timeout_s: What it may take.
    """
    version = _version(library.value)
    if version is None:
        return Verdict(works=False, reason=f"{library.value} is not installed")
    stamp = f"{version}, torch {_version('torch')}, {_device_name(device)}"
    known = _read_cache(cache)
    name = f"{library.value} {version}"
    match known.get(library.value):
        case {"stamp": str(kept), "works": bool(works), "reason": str(reason)} if kept == stamp:
            return Verdict(works, reason)
    _LOG.info("trying %s on this device, once", name)
    answer = _ask([*command, library.value, device], timeout_s=timeout_s)
    if isinstance(answer, str):
        return Verdict(works=False, reason=f"{name} {answer}")
    works = answer.works
    reason = f"{name} works here" if works else f"{name} does not work here: {answer.reason}"
    _write_cache(cache, {**known, library.value: _entry(stamp, works=works, reason=reason)})
    return Verdict(works, reason)


def load_quantized(folder: Path, library: Library, *, dtype: Any, device: str) -> Any:
    """Return a causal language model whose linear layers but the output layer are quantised.

    Weights are quantised one by one as they are read, so that the full model is never held.

    Args:
        folder: The model's.
        library: What quantises.
        dtype: torch's, of everything else and of the arithmetic.
        device: "cpu" or "cuda".
    """
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  # slow

    with warnings.catch_warnings(), heap.giving_back():
        warnings.simplefilter("ignore")  # advice of the libraries to each other
        base = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            quantization_config=_options(library, dtype),
            device_map={"": device},
        )
    if library is Library.BITSANDBYTES:
        for module in base.modules():
            # On some CPUs an evaluation repacks the weights, and no gradient passes them any more.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return base


def hide_others(library: Library | None) -> None:
    """Keep peft from libraries that are not used: it imports bitsandbytes wherever it is installed.

    On a device where that crashes, a base model in full would not be trained either.
    """
    for other in Library:
        if other is not library:
            # None stands for a module that cannot be found, wherever it is looked for.
            sys.modules.setdefault(other.value, None)  # type: ignore[arg-type]


def held_bytes(base: Any) -> int:
    """Return what a model's weights take, quantised or not."""
    return sum(_tensor_bytes(each) for each in [*base.parameters(), *base.buffers()])


def quieten() -> None:
    """Keep transformers from the network and from drawing bars and advice on our stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # rows are few, threads cost memory
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything that is needed lies in the folder
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  # slow

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _options(library: Library, dtype: Any) -> Any:
    match library:
        case Library.BITSANDBYTES:
            from transformers import BitsAndBytesConfig  # noqa: PLC0415  # slow

            return BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        case Library.TORCHAO:
            from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415  # optional
            from transformers import TorchAoConfig  # noqa: PLC0415  # slow

            return TorchAoConfig(Int8WeightOnlyConfig())


def _tensor_bytes(tensor: Any) -> int:
    # torchao's tensors say that they are of the dtype that they stand for; what they hold is named.
    parts = getattr(tensor, "tensor_data_names", None)
    inner = [getattr(tensor, name) for name in parts] if parts else [tensor]
    state = getattr(tensor, "quant_state", None)  # bitsandbytes' scales
    if state is not None:
        nested = getattr(state, "state2", None)
        inner += [state.absmax, *([nested.absmax] if nested is not None else [])]
    return sum(int(each.numel() * each.element_size()) for each in inner)


def _ask(command: list[str], *, timeout_s: float) -> Verdict | str:
    """Return the child's verdict, or in words why it gave none that would hold the next time."""
    try:
        child = subprocess.run(  # noqa: S603  # this program's own
            command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"was tried for {timeout_s:.0f} s without an end"
    except OSError as error:
        return f"could not be tried: {error.strerror}"
    if child.returncode < 0:
        if -child.returncode in _FROM_OUTSIDE:
            return f"could not be tried: the trial was ended by signal {-child.returncode}"
        return Verdict(works=False, reason=f"it crashes (signal {-child.returncode})")
    lines = child.stdout.decode(errors="replace").splitlines()
    with contextlib.suppress(ValueError):
        match json.loads(lines[-1] if lines else ""):
            case {"works": bool(works), "reason": str(reason)}:
                return Verdict(works, reason)
    _LOG.warning("the trial said: %s", child.stderr.decode(errors="replace")[-500:])
    return Verdict(works=False, reason=f"its trial ends with exit code {child.returncode}")


# SIGHUP, SIGINT, SIGKILL and SIGTERM: an operator, the supervisor, or the kernel short of memory.
_FROM_OUTSIDE = frozenset({1, 2, 9, 15})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: str) -> str:
    import torch  # noqa: PLC0415  # slow

    return torch.cuda.get_device_name(0) if device == "cuda" else device


def _entry(stamp: str, *, works: bool, reason: str) -> dict[str, object]:
    return {"stamp": stamp, "works": works, "reason": reason}


def _read_cache(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}  # it only saves time
    return known if isinstance(known, dict) else {}


def _write_cache(cache: Path, known: dict[str, Any]) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known))
        temporary.replace(cache)
    except OSError:
        with contextlib.suppress(OSError):  # it only saves time
            temporary.unlink()

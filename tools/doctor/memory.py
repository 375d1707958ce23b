"""Memory and swap against what the base model takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.telemetry import parse_meminfo
from agent.weights import count_weights
from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, fail, ok, skip, warn
from tools.doctor.locks import Holder, holder_of

_GIB: Final = 1 << 30
# [bytes] torch with CUDA, and an adapter with its optimizer: what a trainer takes at the least
# besides the base model, and with which batches of some hundred tokens run without being halved.
_LEAST_BESIDES: Final = _GIB // 2
_GOOD_BESIDES: Final = 3 * _GIB // 2
# [bytes] Of one weight.
_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# [bytes] An agent or aggregator without torch.
_SERVICE: Final = 256 << 20
# [bytes] Boards up to this size run short of memory when anything else runs beside the trainer.
_SMALL_BOARD: Final = 9 * _GIB


def examine_memory(context: Context) -> Iterator[Finding]:
    """Yield `memory` and `swap`."""
    meminfo = {
        name: kib << 10 for name, kib in parse_meminfo(context.text("proc/meminfo") or "").items()
    }
    available = meminfo.get("MemAvailable")
    if available is None:
        yield skip("memory", "/proc/meminfo does not tell MemAvailable")
    elif context.role is Role.AGENT:
        weights = _weights_bytes(context)
        trains = holder_of(context.agent.trainer_lock) is Holder.HELD
        yield judge_trainer_memory(available, weights=weights, is_loaded=trains)
    else:
        yield judge_service_memory(available)
    yield judge_swap(meminfo.get("SwapTotal", 0), total=meminfo.get("MemTotal", 0))


def _weights_bytes(context: Context) -> int | None:
    """Return what the weights take once they are loaded; None where the model is not known."""
    config = context.agent
    folder = Path(config.model).expanduser() if config.model else None
    weights = count_weights(folder) if folder is not None else None
    if weights is None:
        return None
    # As the trainer chooses: half the bits where a GPU computes with them.
    wanted = config.dtype
    if wanted == "auto":
        uses_cuda = config.device != "cpu" and bool(context.known.has_cuda)
        wanted = "bfloat16" if uses_cuda else "float32"
    return weights.needed_bytes(library="", itemsize=_BYTES[wanted]) or None


def judge_trainer_memory(available: int, *, weights: int | None, is_loaded: bool) -> Finding:
    """Tell whether the base model and its training fit into what is free.

    Args:
        available: MemAvailable, in bytes.
        weights: The base model's files, in bytes; None where they are not known.
        is_loaded: A trainer runs, and holds the base model already.
    """
    free = f"{_gib(available)} available"
    if is_loaded:
        return ok("memory", f"{free} while the trainer runs")
    if weights is None:
        return ok("memory", f"{free}; how much the base model takes is not known")
    need = f"{free}, the base model's weights take {_gib(weights)}"
    mend = (
        "stop what else runs (on a Jetson: systemctl set-default multi-user.target, and restart), "
        "or take a smaller base model"
    )
    if available < weights + _LEAST_BESIDES:
        return fail("memory", f"{need}, and torch some {_gib(_LEAST_BESIDES)} more", mend)
    if available < weights + _GOOD_BESIDES:
        return warn("memory", f"{need}: batches will be halved", mend)
    return ok("memory", need)


def judge_service_memory(available: int) -> Finding:
    """Tell whether a service without torch fits into what is free."""
    text = f"{_gib(available)} available"
    if available < _SERVICE:
        return warn("memory", text, "stop what else runs on this machine: ps aux --sort=-rss")
    return ok("memory", text)


def judge_swap(swap: int, *, total: int) -> Finding:
    """Tell whether a short peak of memory has somewhere to go."""
    if swap:
        return ok("swap", _gib(swap))
    if total and total <= _SMALL_BOARD:
        return warn(
            "swap",
            f"none, with {_gib(total)} of memory: a short peak ends the trainer",
            "fallocate -l 4G /swapfile && chmod 600 /swapfile && mkswap /swapfile && "
            "swapon /swapfile, and add it to /etc/fstab",
        )
    return ok("swap", "none, and none is needed")


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.1f} GiB"

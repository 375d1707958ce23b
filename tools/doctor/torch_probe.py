"""torch, CUDA and the libraries that quantise a base model, each tried in its own process.

Importing torch takes hundreds of megabytes and may end a process whose driver is wrong: the doctor
asks a child, and reads one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tools.doctor.board import is_jetson, read_release
from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, skip, warn

# [s] A first import from an SD card.
PROBE_S: Final = 150.0

_TORCH: Final = """
import json, warnings
warnings.simplefilter("ignore")
import torch
told = {"torch": torch.__version__, "cuda": torch.version.cuda or "", "usable": False}
if torch.cuda.is_available():
    try:
        told["name"] = torch.cuda.get_device_name(0)
        torch.ones(256, 256, device="cuda").matmul(torch.ones(256, 256, device="cuda")).sum().item()
        told["usable"] = True
    except Exception as error:
        told["error"] = type(error).__name__ + ": " + " ".join(str(error).split())[:160]
print(json.dumps(told))
"""

# What is tried for each `base_precision`, in the trainer's order.
LIBRARIES: Final = {
    "auto": ("bitsandbytes", "torchao"),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
}


@dataclass(frozen=True, slots=True)
class TorchTold:
    """What torch says of itself.

    Attributes:
        version: "" where it cannot be imported.
        cuda: The CUDA that it was built for, "" for a CPU build.
        usable: A product of two matrices was computed on the GPU.
        error: Why it was not, or why there is no torch.
    """

    version: str
    cuda: str = ""
    usable: bool = False
    name: str = ""
    error: str = ""


def examine_torch(context: Context) -> Iterator[Finding]:
    """Yield `torch`, `cuda` and `quantized`."""
    told = read_torch(ask_python("-c", _TORCH))
    context.known.has_cuda = told.usable
    release = read_release(context)
    mend = vendor_torch(release.jetpack if release else None)
    jetson = is_jetson(context)
    yield judge_torch(told, jetson=jetson, vendor=mend)
    if not told.version:
        yield skip("cuda", "there is no torch")
        yield skip("quantized", "there is no torch")
        return
    yield judge_cuda(told, jetson=jetson, wanted=context.agent.device, vendor=mend)
    wanted = context.agent.base_precision
    if wanted == "full" or (wanted == "auto" and not told.usable):
        yield ok("quantized", "not needed: the base model is held in full precision")
        return
    yield judge_quantised(wanted, {name: _probe(name, told) for name in LIBRARIES[wanted]})


def _probe(library: str, told: TorchTold) -> str:
    """Return why a base model quantised by a library cannot be trained on, "" where it can."""
    device = "cuda" if told.usable else "cpu"
    answer, error = ask_python("-m", "agent.precision_probe", library, device)
    return error if not answer else "" if answer.get("works") else str(answer.get("reason"))


def ask_python(*arguments: str) -> tuple[dict[str, Any], str]:
    """Return what a program printed as JSON in a Python of its own, or its last error line."""
    command = (sys.executable, *arguments)
    try:
        done = subprocess.run(  # noqa: S603  # our own program
            command, capture_output=True, text=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {PROBE_S:.0f} s"
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1])), ""
    except (ValueError, IndexError, TypeError):
        said = done.stderr.strip().splitlines()
        return {}, said[-1][:200] if said else f"it ended with code {done.returncode}"


def read_torch(answer: tuple[dict[str, Any], str]) -> TorchTold:
    """Return what the child told."""
    told, error = answer
    return TorchTold(
        version=str(told.get("torch", "")),
        cuda=str(told.get("cuda", "")),
        usable=bool(told.get("usable", False)),
        name=str(told.get("name", "")),
        error=str(told.get("error", "")) or error,
    )


def vendor_torch(jetpack: int | None) -> str:
    """Return how a Jetson gets a torch that was built for its CUDA."""
    if jetpack == 6:  # noqa: PLR2004  # the release whose CUDA 12.6 PyPI's torch is not built for
        index = "https://pypi.jetson-ai-lab.io/jp6/cu126"
        return f"{sys.executable} -m pip install --force-reinstall torch --index-url {index}"
    return (
        "install the torch wheel that NVIDIA offers for this JetPack: "
        "https://docs.nvidia.com/deeplearning/frameworks/install-pytorch-jetson-platform/"
    )


def judge_torch(told: TorchTold, *, jetson: bool, vendor: str) -> Finding:
    """Tell whether there is a torch that fits the machine."""
    if not told.version:
        mend = vendor if jetson else f"{sys.executable} -m pip install 'fedfstq[agent]'"
        return fail("torch", f"it cannot be imported: {told.error}", mend)
    if jetson and not told.cuda:
        return fail(
            "torch", f"{told.version} is built for the CPU alone, on a board with a GPU", vendor
        )
    return ok("torch", f"{told.version}, {f'CUDA {told.cuda}' if told.cuda else 'CPU alone'}")


def judge_cuda(told: TorchTold, *, jetson: bool, wanted: str, vendor: str) -> Finding:
    """Tell whether torch computes on the GPU where it should."""
    if told.usable:
        text = f"{told.name} computes"
        return (
            ok("cuda", f"{text}; the trainer uses the CPU, as `device: cpu` says")
            if (wanted == "cpu")
            else ok("cuda", text)
        )
    if wanted == "cpu":
        return ok("cuda", "not used: `device: cpu`")
    why = told.error or "torch finds no device"
    if told.cuda and jetson:
        groups = "usermod -aG video,render fedfstq, then log in again"
        return fail("cuda", f"the GPU does not compute: {why}", f"{groups}; or {vendor}")
    if jetson:
        return fail("cuda", "this torch has no CUDA", vendor)
    if wanted == "cuda":
        mend = "install the GPU's driver (nvidia-smi must list it), or set `device: auto`"
        return fail("cuda", f"`device: cuda`, and the GPU does not compute: {why}", mend)
    return ok("cuda", "none; the trainer uses the CPU")


def judge_quantised(wanted: str, tried: Mapping[str, str]) -> Finding:
    """Tell which library holds the base model in fewer bits, where one works.

    Args:
        wanted: The configuration's `base_precision`.
        tried: Library → why it does not work, "" where it does.
    """
    works = [library for library, why in tried.items() if not why]
    if works:
        return ok("quantized", f"{works[0]} works")
    why = "; ".join(f"{library}: {reason}" for library, reason in tried.items())
    if wanted != "auto":
        mend = "set base_precision: auto, or install a build of it for this machine"
        return fail("quantized", why, mend)
    return warn(
        "quantized",
        f"the base model can only be held in full precision ({why})",
        f"{sys.executable} -m pip install torchao",
    )

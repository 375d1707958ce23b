"""The base model and the adapter's layout against those of the run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.base import BaseError, base_digest, locate_base
from codec.errors import InvalidInput
from codec.layout import Layout
from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, skip, warn
from transport.control import RunAnnouncement

_CACHE = "base_digest.json"


def examine_model(context: Context) -> Iterator[Finding]:
    """Yield `model` and `layout`."""
    config = context.agent
    run = context.known.run
    name = config.model or (run.base_model if run else None)
    if name is None:
        yield warn("model", "none is named", "set `model` to the run's base model: its folder")
    else:
        yield _model(name, config.state_dir, run)
    yield _layout(config.state_dir / "adapters", run)


def _model(name: str, state_dir: Path, run: RunAnnouncement | None) -> Finding:
    # A doctor downloads nothing: a hub's model is looked for in the local cache.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        folder = locate_base(name)
        _read_config(folder)
        digest = _digest(folder, state_dir)
    except BaseError as error:
        return fail("model", str(error), "copy the run's base model to the folder that model names")
    return judge_digest(digest.hex(), str(folder), run)


def _read_config(folder: Path) -> None:
    try:
        json.loads((folder / "config.json").read_bytes())
        json.loads((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BaseError(f"{folder}: config.json or tokenizer.json is damaged") from error


def _digest(folder: Path, state_dir: Path) -> bytes:
    """Return the model's digest by the trainer's own cache, without writing to it."""
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / _CACHE
        if (state_dir / _CACHE).is_file():
            shutil.copy(state_dir / _CACHE, cache)
        return base_digest(folder, cache=cache)


def judge_digest(digest: str, folder: str, run: RunAnnouncement | None) -> Finding:
    """Tell whether the base model is the run's, byte for byte."""
    if run is None:
        return ok("model", f"{folder}, digest {digest[:12]}; no run is known to compare with")
    if digest != run.base_digest:
        return fail(
            "model",
            f"{folder} has digest {digest[:12]}, the run's {run.base_model} {run.base_digest[:12]}",
            "copy the base model of the machine that made the initial adapter: rsync -a --checksum",
        )
    return ok("model", f"{folder}, the run's own")


def _layout(adapters: Path, run: RunAnnouncement | None) -> Finding:
    if run is None:
        return skip("layout", "no run is known to compare with")
    try:
        labels = [json.loads(label.read_bytes()) for label in sorted(adapters.glob("*.json"))]
        digests = {
            Layout.from_shapes({str(name): shape for name, shape in label["layout"]}).digest.hex()
            for label in labels
            if label.get("run") == run.run
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidInput):
        return warn(
            "layout", f"{adapters} cannot be read", f"rm -r {adapters}: it is fetched again"
        )
    return judge_layout(digests, run)


def judge_layout(digests: set[str], run: RunAnnouncement) -> Finding:
    """Tell whether the adapters of the run that lie here have its layout."""
    if not digests:
        return ok(
            "layout", f"no adapter of the run is here yet; its layout {run.layout_digest[:12]}"
        )
    if digests != {run.layout_digest}:
        mend = "restart the agent: it fetches the adapter again"
        return fail("layout", f"an adapter here is not of layout {run.layout_digest[:12]}", mend)
    return ok("layout", f"{run.layout_digest[:12]}, the run's own")

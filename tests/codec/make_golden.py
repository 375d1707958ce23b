"""Writes golden files for codecs of a format version; never over one that exists.

Run as `python tests/codec/make_golden.py` after a codec or a format version was added, and commit
what it writes. A golden file that no longer decodes means that devices in the field no longer do.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np

from codec.codec import Budget
from codec.layout import Layout
from codec.registry import CODECS, codec_named
from codec.segment import FORMAT_VERSION
from codec.update import decode

GOLDEN = Path(__file__).with_name("golden")
SHAPES = {
    "base.layers.0.q_proj.lora_A.weight": [4, 24],
    "base.layers.0.q_proj.lora_B.weight": [24, 4],
    "base.layers.1.v_proj.lora_A.weight": [3, 131],
    "base.layers.1.v_proj.lora_B.weight": [61, 3],
    "odd": [7],
    "one": [],
}
# Share of coordinates that are not zero, and Fisher, per tensor: all forms of support occur.
CHARACTER = ((1.0, 1.0), (1.0, 30.0), (0.02, 100.0), (0.3, 3.0), (1.0, 10.0), (1.0, 1.0))
UPDATE_BYTES = {
    "fstq": 440,
    "fstq-percentile": 300,
    "fstq+": 400,
    "fstq-random": 400,
    "fstq-magnitude": 250,
    "fstq-uniform": 300,
    "top-k": 400,
    "stc": 300,
    "eden": 260,
    "fstq-r": 300,
    "fstq-paper": 300,
    "sparseloco": 300,
    "fedfq": 400,
    "flasc": 500,
    "fstq-plus-plain": 400,
    "fstq-r-plain": 400,
}  # others: by layout
SEGMENT_BYTES = {
    "fp32": 1024,
    "fp16": 1024,
    "bf16": 1024,
    "fedpaq": 512,
    "sign": 100,
    "eden": 100,
    "fedbat": 100,
}  # others: 160
SEED = 20260428


def main() -> int:
    """Write what is missing and return 0, or write nothing and return 1 where nothing is."""
    missing = [name for name in CODECS if not path_of(name).exists()]
    for name in set(CODECS) - set(missing):
        sys.stderr.write(f"{path_of(name)} exists; golden files are only ever added\n")
    for name in missing:
        write(name)
    return 0 if missing else 1


def path_of(name: str) -> Path:
    return GOLDEN / f"v{FORMAT_VERSION}-{name}.bin"


def write(name: str) -> None:
    layout = Layout.from_shapes(SHAPES)
    delta, fisher = draw(layout)
    budget = Budget(UPDATE_BYTES.get(name), SEGMENT_BYTES.get(name, 160))
    segments = codec_named(name).encode(delta, fisher, layout=layout, budget=budget, seed=SEED)
    decoded = decode(
        name, dict(enumerate(segments)), layout=layout, segment_count=len(segments)
    )  # fmt: skip
    case = {
        "format_version": FORMAT_VERSION,
        "codec": name,
        "layout": layout.to_json(),
        "layout_digest": layout.digest.hex(),
        "update_bytes": budget.update_bytes,
        "segment_bytes": budget.segment_bytes,
        "seed": SEED,
        "segment_lengths": [len(segment) for segment in segments],
        "delta_f32_base64": text(delta),
        "fisher_f32_base64": text(fisher),
        "decoded_f32_base64": text(decoded),
    }
    path_of(name).write_bytes(b"".join(segments))
    path_of(name).with_suffix(".json").write_text(json.dumps(case, indent=1) + "\n")
    sys.stdout.write(f"wrote {path_of(name)}: {len(segments)} segments\n")


def draw(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(SEED)
    delta = random.standard_normal(layout.size) * 1e-2
    fisher = random.lognormal(0, 1, layout.size)
    for tensor, (density, weight) in zip(layout.tensors, CHARACTER, strict=True):
        window = slice(tensor.offset, tensor.end)
        delta[window] *= random.random(tensor.size) < density
        fisher[window] *= weight
    return delta.astype(np.float32), fisher.astype(np.float32)


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


if __name__ == "__main__":
    sys.exit(main())

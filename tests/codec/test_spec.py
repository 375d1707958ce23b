from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from codec import update
from codec.layout import Layout
from codec.update import decode

SPEC = Path(update.__file__).with_name("SPEC.md").read_text(encoding="utf-8")
EXAMPLE = SPEC[SPEC.index("## Worked example") :]


def block(language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```", EXAMPLE, flags=re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def test_the_worked_example_decodes_to_what_it_says() -> None:
    shapes = re.search(r"The layout `(.*?)`", EXAMPLE)
    assert shapes is not None
    layout = Layout.from_json(json.loads(shapes[1]))
    segment = bytes.fromhex(re.sub(r"#.*", "", block("hex")))
    decoded = decode("fstq", {0: segment}, layout=layout, segment_count=1)
    expected = np.array(json.loads(block("json")), dtype=np.float32)
    np.testing.assert_array_equal(expected, decoded)


def test_the_worked_examples_comments_cover_every_byte() -> None:
    lines = block("hex").splitlines()
    assert all("#" in line for line in lines)
    assert f"one segment of {len(bytes.fromhex(re.sub('#.*', '', block('hex'))))} bytes" in EXAMPLE

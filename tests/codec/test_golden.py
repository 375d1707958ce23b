"""Bytes that were written once decode for ever, and are still what the encoder writes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from codec import slices
from codec.codec import Budget
from codec.errors import CodecError, TruncatedSegment
from codec.layout import Layout, TensorSpec
from codec.registry import CODECS, codec_named
from codec.update import decode

GOLDEN = Path(__file__).with_name("golden")
NAMES = sorted(path.stem for path in GOLDEN.glob("*.bin"))


@dataclass(frozen=True)
class Golden:
    codec: str
    layout: Layout
    layout_digest: str
    budget: Budget
    seed: int
    delta: np.ndarray
    fisher: np.ndarray
    decoded: np.ndarray
    segments: tuple[bytes, ...]

    def decode(self, segments: dict[int, bytes]) -> np.ndarray:
        return decode(
            self.codec, segments, layout=self.layout, segment_count=len(self.segments)
        )  # fmt: skip


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def load(name: str) -> Golden:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    rest = (GOLDEN / f"{name}.bin").read_bytes()
    segments = []
    for length in case["segment_lengths"]:
        segments.append(rest[:length])
        rest = rest[length:]
    assert not rest
    return Golden(
        codec=case["codec"],
        layout=Layout.from_json(case["layout"]),
        layout_digest=case["layout_digest"],
        budget=Budget(case["update_bytes"], case["segment_bytes"]),
        seed=case["seed"],
        delta=floats(case["delta_f32_base64"]),
        fisher=floats(case["fisher_f32_base64"]),
        decoded=floats(case["decoded_f32_base64"]),
        segments=tuple(segments),
    )


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def test_every_codec_has_a_golden_file() -> None:
    assert {load(name).codec for name in NAMES} == set(CODECS)


def test_golden_bytes_decode_to_what_they_did(golden: Golden) -> None:
    np.testing.assert_array_equal(golden.decoded, golden.decode(dict(enumerate(golden.segments))))
    assert golden.decoded.any()


def test_the_same_input_still_gives_the_golden_bytes(golden: Golden) -> None:
    encoded = codec_named(golden.codec).encode(
        golden.delta,
        golden.fisher,
        layout=golden.layout,
        budget=golden.budget,
        seed=golden.seed,
    )
    assert golden.segments == encoded


def test_the_layout_digest_is_what_it_was(golden: Golden) -> None:
    assert golden.layout_digest == golden.layout.digest.hex()


def test_the_paper_codecs_golden_file_has_every_form_of_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    golden = load("v1-fstq")
    forms = []
    parse_slice = slices._parse_slice

    def spy(reader: slices._Reader, form: int, tensor: TensorSpec) -> slices.Slice:
        forms.append(form)
        return parse_slice(reader, form, tensor)

    monkeypatch.setattr(slices, "_parse_slice", spy)
    golden.decode(dict(enumerate(golden.segments)))
    assert {form & 0b0_0011 for form in forms} == {0, 1, 2}
    assert {form & 0b0_0100 for form in forms} == {0, 0b0_0100}
    assert any(form & 0b0_1000 for form in forms)
    assert any(form & 0b1_0000 for form in forms)


def test_every_prefix_of_every_segment_is_truncated(golden: Golden) -> None:
    for index, segment in enumerate(golden.segments):
        for length in range(len(segment)):
            with pytest.raises(TruncatedSegment):
                golden.decode({index: segment[:length]})


def test_flipped_bits_give_a_typed_error_and_nothing_else(golden: Golden) -> None:
    random = np.random.default_rng(1)
    for _ in range(5000):
        index = int(random.integers(len(golden.segments)))
        damaged = bytearray(golden.segments[index])
        for bit in random.integers(len(damaged) * 8, size=int(random.integers(1, 4))):
            damaged[bit // 8] ^= 1 << (bit % 8)
        if bytes(damaged) == golden.segments[index]:
            continue
        with pytest.raises(CodecError) as caught:
            golden.decode({index: bytes(damaged)})
        assert caught.value.reason in {"truncated", "corrupt", "version", "oversized"}


def test_malice_with_a_right_checksum_gives_finite_values_or_a_typed_error(
    golden: Golden, reseal: Callable[[bytes], bytes]
) -> None:
    """Bits flipped, bytes cut and added in the payload, sealed anew."""
    random = np.random.default_rng(2)
    refused = 0
    for _ in range(5000):
        index = int(random.integers(len(golden.segments)))
        damaged = bytearray(golden.segments[index])
        for bit in random.integers(32 * 8, len(damaged) * 8, size=int(random.integers(1, 4))):
            damaged[bit // 8] ^= 1 << (bit % 8)
        length = int(random.integers(-2, 3))
        damaged = damaged[:length] if length < 0 else damaged + bytes(length)
        try:
            decoded = golden.decode({index: reseal(bytes(damaged))})
        except CodecError:
            refused += 1
        else:
            assert np.isfinite(decoded).all()
    assert refused > 2000


def test_the_writer_of_golden_files_refuses_to_overwrite() -> None:
    before = {path: path.read_bytes() for path in GOLDEN.iterdir()}
    done = subprocess.run(
        [sys.executable, GOLDEN.with_name("make_golden.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=GOLDEN.parents[2],
    )
    assert done.returncode == 1
    assert "only ever added" in done.stderr
    assert before == {path: path.read_bytes() for path in GOLDEN.iterdir()}

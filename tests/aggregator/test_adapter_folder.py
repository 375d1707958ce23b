"""Adapter folders: what PEFT reads, and what a crash may leave."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from aggregator.adapter_folder import (
    BadAdapter,
    Delta,
    prune_versions,
    read_adapter,
    read_delta,
    read_delta_lengths,
    read_delta_segments,
    read_digest,
    read_master,
    set_current,
    version_folder,
    write_version,
)
from codec.codec import Budget
from codec.registry import codec_named
from codec.update import decode

RUN = "d" * 32


def test_a_version_is_read_back_bit_for_bit(tmp_path: Any, initial_adapter: Any) -> None:
    adapter = read_adapter(initial_adapter)
    folder = write_version(tmp_path, 3, adapter, run=RUN)
    assert folder == version_folder(tmp_path, 3)
    again = read_adapter(folder)
    np.testing.assert_array_equal(again.flat, adapter.flat)
    assert (again.sha256, again.config, again.base_digest) == (
        adapter.sha256,
        adapter.config,
        adapter.base_digest,
    )


def test_the_weights_are_what_peft_writes(tmp_path: Any, initial_adapter: Any) -> None:
    folder = write_version(tmp_path, 1, read_adapter(initial_adapter), run=RUN)
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    original = load_file(initial_adapter / "adapter_model.safetensors")
    written = load_file(path)
    assert written.keys() == original.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(tensor, original[name])
    facts = json.loads((folder / "fedfstq.json").read_text())
    assert (facts["version"], facts["run"], facts["base_model"]) == (1, RUN, "tiny")


def test_writing_the_same_version_again_leaves_it_alone(
    tmp_path: Any, initial_adapter: Any
) -> None:
    adapter = read_adapter(initial_adapter)
    folder = write_version(tmp_path, 1, adapter, run=RUN)
    before = (folder / "adapter_model.safetensors").stat().st_ino
    write_version(tmp_path, 1, adapter, run=RUN)
    assert (folder / "adapter_model.safetensors").stat().st_ino == before


@pytest.mark.parametrize("damage", ["other", "broken", "half"])
def test_a_version_that_was_never_committed_is_replaced(
    tmp_path: Any, initial_adapter: Any, damage: Any
) -> None:
    adapter = read_adapter(initial_adapter)
    folder = write_version(tmp_path, 1, replace(adapter, flat=adapter.flat + 1), run=RUN)
    if damage == "broken":
        (folder / "adapter_model.safetensors").write_bytes(b"junk")
    if damage == "half":
        (folder / "fedfstq.json").unlink()
        (tmp_path / "adapters" / ".1.partial").mkdir()
    write_version(tmp_path, 1, adapter, run=RUN)
    np.testing.assert_array_equal(read_adapter(folder).flat, adapter.flat)
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["1"]


def test_current_names_one_version_or_the_other(tmp_path: Any) -> None:
    set_current(tmp_path, 4)
    set_current(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["CURRENT"]
    assert (tmp_path / "CURRENT").read_text() == "5\n"


def spoil(folder: Any, name: Any, content: Any) -> None:
    (folder / name).write_bytes(content)


NAN = np.array([np.nan], dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("fedfstq.json", b"{", "no JSON"),
        ("fedfstq.json", b"[]", "base_model and base_digest"),
        ("fedfstq.json", b'{"base_model": "m", "base_digest": "zz"}', "no SHA-256"),
        (
            "fedfstq.json",
            b'{"base_model": "m", "base_digest": "' + b"z" * 64 + b'"}',
            "no SHA-256",
        ),
        ("adapter_config.json", b"x" * 300_000, "262144 bytes"),
        ("adapter_model.safetensors", b"junk", "no safetensors"),
        ("adapter_model.safetensors", save({"t": np.ones(2)}), "float64"),
        ("adapter_model.safetensors", save({"t": NAN}), "NaN"),
        ("adapter_model.safetensors", save({}), "tensors"),
    ],
)
def test_a_folder_that_cannot_be_used_says_which_file_and_why(
    initial_adapter: Any, name: Any, content: Any, hint: Any
) -> None:
    spoil(initial_adapter, name, content)
    with pytest.raises(BadAdapter, match=hint):
        read_adapter(initial_adapter)


@pytest.mark.parametrize(
    "name", ["fedfstq.json", "adapter_config.json", "adapter_model.safetensors"]
)
def test_a_missing_file_is_named(initial_adapter: Any, name: Any) -> None:
    (initial_adapter / name).unlink()
    with pytest.raises(BadAdapter, match=name):
        read_adapter(initial_adapter)


def test_every_prefix_of_the_weights_is_refused(initial_adapter: Any) -> None:
    path = initial_adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(BadAdapter):
            read_adapter(initial_adapter)


def test_an_initial_adapter_with_negative_zeros_is_one_that_devices_can_rebuild(
    initial_adapter: Any,
) -> None:
    path = initial_adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)].flat[0] = -0.0
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
    adapter = read_adapter(initial_adapter)
    budget = Budget(update_bytes=None, segment_bytes=4096)
    bodies = codec_named("fp32").encode(
        adapter.flat, None, layout=adapter.layout, budget=budget, seed=0
    )
    rebuilt = decode(
        "fp32", dict(enumerate(bodies)), layout=adapter.layout, segment_count=len(bodies)
    )
    assert rebuilt.tobytes() == adapter.flat.tobytes()


def versions(state_dir: Any) -> list[str]:
    return sorted(path.name for path in (state_dir / "adapters").iterdir())


@pytest.mark.parametrize(
    ("keep", "left"), [(1, ["0", "7", "8"]), (3, ["0", "5", "6", "7", "8"]), (99, list("0345678"))]
)
def test_the_first_the_newest_and_what_may_be_half_committed_stay(
    tmp_path: Any, initial_adapter: Any, keep: int, left: Any
) -> None:
    for version in (0, 3, 4, 5, 6, 7, 8):
        write_version(tmp_path, version, read_adapter(initial_adapter), run=RUN)
    prune_versions(tmp_path, newest=7, keep=keep)
    assert versions(tmp_path) == left


def test_of_older_versions_the_chain_keeps_the_delta_alone(
    tmp_path: Any, initial_adapter: Any
) -> None:
    adapter = read_adapter(initial_adapter)
    for version in range(1, 7):
        delta = Delta("fstq+", (b"one", bytes(version)), adapter.flat)
        write_version(tmp_path, version, adapter, run=RUN, delta=delta)
    prune_versions(tmp_path, newest=6, keep=2, deltas_from=3)
    assert versions(tmp_path) == list("3456")
    folders = {version: version_folder(tmp_path, version) for version in range(3, 7)}
    for version, folder in folders.items():
        assert read_delta_lengths(folder) == (3, version)
        assert read_delta_segments(folder) == ("fstq+", (b"one", bytes(version)))
        assert read_digest(folder) == adapter.sha256
        assert (folder / "adapter_model.safetensors").exists() == (version >= 5)
        assert (folder / "master.f32").exists() == (version == 6)
    prune_versions(tmp_path, newest=6, keep=2, deltas_from=3)
    assert versions(tmp_path) == list("3456")


def test_the_masters_that_the_next_version_is_made_from_stay(
    tmp_path: Any, initial_adapter: Any
) -> None:
    adapter = read_adapter(initial_adapter)
    for version in range(1, 5):
        delta = Delta("fstq+", (b"one",), adapter.flat * version)
        write_version(tmp_path, version, adapter, run=RUN, delta=delta)
    prune_versions(tmp_path, newest=4, keep=3, masters=2)
    size = adapter.layout.size
    masters = {at: read_master(version_folder(tmp_path, at), size=size) for at in (2, 3, 4)}
    assert masters[2] is None
    assert [np.array_equal(masters[at], adapter.flat * at) for at in (3, 4)] == [True, True]


@pytest.mark.parametrize("content", [b"", b"fstq+ x\nyy", b"fstq+ 3\nyy", b"fstq+ 1\nyy"])
def test_a_damaged_delta_is_refused(tmp_path: Any, initial_adapter: Any, content: bytes) -> None:
    adapter = read_adapter(initial_adapter)
    delta = Delta("fstq+", (b"yy",), adapter.flat)
    folder = write_version(tmp_path, 1, adapter, run=RUN, delta=delta)
    (folder / "delta.bin").write_bytes(content)
    with pytest.raises(BadAdapter, match="damaged"):
        read_delta_segments(folder)
    with pytest.raises(BadAdapter, match="damaged"):
        read_delta(folder, size=adapter.layout.size)


def test_a_folder_without_delta_or_digest_says_so(initial_adapter: Any) -> None:
    assert read_delta_lengths(initial_adapter) is None
    assert read_delta(initial_adapter, size=1) is None
    with pytest.raises(BadAdapter, match="SHA-256"):
        read_digest(initial_adapter)


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Any, initial_adapter: Any) -> None:
    write_version(tmp_path, 1, read_adapter(initial_adapter), run=RUN)
    for name in (".0.partial", ".1.partial", "not-a-version"):
        (tmp_path / "adapters" / name).mkdir()
        (tmp_path / "adapters" / name / "half").write_text("")
    prune_versions(tmp_path, newest=2, keep=1)
    assert versions(tmp_path) == ["not-a-version"]

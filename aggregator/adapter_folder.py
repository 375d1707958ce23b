"""Adapter versions as PEFT folders: read, checked, and written so that no crash leaves half of one.

adapters/<version>/adapter_config.json          as the initial adapter had it
adapters/<version>/adapter_model.safetensors    float32, metadata {"format": "pt"}
adapters/<version>/fedfstq.json                 base model and digest, run, version, SHA-256
CURRENT                                         the newest version, as text

Where versions are published as deltas, a version's folder also has

adapters/<version>/delta.bin                    a line with the codec of its delta and each
                                                segment's length, then the segments
adapters/<version>/master.f32                   the server's exact adapter, flat float32; the newest

A version that is only a link of the chain of deltas has no weights any more.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from codec.codec import FloatArray
from codec.errors import InvalidInput
from codec.layout import Layout
from transport.crash_points import reach
from transport.limits import MAX_ADAPTER_CONFIG_BYTES

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FACTS_FILE = "fedfstq.json"
MASTER_FILE = "master.f32"
DELTA_FILE = "delta.bin"
CURRENT_FILE = "CURRENT"

_DIGEST_HEX_LENGTH = 64


class BadAdapter(Exception):
    """A folder is no adapter that a run can be made of; the text says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter version in memory.

    Attributes:
        flat: float32 (layout.size,), finite.
        config: The text of adapter_config.json.
        base_model: The base model's name.
        base_digest: SHA-256 of the base model, 32 bytes.
    """

    flat: FloatArray
    layout: Layout
    config: str
    base_model: str
    base_digest: bytes

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the flat little-endian float32 values."""
        return hashlib.sha256(self.flat.astype("<f4", copy=False).tobytes()).digest()


@dataclass(frozen=True, slots=True)
class Delta:
    """How a version comes from the one before.

    Attributes:
        codec: The codec of the segments.
        segments: What devices add to the version before.
        master: float32 (n,), the server's exact adapter, from which the next delta is made.
    """

    codec: str
    segments: tuple[bytes, ...]
    master: FloatArray


def read_delta(folder: Path, *, size: int) -> Delta | None:
    """Return how a version came from the one before; None where its folder does not say.

    Raises:
        BadAdapter: Its files are damaged.
    """
    if not (folder / DELTA_FILE).exists():
        return None
    codec, segments = read_delta_segments(folder)
    master = read_master(folder, size=size)
    if master is None:
        raise BadAdapter(_damaged(folder))
    return Delta(codec, segments, master)


def is_whole(folder: Path) -> bool:
    """Tell whether a version's folder holds the adapter, and not its delta alone."""
    return (folder / WEIGHTS_FILE).exists()


def read_master(folder: Path, *, size: int) -> FloatArray | None:
    """Return the server's exact adapter of a version; None where its folder does not have it.

    Raises:
        BadAdapter: The file is damaged.
    """
    if not (folder / MASTER_FILE).exists():
        return None
    master = np.frombuffer(_read_file(folder / MASTER_FILE), dtype="<f4").astype(np.float32)
    if master.size != size:
        raise BadAdapter(_damaged(folder))
    return master


def read_delta_lengths(folder: Path) -> tuple[int, ...] | None:
    """Return the length of each segment of a version's delta; None where it has no delta.

    Raises:
        BadAdapter: The file is damaged.
    """
    try:
        with (folder / DELTA_FILE).open("rb") as file:
            _, *lengths = file.readline().split()
        return tuple(int(length) for length in lengths)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadAdapter(_damaged(folder)) from error


def read_delta_segments(folder: Path) -> tuple[str, tuple[bytes, ...]]:
    """Return the codec and the segments of a version's delta.

    Raises:
        BadAdapter: The file is missing or damaged.
    """
    head, _, body = _read_file(folder / DELTA_FILE).partition(b"\n")
    lengths = read_delta_lengths(folder) or ()
    if not lengths or sum(lengths) != len(body):
        raise BadAdapter(_damaged(folder))
    ends = list(itertools.accumulate(lengths))
    segments = (body[end - length : end] for end, length in zip(ends, lengths, strict=True))
    return head.split()[0].decode(errors="replace"), tuple(segments)


def read_digest(folder: Path) -> bytes:
    """Return the SHA-256 that a version had when it was written.

    Raises:
        BadAdapter: The file is missing or damaged.
    """
    try:
        return bytes.fromhex(json.loads(_read_file(folder / FACTS_FILE))["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadAdapter(f"{folder / FACTS_FILE} names no SHA-256: {error}") from error


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in a PEFT folder that also has `fedfstq.json`.

    Raises:
        BadAdapter: A file is missing or unreadable, a tensor is not float32 or not finite.
    """
    facts = _read_facts(folder)
    config = _read_file(folder / CONFIG_FILE).decode(errors="replace")
    if len(config.encode()) > MAX_ADAPTER_CONFIG_BYTES:
        raise BadAdapter(f"{folder / CONFIG_FILE} is over {MAX_ADAPTER_CONFIG_BYTES} bytes")
    weights = folder / WEIGHTS_FILE
    try:
        tensors = load_tensors(_read_file(weights))
    # safetensors.numpy raises KeyError for a dtype that numpy has not, such as bfloat16.
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadAdapter(f"{weights} is no safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise BadAdapter(f"{weights}: {name} is {tensor.dtype}, an adapter is float32")
        if not np.isfinite(tensor).all():
            raise BadAdapter(f"{weights}: {name} holds NaN or infinity")
    try:
        layout = Layout.from_shapes({name: tensor.shape for name, tensor in tensors.items()})
        # Decoding sums from +0, so that -0 would come back as +0 on devices, under another digest.
        flat = layout.flatten(tensors) + np.float32(0)
    except InvalidInput as error:
        raise BadAdapter(f"{weights}: {error}") from error
    return Adapter(flat, layout, config, facts["base_model"], bytes.fromhex(facts["base_digest"]))


def version_folder(state_dir: Path, version: int) -> Path:
    """Return where an adapter version lies."""
    return state_dir / "adapters" / str(version)


def write_version(
    state_dir: Path, version: int, adapter: Adapter, *, run: str, delta: Delta | None = None
) -> Path:
    """Make an adapter version durable, its delta and master with it, and return its folder.

    A folder that is there already is left alone where it holds the same adapter, and replaced
    where it does not: a version that was never committed may be made again from other updates.
    """
    folder = version_folder(state_dir, version)
    if folder.exists():
        if _holds(folder, adapter, delta):
            return folder
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{version}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    reach("aggregator-folder-before")
    temporary.mkdir()
    facts = {
        "base_model": adapter.base_model,
        "base_digest": adapter.base_digest.hex(),
        "run": run,
        "version": version,
        "sha256": adapter.sha256.hex(),
    }
    tensors = adapter.layout.unflatten(adapter.flat)
    _write_file(temporary / CONFIG_FILE, adapter.config.encode())
    _write_file(temporary / FACTS_FILE, json.dumps(facts, indent=2).encode() + b"\n")
    _write_file(temporary / WEIGHTS_FILE, save_tensors(tensors, metadata={"format": "pt"}))
    if delta is not None:
        head = " ".join([delta.codec, *(str(len(segment)) for segment in delta.segments)])
        content = b"".join([head.encode(), b"\n", *delta.segments])
        _write_file(temporary / DELTA_FILE, content)
        _write_file(temporary / MASTER_FILE, delta.master.astype("<f4", copy=False).tobytes())
    _sync_folder(temporary)
    reach("aggregator-folder-written")
    temporary.rename(folder)
    _sync_folder(folder.parent)
    reach("aggregator-folder-renamed")
    return folder


def set_current(state_dir: Path, version: int) -> None:
    """Let `CURRENT` name this version; whoever reads it sees the old one or the new one."""
    write_atomically(state_dir / CURRENT_FILE, f"{version}\n".encode())


def prune_versions(
    state_dir: Path,
    *,
    newest: int,
    keep: int,
    deltas_from: int | None = None,
    masters: int = 1,
) -> None:
    """Remove of the adapter versions what nobody needs any more.

    The initial adapter stays, since a restart reads it, and so do the newest versions up to the one
    that `CURRENT` names; a folder above that may be a version whose commit was cut short. Of older
    ones that the chain of deltas needs, the delta stays.

    Args:
        state_dir: The state folder.
        newest: The committed version, which `CURRENT` names.
        keep: How many of the newest stay, ≥ 1.
        deltas_from: The oldest version whose delta stays; None keeps none but those of `keep`.
        masters: Of how many of the newest the master stays: the next version is made from the
            newest one's, and with momentum from the one before as well.
    """
    assert keep >= 1
    for folder in sorted((state_dir / "adapters").iterdir()):
        if folder.name.startswith(".") and folder.name.endswith(".partial"):
            shutil.rmtree(folder)
        if not folder.name.isdecimal() or not 0 < int(folder.name) < newest:
            continue
        version = int(folder.name)
        if version <= newest - masters:
            (folder / MASTER_FILE).unlink(missing_ok=True)
        if version > newest - keep:
            continue
        if deltas_from is not None and version >= deltas_from and (folder / DELTA_FILE).exists():
            (folder / WEIGHTS_FILE).unlink(missing_ok=True)
            continue
        # Renamed first: whoever looks sees a whole version or none, also after a crash here.
        half = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(half, ignore_errors=True)
        folder.rename(half)
        shutil.rmtree(half)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole."""
    temporary = path.with_name(f".{path.name}.partial")
    _write_file(temporary, content)
    temporary.replace(path)
    _sync_folder(path.parent)


def _holds(folder: Path, adapter: Adapter, delta: Delta | None) -> bool:
    try:
        held = read_adapter(folder)
        kept = read_delta(folder, size=adapter.layout.size)
    except BadAdapter:
        return False
    if delta is not None and (
        kept is None
        or (kept.codec, kept.segments) != (delta.codec, delta.segments)
        or kept.master.tobytes() != delta.master.tobytes()
    ):
        return False
    return held.layout == adapter.layout and held.sha256 == adapter.sha256


def _damaged(folder: Path) -> str:
    return f"{folder}: its delta is damaged: remove nothing, restore it from a copy"


def _read_facts(folder: Path) -> dict[str, str]:
    path = folder / FACTS_FILE
    hint = "make the initial adapter with this program, so that it names its base model"
    try:
        facts: Any = json.loads(_read_file(path))
    except ValueError as error:
        raise BadAdapter(f"{path} is no JSON: {error}") from error
    match facts:
        case {"base_model": str(base_model), "base_digest": str(base_digest)}:
            pass
        case _:
            raise BadAdapter(f"{path} needs base_model and base_digest: {hint}")
    try:
        is_digest = len(base_digest) == _DIGEST_HEX_LENGTH and bytes.fromhex(base_digest)
    except ValueError:
        is_digest = False
    if not is_digest:
        raise BadAdapter(f"{path}: base_digest is no SHA-256 in hexadecimal: {hint}")
    return {"base_model": base_model, "base_digest": base_digest}


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadAdapter(f"{path} cannot be read: {error.strerror}") from error


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

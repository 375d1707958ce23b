"""Finds the base model's folder, and computes the digest that both sides compare. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

# Starts the description that is hashed, so that its hash can stand for nothing else.
_DOMAIN = b"fedfstq base\x00\x01"
_READ_BYTES = 1 << 20
# Weights as safetensors only: a pickle runs its sender's code when it is read.
_HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class BaseError(Exception):
    """There is no usable base model; the one line says what is missing and how to mend it."""


def locate_base(model: str) -> Path:
    """Return the local folder of a base model.

    Args:
        model: A folder, or a hub id such as "Qwen/Qwen2.5-0.5B". A hub id is looked for in the
            hub's local cache, then downloaded unless HF_HUB_OFFLINE is set.

    Raises:
        BaseError: There is no such folder or hub id, or it holds no model in safetensors.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        _check(folder, model)
        return folder
    if not _HUB_ID.fullmatch(model):
        raise BaseError(
            f"no base model at {model}: there is no such folder; "
            "name a folder with config.json, tokenizer.json and *.safetensors, or a hub id"
        )
    return _hub_folder(model)


def base_digest(folder: Path, *, cache: Path | None = None) -> bytes:
    """Return the 32 bytes that name a base model: the same files, the same digest.

    SHA-256 over the sorted names and SHA-256 digests of config.json, tokenizer.json and
    *.safetensors: what decides the function that is fine-tuned and the ids that it is fed.

    Args:
        folder: The model's folder.
        cache: A file that keeps each digest beside its file's size and modification time, so that
            gigabytes are read once and not at every start.

    Raises:
        BaseError: One of the files is missing or cannot be read.
    """
    known = _read_cache(cache) if cache else {}
    digest = hashlib.sha256(_DOMAIN)
    entries: dict[str, list[object]] = {}
    for path in _check(folder, str(folder)):
        try:
            status = path.stat()
            stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns]
            kept = known.get(path.name)
            hexdigest = str(kept[3]) if kept and kept[:3] == stamp else _file_digest(path)
        except OSError as error:
            raise BaseError(f"{path}: cannot be read: {error.strerror or error}") from error
        entries[path.name] = [*stamp, hexdigest]
        name = path.name.encode()
        digest.update(len(name).to_bytes(2, "little") + name + bytes.fromhex(hexdigest))
    if cache and entries != known:
        _write_cache(cache, entries)
    return digest.digest()


def _check(folder: Path, model: str) -> list[Path]:
    """Return the files that the digest covers, in the order of their names."""
    weights = sorted(folder.glob("*.safetensors"))
    files = [folder / "config.json", folder / "tokenizer.json"]
    for path in files:
        if not path.is_file():
            raise BaseError(
                f"no base model at {model}: {path.name} is missing; save model and tokenizer "
                "there with save_pretrained"
            )
    if not weights:
        raise BaseError(
            f"no base model at {model}: there is no *.safetensors file; weights in other formats "
            "are not read, save the model again with save_pretrained"
        )
    return sorted([*files, *weights], key=lambda path: path.name)


def _hub_folder(model: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # slow; only hub ids need it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    patterns = list(_HUB_FILES)
    try:
        folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=True))
        _check(folder, model)
        _check_shards(folder, model)
    except (LocalEntryNotFoundError, BaseError) as error:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise BaseError(
                f"no base model {model}: it is neither a folder nor in the hub's local cache, and "
                f"HF_HUB_OFFLINE forbids downloading it; run `hf download {model}` once"
            ) from error
    else:
        return folder
    try:
        folder = Path(snapshot_download(model, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BaseError(
            f"no base model {model}: it is no folder, and the hub did not give it "
            f"({type(error).__name__}); check the name, the network and the login"
        ) from error
    _check(folder, model)
    return folder


def _check_shards(folder: Path, model: str) -> None:
    """Refuse a snapshot whose download was broken off: the index names shards that are missing."""
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text())["weight_map"].values())
        if any(not (folder / shard).is_file() for shard in shards):
            raise BaseError(f"no base model at {model}: some of its shards are missing")


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read_cache(cache: Path) -> dict[str, list[Any]]:
    try:
        entries = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}  # it only saves time
    if not isinstance(entries, dict):
        return {}
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, list) and len(entry) == 4 and _is_digest(entry[3])  # noqa: PLR2004  # what is written below
    }


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _write_cache(cache: Path, entries: dict[str, list[object]]) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries))
        temporary.replace(cache)
    except OSError:
        with contextlib.suppress(OSError):  # it only saves time
            temporary.unlink()

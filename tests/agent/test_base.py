"""Which files a base model's digest covers, and what is said of folders that hold none."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from agent import base
from agent.base import BaseError, base_digest, locate_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text(f"content of {name}")
    return model


def test_digest_is_over_sorted_names_and_contents(folder: Path) -> None:
    expected = hashlib.sha256(b"fedfstq base\x00\x01")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        expected.update(len(name).to_bytes(2, "little") + name.encode())
        expected.update(hashlib.sha256((folder / name).read_bytes()).digest())
    assert base_digest(folder) == expected.digest()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_each_file_changes_the_digest(folder: Path, name: str) -> None:
    before = base_digest(folder)
    (folder / name).write_text("other")
    assert base_digest(folder) != before


def test_other_files_do_not_change_the_digest(folder: Path) -> None:
    before = base_digest(folder)
    (folder / "README.md").write_text("other")
    assert base_digest(folder) == before
    (folder / "model-2.safetensors").write_text("a shard more")
    assert base_digest(folder) != before


def test_cache_saves_reading_and_sees_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "state" / "digest.json"
    digest = base_digest(folder, cache=cache)
    read: list[str] = []
    file_digest = base._file_digest

    def counted(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(base, "_file_digest", counted)
    assert base_digest(folder, cache=cache) == digest
    assert read == []
    (folder / "config.json").write_text("changed")
    assert base_digest(folder, cache=cache) == base_digest(folder) != digest
    assert read.count("config.json") == 2


@pytest.mark.parametrize(
    "content", ["", "[]", '{"config.json": 3}', '{"config.json": ["a", 1, 1, "zz"]}', "\x00"]
)
def test_broken_cache_is_as_none(folder: Path, tmp_path: Path, content: str) -> None:
    cache = tmp_path / "digest.json"
    cache.write_text(content)
    assert base_digest(folder, cache=cache) == base_digest(folder)


def test_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert base_digest(folder, cache=tmp_path / "file" / "digest.json") == base_digest(folder)


def test_folder_is_found_as_it_is(folder: Path) -> None:
    assert locate_base(str(folder)) == folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        ("model.safetensors", "there is no \\*.safetensors file"),
    ],
)
def test_missing_file_is_named(folder: Path, name: str, expected: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BaseError, match=expected):
        locate_base(str(folder))
    with pytest.raises(BaseError, match=expected):
        base_digest(folder)


def test_unreadable_file_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(base, "_file_digest", denied)
    with pytest.raises(BaseError, match=r"config\.json: cannot be read: Permission denied"):
        base_digest(folder)


def test_missing_folder_is_told_from_a_hub_id() -> None:
    with pytest.raises(BaseError, match="there is no such folder"):
        locate_base("/no/such/folder")


def test_hub_id_that_is_not_cached_is_not_downloaded_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BaseError, match="run `hf download no-such-user/no-such-model` once"):
        _with_hub(monkeypatch, {}, "no-such-user/no-such-model")


def test_hub_id_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(BaseError, match="the hub did not give it"):
        _with_hub(monkeypatch, {}, "no-such-user/no-such-model")


def test_hub_snapshot_is_used_where_it_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _with_hub(monkeypatch, {"local": folder}, "user/model") == folder


def test_broken_off_download_is_taken_up_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    half = tmp_path / "half"
    half.mkdir()
    for path in folder.iterdir():
        (half / path.name).write_bytes(path.read_bytes())
    (half / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
    )
    found = _with_hub(monkeypatch, {"local": half, "online": folder}, "user/model")
    assert found == folder


def _with_hub(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], model: str) -> Path:
    """Locate a model on a hub that has these folders in its cache or online."""

    def snapshot_download(_model: str, **options: Any) -> str:
        where = "local" if options.get("local_files_only") else "online"
        assert "*.safetensors" in options["allow_patterns"]
        if where not in folders:
            raise LocalEntryNotFoundError("not there")
        return str(folders[where])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return locate_base(model)


def test_base_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agent.base import base_digest; "
        f"base_digest(Path({str(folder)!r})); import agent.data, agent.tokens, agent.mask, "
        "agent.batches; print(int('torch' in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert done.stdout == b"0\n"

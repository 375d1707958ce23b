"""The trainer's last hello, kept on disk: a trainer that runs on demand is not there to say it.

It stands for the base model and the text that were configured when it was said, as they were on
disk then. Where either has changed, the trainer is started once to say it anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Final

from agent.config import AgentConfig
from agent.tasks import MalformedLine, TrainerHello, decode_line, encode_line

_MODEL_FILES: Final = ("config.json", "tokenizer.json", "*.safetensors")
# [bytes] A hello is some 200; whatever else the file holds is none.
_MAX_BYTES: Final = 4_096


class GreetingFile:
    """`trainer_hello.json` in the state folder."""

    def __init__(self, config: AgentConfig) -> None:
        """Name the file; nothing is read yet."""
        self._config = config
        self._path = config.state_dir / "trainer_hello.json"

    def load(self) -> TrainerHello | None:
        """Return what the trainer said last, None where it is not known or no longer true."""
        try:
            mark, _, line = self._path.read_bytes()[:_MAX_BYTES].partition(b"\n")
            hello = decode_line(line)
        except (OSError, MalformedLine):
            return None
        is_true = mark.decode(errors="replace") == self._mark()
        return hello if is_true and isinstance(hello, TrainerHello) else None

    def save(self, hello: TrainerHello) -> None:
        """Keep it; a disk that takes nothing costs one start of the trainer, later."""
        new = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            new.write_bytes(self._mark().encode() + b"\n" + encode_line(hello))
            new.replace(self._path)

    def _mark(self) -> str:
        """Return what names the configured model and text, and the state of their files."""
        config = self._config
        facts: list[object] = [config.model, config.data.model_dump(mode="json")]
        if config.model:
            folder = Path(config.model).expanduser()
            for pattern in _MODEL_FILES:
                facts += [_stamp(path) for path in sorted(folder.glob(pattern))]
        for text in (config.data.train, config.data.heldout):
            if text is not None:
                paths = sorted(text.rglob("*")) if text.is_dir() else [text]
                facts += [_stamp(path) for path in paths]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _stamp(path: Path) -> list[object]:
    try:
        status = path.stat()
    except OSError:  # it may be private to the trainer; then its name alone counts
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]

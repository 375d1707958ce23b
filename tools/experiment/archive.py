"""Many trials in one file: their JSON Lines one after the other, as a zstd frame. Pure.

A trial's lines repeat one another, so that an archive takes a ninth of them. It says no more and no
less than the trials' own files do, and is read wherever they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import zstandard

SUFFIX: Final = ".jsonl.zst"
# Some ten thousand trials; what claims to be larger is none of ours.
MAX_BYTES: Final = 1 << 28
_LEVEL: Final = 19


def pack(trials: Iterable[Sequence[str]]) -> bytes:
    """Return an archive of trials, each given as its lines; the same trials give the same bytes."""
    text = "".join(f"{line}\n" for lines in trials for line in lines)
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(text.encode())


def unpack(content: bytes) -> Iterator[list[str]]:
    """Yield the lines of each trial of an archive.

    Raises:
        ValueError: It is none, is damaged, or unpacks to more than `MAX_BYTES`.
    """
    try:
        size = zstandard.frame_content_size(content)
        if not 0 <= size <= MAX_BYTES:
            raise ValueError(f"it claims {size} bytes, at most {MAX_BYTES} are read")
        text = zstandard.ZstdDecompressor().decompress(content).decode()
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no archive: {error}") from error
    lines: list[str] = []
    for line in text.splitlines():
        if lines and _is_header(line):
            yield lines
            lines = []
        lines.append(line)
    if lines:
        yield lines


def _is_header(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("kind") == "trial"

"""Real text that every Python installation has: its own standard library.

The library is cut in two. Some packages belong to the demo's clients, each to exactly one of
them, so that what a client writes about differs by nature from what the others do (mail,
event loops, XML, test cases). Everything else is what the base model is trained on, so that no
client's text has been seen before its fine-tuning starts.
"""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

# Client id and the packages that are its text. All of them exist from Python 3.10 to 3.13, also
# where a distribution splits the library (no tkinter, idlelib, distutils, lib2to3, ensurepip).
CLIENT_PACKAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("email", ("email",)),
    ("asyncio", ("asyncio",)),
    ("xml", ("xml",)),
    ("unittest", ("unittest",)),
    ("http", ("http", "urllib")),
    ("multiprocessing", ("multiprocessing", "concurrent")),
    ("importlib", ("importlib",)),
    ("logging", ("logging",)),
    ("formats", ("html", "json", "xmlrpc")),
)

# Tests are absent from most distributions' packages; the codecs are tables, not text; what others
# installed into the library's folder is not the library's.
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "dist-packages", "encodings", "idle_test", "site-packages", "test", "tests"}
)
# Written by programs: build settings of this one machine, and tables of entities and code points.
_SKIPPED_PREFIXES = ("_sysconfigdata", "sitecustomize", "stringprep", "entities")
_FILE_BYTES_MAX = 400_000  # a longer source file is a table; the longest written by hand is 240 kB
_TOPICS = "pydoc_data/topics.py"  # the language reference, as one literal dictionary

# One passage is about 100 to 200 tokens of a small vocabulary: one row of a training batch.
PASSAGE_CHARS_MIN = 400
PASSAGE_CHARS_MAX = 600
_TAIL_CHARS_MIN = 200  # what is left at the end of a file is kept from this length on

# A client's share is capped so that the demo's rounds and evaluations take seconds, not minutes.
TRAIN_PASSAGES_MAX = 256
HELDOUT_PASSAGES_MAX = 48
_HELDOUT_SHARE = 0.2
_HELDOUT_PASSAGES_MIN = 8
_TRAIN_PASSAGES_MIN = 32


@dataclass(frozen=True, slots=True)
class ClientCorpus:
    """One client's text: passages to train on, and others of the same kind to measure with."""

    client_id: str  # [a-z0-9-]
    packages: tuple[str, ...]  # the standard library's names for where the text comes from
    train: tuple[str, ...]
    heldout: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    path: str  # relative to the library's folder, with forward slashes
    text: str


def base_texts() -> list[str]:
    """Returns the documents to pretrain on: all of the library that belongs to no client.

    One document per source file and one per topic of the language reference, in the order of
    their paths: the same list on every run of the same Python installation.
    """
    owned = {package for _, packages in CLIENT_PACKAGES for package in packages}
    names = sorted({path.name.removesuffix(".py") for path in _library().iterdir()} - owned)
    documents = [source.text for name in names for source in _sources(name)]
    return documents + _topics()


def client_groups(count: int) -> list[ClientCorpus]:
    """Returns `count` clients with disjoint texts of different nature, the same on every run.

    Up to `len(CLIENT_PACKAGES)` clients, each has packages of its own. Beyond that, the largest
    groups are dealt out file by file, so that some clients share their packages but no file.
    A client's held-out passages come from other files than its training passages where files of
    fitting length exist, else from the last fifth of every file.

    Raises:
        ValueError: if `count` is not positive, or the library has too few files for so many.
    """
    if count < 1:
        raise ValueError(f"at least 1 client is needed, not {count}")
    groups = [
        (client_id, packages, [source for package in packages for source in _sources(package)])
        for client_id, packages in CLIENT_PACKAGES[: min(count, len(CLIENT_PACKAGES))]
    ]
    parts = _parts_per_group([sources for _, _, sources in groups], count)
    return [
        ClientCorpus(client_id + suffix, packages, *_split_heldout(share))
        for (client_id, packages, sources), number in zip(groups, parts, strict=True)
        for suffix, share in _deal(sources, number)
    ]


def passages(text: str) -> list[str]:
    """Cuts a text into passages of 400 to 600 characters at line boundaries.

    A passage ends at the first blank line past its least length, or before the line that would
    make it too long. A line longer than a whole passage is a table's and is left out, and so is
    a remainder of less than 200 characters.
    """
    cut: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        if len(line) > PASSAGE_CHARS_MAX:
            continue
        full = size + len(line) > PASSAGE_CHARS_MAX
        if full or (size >= PASSAGE_CHARS_MIN and not line.strip()):
            cut.append("".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    cut.append("".join(lines))
    stripped = (passage.strip("\n") for passage in cut)
    return [passage for passage in stripped if len(passage) >= _TAIL_CHARS_MIN]


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _source_paths(package: str) -> Iterator[Path]:
    """Yields a package's own source files in the order of their paths, a lone module as well."""
    root = _library()
    if package in _SKIPPED_FOLDERS:  # before listing it: tests are most of the library's files
        return
    for path in sorted((root / package).rglob("*.py")) or [root / f"{package}.py"]:
        skipped = _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts[:-1])
        if path.is_file() and not skipped and not path.name.startswith(_SKIPPED_PREFIXES):
            yield path


def _sources(package: str) -> list[_Source]:
    """Reads a package's source files that are text of a sensible length."""
    root = _library()
    sources = []
    for path in _source_paths(package):
        relative = path.relative_to(root).as_posix()
        if relative == _TOPICS or path.stat().st_size > _FILE_BYTES_MAX:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a few old modules are written in other encodings
        if text.strip():
            sources.append(_Source(relative, text))
    return sources


def _topics() -> list[str]:
    """Reads the language reference without importing it; a minimal installation lacks it."""
    path = _library() / _TOPICS
    if not path.is_file():
        return []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            topics: dict[str, str] = ast.literal_eval(statement.value)
            return [text for _, text in sorted(topics.items())]
    return []


def _parts_per_group(groups: list[list[_Source]], count: int) -> list[int]:
    """Decides into how many clients each group is dealt, the one with most text per part first."""
    chars = [sum(len(source.text) for source in sources) for sources in groups]
    parts = [1] * len(groups)
    while sum(parts) < count:
        by_length = sorted(range(len(groups)), key=lambda i: (-chars[i] / parts[i], i))
        able = (i for i in by_length if _can_deal(groups[i], parts[i] + 1))
        chosen = next(able, None)
        if chosen is None:
            raise ValueError(
                f"the standard library's text is enough for {sum(parts)} clients, not {count}: "
                "ask for fewer, or give data of your own"
            )
        parts[chosen] += 1
    return parts


def _can_deal(sources: list[_Source], number: int) -> bool:
    if number > len(sources):
        return False
    shares = [_split_heldout(share) for _, share in _deal(sources, number)]
    return all(
        len(train) >= _TRAIN_PASSAGES_MIN and len(heldout) >= _HELDOUT_PASSAGES_MIN
        for train, heldout in shares
    )


def _deal(sources: list[_Source], number: int) -> list[tuple[str, list[_Source]]]:
    """Deals files into shares of similar length, the longest first; returns (suffix, files)."""
    if number == 1:
        return [("", sources)]
    shares: list[list[_Source]] = [[] for _ in range(number)]
    sizes = [0] * number
    for source in sorted(sources, key=lambda source: (-len(source.text), source.path)):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(source)
        sizes[smallest] += len(source.text)
    ordered = [sorted(share, key=lambda source: source.path) for share in shares]
    return [(f"-{i}", share) for i, share in enumerate(ordered, start=1)]


def _split_heldout(sources: list[_Source]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits files into passages to train on and held-out ones, about four to one."""
    train: list[str] = []
    heldout: list[str] = []
    read_chars = accumulate(len(source.text) for source in sources)
    heldout_chars = 0
    for source, read in zip(sources, read_chars, strict=True):
        if heldout_chars + len(source.text) <= _HELDOUT_SHARE * read:
            heldout_chars += len(source.text)
            heldout += passages(source.text)
        else:
            train += passages(source.text)
    if len(heldout) < _HELDOUT_SHARE / 2 * (len(train) + len(heldout)):
        train, heldout = _split_within_files(sources)
    # Licence notices and idioms recur from file to file; a text that was trained on measures
    # nothing.
    unseen = set(heldout) - set(train)
    return (
        _evenly(train, TRAIN_PASSAGES_MAX),
        _evenly([passage for passage in heldout if passage in unseen], HELDOUT_PASSAGES_MAX),
    )


def _split_within_files(sources: list[_Source]) -> tuple[list[str], list[str]]:
    """Splits every file's passages before its last fifth: for a package of few, long files."""
    train: list[str] = []
    heldout: list[str] = []
    for source in sources:
        cut = passages(source.text)
        border = len(cut) - int(len(cut) * _HELDOUT_SHARE)
        train += cut[:border]
        heldout += cut[border:]
    return train, heldout


def _evenly(texts: list[str], most: int) -> tuple[str, ...]:
    """Takes at most `most` texts, spread evenly over all of them."""
    if len(texts) <= most:
        return tuple(texts)
    return tuple(texts[i * len(texts) // most] for i in range(most))

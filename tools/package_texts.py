"""Text that everyone has who has installed the project: what its packages say about themselves.

The demo's base model is trained on the standard library alone. A larger one needs more, and more
prose than code: here are the sources of every installed package that the project's requirements
reach, as far as they are well documented, with the pages in Markdown and reStructuredText beside
them. What stands in them twice is taken once. None of it is the standard library's client text,
and none of it the experiments' data.
"""

from __future__ import annotations

import hashlib
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

_ROOT = "fedfstq"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# Tests are cases rather than text. A vendored package is another's text, and one of the standard
# library's clients may be its origin.
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "_vendor", "_vendored", "vendor", "vendored", "test", "tests", "testing"}
)
_PROSE_SUFFIXES = frozenset({".md", ".rst"})
_CHARS_MIN = 400
_CHARS_MAX = 400_000  # what is longer is a table
_PROSE_SHARE_MIN = 0.3  # docstrings and comments, of a source file's characters
_DISTRIBUTION_CHARS_MAX = 6_000_000  # so that no package is most of the text
_LINE_CHARS_MIN = 20  # shorter lines recur in all code
_NEW_SHARE_MIN = 0.6


@dataclass(frozen=True, slots=True)
class PackageTexts:
    """Documents in the order of their packages and paths, and where they come from.

    Attributes:
        texts: The documents: the same list wherever the same versions are installed.
        packages: "name==version" of each package that gave some of them.
    """

    texts: tuple[str, ...]
    packages: tuple[str, ...]


def package_texts(*, seen: Iterable[str] = ()) -> PackageTexts:
    """Returns the documents of all installed packages that the project's requirements reach.

    Args:
        seen: Texts that no document may repeat: those to be measured on, and those had already.
    """
    known = {_line_digest(line) for text in seen for line in _long_lines(text)}
    texts: list[str] = []
    packages: list[str] = []
    for package in required_distributions():
        documents = list(_unseen(_documents(package), known))
        documents = _evenly(documents, _DISTRIBUTION_CHARS_MAX)
        if documents:
            packages.append(f"{package.name}=={package.version}")
            texts += documents
    return PackageTexts(tuple(texts), tuple(packages))


def text_digest(texts: Iterable[str]) -> str:
    """Returns SHA-256 in hex over the texts' own digests, in their order: equal, if they are."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def required_distributions() -> list[Distribution]:
    """Returns the installed packages that the project's requirements reach, sorted by name."""
    found: dict[str, Distribution] = {}
    waiting = [_ROOT]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of an extra, or of another platform
        for requirement in found[name].requires or ():
            matched = _NAME.match(requirement)
            # All of the project's own extras; those of another package would take in whatever
            # else is installed.
            if matched and (name == _ROOT or "extra ==" not in requirement):
                waiting.append(re.sub(r"[-_.]+", "-", matched.group()).lower())
    return [found[name] for name in sorted(found) if name != _ROOT]


def prose_share(source: str) -> float:
    """Returns the share of a source's characters in comments and in strings over several lines.

    A source that cannot be read as Python has none.
    """
    prose = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            comment = token.type == tokenize.COMMENT
            if comment or (token.type == tokenize.STRING and token.start[0] != token.end[0]):
                prose += len(token.string)
    except (tokenize.TokenError, SyntaxError):
        return 0.0
    return prose / max(1, len(source))


def _documents(package: Distribution) -> Iterator[str]:
    """Yields a package's well documented sources and its pages, in the order of their paths."""
    for path in sorted(package.files or (), key=str):
        if not _is_text(path):
            continue
        try:
            text = Path(path.locate()).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if not _CHARS_MIN <= len(text) <= _CHARS_MAX:
            continue
        if path.suffix in _PROSE_SUFFIXES or prose_share(text) >= _PROSE_SHARE_MIN:
            yield text


def _is_text(path: PurePosixPath) -> bool:
    within = not _SKIPPED_FOLDERS.intersection(path.parts[:-1]) and ".." not in path.parts
    return within and (path.suffix == ".py" or path.suffix in _PROSE_SUFFIXES)


def _unseen(texts: Iterable[str], known: set[bytes]) -> Iterator[str]:
    """Yields the texts whose long lines are mostly new, and remembers all lines."""
    for text in texts:
        lines = {_line_digest(line): len(line) for line in _long_lines(text)}
        new = sum(size for digest, size in lines.items() if digest not in known)
        known.update(lines)
        if new >= _NEW_SHARE_MIN * max(1, sum(lines.values())):
            yield text


def _long_lines(text: str) -> Iterator[str]:
    stripped = (line.strip() for line in text.splitlines())
    return (line for line in stripped if len(line) >= _LINE_CHARS_MIN)


def _line_digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode(), digest_size=8).digest()


def _evenly(texts: list[str], chars_max: int) -> list[str]:
    """Takes texts evenly spread over all of them, of about `chars_max` characters together."""
    chars = sum(len(text) for text in texts)
    if chars <= chars_max:
        return texts
    kept = len(texts) * chars_max // chars
    return [texts[i * len(texts) // kept] for i in range(kept)]

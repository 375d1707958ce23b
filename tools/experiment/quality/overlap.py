"""How much a written text has in common with the expected one: ROUGE-L, METEOR, exact match. Pure.

Both are this project's own so that they count words of every script: the usual packages keep only
Latin letters and digits. On such texts the figures are the same as theirs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Scripts written without spaces: each character counts as a word.
_WITHOUT_SPACES = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_STEM_CHARS_MIN = 4


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters, marks and digits of any script."""
    spaced = []
    for character in unicodedata.normalize("NFC", text).lower():
        if any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES):
            spaced.append(f" {character} ")
        else:
            spaced.append(character if unicodedata.category(character)[0] in "LMN" else " ")
    return "".join(spaced).split()


def rouge_l(written: str, expected: str) -> float:
    """Return the F measure of the longest common subsequence of words, 0 to 1.

    Precision is its share of the written words, recall of the expected ones; both weigh alike.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), with β = 1.
    """
    left, right = words(written), words(expected)
    common = _common_subsequence(left, right)
    return 2 * common / (len(left) + len(right)) if common else 0.0


def meteor(written: str, expected: str) -> float:
    """Return METEOR of the exact and the stem stage, 0 to 1; there is no stage of synonyms.

    Words match that are equal, then those left that begin alike: with four letters or more, and
    two thirds of the longer word. This stands in for a stemmer and works in every language.

    Source: Banerjee and Lavie, "METEOR" (2005): F = 10PR / (R + 9P), less
    0.5 · (chunks / matches)³ of it.
    """
    left, right = words(written), words(expected)
    matches = _aligned(left, right)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(left), len(matches) / len(right)
    mean = 10 * precision * recall / (recall + 9 * precision)
    chunks = sum((i - 1, j - 1) not in matches for i, j in matches)
    return mean * (1 - 0.5 * (chunks / len(matches)) ** 3)


def exact_match(written: str, expected: str) -> bool:
    """Tell whether two texts are the same but for white space at line ends and around them."""
    return _plain(written) == _plain(expected)


def decision_match(written: str, decision: str) -> bool:
    """Tell whether the first word written is the decision."""
    return words(written)[:1] == words(decision)


def _plain(text: str) -> list[str]:
    normal = unicodedata.normalize("NFC", text).strip()
    return [line.rstrip() for line in normal.splitlines()]


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for place, other in enumerate(right, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def _aligned(left: Sequence[str], right: Sequence[str]) -> set[tuple[int, int]]:
    """Match words one to one, stage by stage, the longest runs first so that chunks are few."""
    matches: set[tuple[int, int]] = set()
    free_left, free_right = set(range(len(left))), set(range(len(right)))
    for stems in (False, True):
        alike = {
            (i, j)
            for i in free_left
            for j in free_right
            if (_begin_alike(left[i], right[j]) if stems else left[i] == right[j])
        }
        while alike:
            run = _longest_run(alike)
            matches.update(run)
            free_left -= {i for i, _ in run}
            free_right -= {j for _, j in run}
            alike = {(i, j) for i, j in alike if i in free_left and j in free_right}
    return matches


def _longest_run(alike: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest diagonal of pairs, the earliest of equal ones."""
    best: list[tuple[int, int]] = []
    for i, j in sorted(alike):
        if (i - 1, j - 1) in alike:
            continue
        run = [(i, j)]
        while (run[-1][0] + 1, run[-1][1] + 1) in alike:
            run.append((run[-1][0] + 1, run[-1][1] + 1))
        if len(run) > len(best):
            best = run
    return best


def _begin_alike(left: str, right: str) -> bool:
    common = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        common += 1
    return common >= _STEM_CHARS_MIN and 3 * common >= 2 * max(len(left), len(right))

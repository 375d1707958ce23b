"""A device's examples: counted and looked over. Nothing of their content is ever said."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.data import AnyExample, Conversation, DataError, Example, load_examples, split_heldout
from tools.doctor.context import Context
from tools.doctor.finding import Finding, fail, ok, skip, warn

# Fewer give no gradient worth sending, and a loss that is chance.
_FEW: Final = 16
_FEW_HELDOUT: Final = 8
_MANY: Final = 0.1  # share of examples from which on a flaw is worth a line
# [characters] Of a token of English text, where the tokenizer cannot be asked.
_TOKEN_CHARACTERS: Final = 4
_SAMPLE: Final = 2_000
# Words of the formats themselves; every other quoted word may be somebody's.
_KNOWN: Final = frozenset(
    {"instruction", "input", "output", "prompt", "completion", "messages", "text", "role"}
    | {"QUESTION", "CONTEXTS", "LONG_ANSWER", "content", "system", "user", "assistant", "tool"}
)
_QUOTED: Final = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_KEYS: Final = re.compile(r"has the keys .*? \(known are")


@dataclass(frozen=True, slots=True)
class Look:
    """What a set of examples is like, in numbers.

    Attributes:
        train: Examples to train on.
        heldout: Examples to measure with.
        duplicates: Examples whose text stands in an earlier one.
        shared: Held-out examples that also stand in the training data.
        empty: Examples with nothing to learn.
        median_tokens: Of a sample, or estimated.
        cut: Share of the sample that is longer than the run's `max_tokens`; None without a run.
        is_exact: The base model's tokenizer counted.
    """

    train: int
    heldout: int
    duplicates: int
    shared: int
    empty: int
    median_tokens: int
    cut: float | None
    is_exact: bool


def examine_data(context: Context) -> Iterator[Finding]:
    """Yield `data` and `data-quality`."""
    config = context.agent
    try:
        examples = load_examples(config.data.train)
        heldout = load_examples(config.data.heldout) if config.data.heldout else None
    except DataError as error:
        yield fail("data", masked(str(error)), "correct the file at that place")
        yield skip("data-quality", "first mend data")
        return
    apart = heldout is not None
    train, held = (
        (examples, heldout or [])
        if apart
        else split_heldout(examples, share=config.data.heldout_share)
    )
    run = context.known.run
    look = look_over(
        train,
        held,
        count=_tokenizer(config.model),
        max_tokens=run.plan.max_tokens if run else None,
    )
    yield judge_amount(look)
    yield judge_quality(look, max_tokens=run.plan.max_tokens if run else None)


def masked(text: str) -> str:
    """Return an error of the data's reader without any word that stands in the data."""
    text = _KEYS.sub("has its keys (known are", text)
    return _QUOTED.sub(lambda found: found[0] if (found[1] or found[2]) in _KNOWN else "'…'", text)


def _tokenizer(model: str | None) -> Callable[[str], int] | None:
    """Return a function that counts tokens as the base model does; None where there is none."""
    file = Path(model).expanduser() / "tokenizer.json" if model else None
    if file is None or not file.is_file():
        return None
    try:
        import tokenizers  # noqa: PLC0415  # an aggregator has none

        counter: Any = tokenizers.Tokenizer.from_file(str(file))
    except Exception:  # noqa: BLE001  # whatever a damaged file makes the library raise
        return None
    return lambda text: len(counter.encode(text).ids)


def look_over(
    train: Sequence[AnyExample],
    heldout: Sequence[AnyExample],
    *,
    count: Callable[[str], int] | None,
    max_tokens: int | None,
) -> Look:
    """Return what examples are like.

    Args:
        train: To learn.
        heldout: To measure with.
        count: Counts a text's tokens; None estimates them.
        max_tokens: Tokens at which the run cuts an example; None where no run is known.
    """
    seen: set[bytes] = set()
    duplicates = 0
    for example in train:
        key = hashlib.sha256(example.text.encode()).digest()
        duplicates += key in seen
        seen.add(key)
    shared = sum(hashlib.sha256(one.text.encode()).digest() in seen for one in heldout)
    step = max(1, len(train) // _SAMPLE)
    lengths = [_tokens(example, count) for example in train[::step]]
    cut = None
    if max_tokens is not None and lengths:
        cut = sum(length > max_tokens for length in lengths) / len(lengths)
    return Look(
        train=len(train),
        heldout=len(heldout),
        duplicates=duplicates,
        shared=shared,
        empty=sum(not _has_target(example) for example in train),
        median_tokens=int(statistics.median(lengths)) if lengths else 0,
        cut=cut,
        is_exact=count is not None,
    )


def _tokens(example: AnyExample, count: Callable[[str], int] | None) -> int:
    return count(example.text) if count else len(example.text) // _TOKEN_CHARACTERS + 1


def _has_target(example: AnyExample) -> bool:
    match example:
        case Example(completion=completion):
            return bool(completion.strip())
        case Conversation(turns=turns):
            return any(turn.role == "assistant" and turn.content.strip() for turn in turns)


def judge_amount(look: Look) -> Finding:
    """Tell whether there is enough to learn from and to measure with."""
    text = f"{look.train:,} examples to learn, {look.heldout:,} held out"
    if look.train - look.empty <= 0:
        return fail("data", f"{text}, and nothing in them to learn", "fill in the completions")
    if look.train < _FEW:
        return warn("data", f"{text}: few", "bring more examples to data.train")
    if look.heldout < _FEW_HELDOUT:
        return warn("data", f"{text}: too few to measure with", "raise data.heldout_share")
    return ok("data", text)


def judge_quality(look: Look, *, max_tokens: int | None) -> Finding:
    """Tell whether the examples have a flaw that costs what is learnt from them."""
    check = "data-quality"
    guess = "" if look.is_exact else "about "
    length = f"{guess}{look.median_tokens} tokens in the median"
    if look.shared:
        text = (
            f"{look.shared:,} held-out examples also stand in data.train: their loss says nothing"
        )
        return warn(check, text, "take them out of one of the two")
    if look.empty > look.train * _MANY:
        return warn(check, f"{look.empty:,} examples have nothing to learn", "fill or remove them")
    if look.duplicates > look.train * _MANY:
        text = f"{look.duplicates:,} examples stand there more than once"
        return warn(check, text, "remove the repetitions, unless they are meant as weight")
    if look.cut is not None and look.cut > _MANY:
        text = f"{look.cut:.0%} are longer than the run's {max_tokens} tokens and are cut; {length}"
        return warn(
            check, text, "split long texts, or raise plan.max_tokens in the aggregator's file"
        )
    flaws = f"{look.duplicates:,} repeated, {look.empty:,} empty"
    cut = "" if look.cut is None else f", {look.cut:.0%} cut at {max_tokens} tokens"
    return ok(check, f"{length}{cut}; {flaws}")

"""Whether choosing by Fisher earns the saving: each control beside what it stands in for. Pure.

A control is another configuration with one thing changed: the importance of the coordinates, the
score of the tokens, or the support. The two send the same bytes in each round and are paired by
seed; the pairs of all workloads of an experiment are tested together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from tools.evidence.contest import Against, Contest, pooled
from tools.evidence.families import Configuration
from tools.evidence.matched import common_bytes, worse_than
from tools.evidence.sheets import Sheet
from tools.evidence.statistics import SIGNIFICANT, Interval, holm, interval, t_test, wilcoxon
from tools.evidence.targets import Tried
from tools.evidence.words import factor, loss, p_text, span, times
from tools.report.tables import Column

# Codecs that take something from another one, and that one.
_WHOLE: Final = {
    "fstq-random": "fstq+",
    "fstq-magnitude": "fstq+",
    "fstq-uniform": "fstq+",
    "fstq-plus-plain": "fstq+",
    "fstq-r-plain": "fstq-r",
}
# A mask by Fisher stands against no mask; a mask by anything else stands against that by Fisher.
_FISHER_MASK: Final = "hard"
_FISHER_MASKS: Final = frozenset({"hard", "soft"})

_COLUMNS: Final = (
    Column("whole", "With", is_text=True),
    Column("control", "In its place", is_text=True),
    Column("pairs", "Pairs"),
    Column("worse", "Loss worse by", loss, "At the bytes that both have sent, mean of pairs"),
    Column("worse_span", "95 % interval", str),
    Column("t_p", "p, t test", p_text, "Paired, Holm-corrected"),
    Column("wilcoxon_p", "p, Wilcoxon", p_text, "Signed ranks, Holm-corrected"),
    Column("over", "Bytes to target", times, "Over those of the first, where that reached it"),
    Column("over_span", "95 % interval", str),
    Column("over_p", "p, t test", p_text, "On logarithms, Holm-corrected"),
)


@dataclass(frozen=True, slots=True)
class Decided:
    """A control and what it stands in for, over all seeds of several settings.

    Attributes:
        whole: The method's text.
        control: The control's.
        pairs: How many there are.
        worse: By how much the control's loss is higher at the same bytes, pair by pair.
        over: Its bytes to the target over the other's.
    """

    whole: str
    control: str
    pairs: int
    worse: Interval
    t_p: float | None
    wilcoxon_p: float | None
    over: Against


def stands_in_for(configuration: Configuration) -> str | None:
    """Return the text of what a configuration is a control of; None where it is none."""
    options = dict(configuration.options)
    codec, mask = configuration.codec, options.get("mask", "off")
    if options.get("importance", "fisher") != "fisher":
        del options["importance"]
    elif mask not in _FISHER_MASKS | {"off"}:
        options["mask"] = _FISHER_MASK
    elif codec in _WHOLE:
        codec = _WHOLE[codec]
    elif mask in _FISHER_MASKS:
        for name in ("mask", "ratio", "interval"):
            options.pop(name, None)
    else:
        return None
    head = f"{codec}@{configuration.rate}" if configuration.rate else codec
    parts = [f"{name}={value}" if value else name for name, value in options.items()]
    return ",".join([head, *parts])


def decided(contests: Sequence[Contest]) -> list[Decided]:
    """Return every control that each of some settings has beside what it stands in for."""
    found = []
    for tried in contests[0].comparison.tried if contests else ():
        whole = stands_in_for(tried.configuration)
        pairs = [
            (each.comparison.by_text[whole], each.comparison.by_text[tried.text])
            for each in contests
            if whole is not None and {whole, tried.text} <= each.comparison.by_text.keys()
        ]
        if whole is not None and len(pairs) == len(contests):
            differences = [each for one, two in pairs for each in _worse(one, two)]
            if differences:
                found.append(_decided(whole, tried.text, differences, pairs))
    return _corrected(found)


def deciding_sheet(contests: Sequence[Contest]) -> Sheet | None:
    """Return the table of all controls; None where there is none."""
    rows = [_row(each) for each in decided(contests)]
    if not rows:
        return None
    where = ", ".join(str(each.comparison.workload) for each in contests)
    return Sheet(
        f"What earns the saving: {contests[0].comparison.experiment}, all of {where}",
        _COLUMNS,
        tuple(rows),
        "Each control against the same with Fisher; a mask by Fisher against no mask. Pairs are a"
        " workload's seeds.",
    )


def deciding_findings(contests: Sequence[Contest]) -> list[str]:
    """Return a sentence for each control, the largest difference first."""
    found = sorted(decided(contests), key=lambda each: -each.worse.mean)
    return [_finding(each) for each in found]


def _worse(one: Tried, two: Tried) -> list[float]:
    if not (one.outcomes and two.outcomes):
        return []
    return worse_than(one, two, common_bytes([one, two]))


def _decided(
    whole: str, control: str, differences: list[float], pairs: list[tuple[Tried, Tried]]
) -> Decided:
    return Decided(
        whole,
        control,
        len(differences),
        interval(differences),
        t_test(differences),
        wilcoxon(differences),
        pooled((two, one) for one, two in pairs),
    )


def _corrected(found: Sequence[Decided]) -> list[Decided]:
    t_p = holm([each.t_p for each in found])
    wilcoxon_p = holm([each.wilcoxon_p for each in found])
    over_p = holm([each.over.t_p for each in found])
    return [
        replace(each, t_p=one, wilcoxon_p=two, over=replace(each.over, t_p=three))
        for each, one, two, three in zip(found, t_p, wilcoxon_p, over_p, strict=True)
    ]


def _row(found: Decided) -> dict[str, Any]:
    worse = found.worse
    return {
        "whole": found.whole,
        "control": found.control,
        "pairs": found.pairs,
        "worse": worse.mean,
        "worse_span": _span(worse),
        "t_p": found.t_p,
        "wilcoxon_p": found.wilcoxon_p,
        "over": factor(found.over),
        "over_span": span(found.over),
        "over_p": found.over.t_p,
    }


def _span(found: Interval) -> str | None:
    if found.low is None or found.high is None:
        return None
    return f"{loss(found.low)} to {loss(found.high)}"


def _finding(found: Decided) -> str:
    head = f"`{found.control}` in the place of `{found.whole}`, {found.pairs} pairs:"
    if found.t_p is None:
        return f"{head} {found.worse.mean:+.4f} nats at the same bytes; so few pairs tell nothing."
    told = "worse" if found.worse.mean > 0 else "better"
    verdict = told if found.t_p < SIGNIFICANT else "not told apart"
    return (
        f"{head} {found.worse.mean:+.4f} nats at the same bytes ({_span(found.worse)}, p"
        f" {p_text(found.t_p)}): {verdict}."
    )

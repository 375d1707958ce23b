"""The goals of uplink and time, and what the figures say of them. Pure.

The goals stood before anything was run; the figures decide, and nothing here knows them. A factor
is reached where its mean is, the corrected t test tells it from 1, and each of this project's runs
of that configuration reached the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tools.evidence.contest import Against, Best, Contest, Wanted, against
from tools.evidence.families import Role
from tools.evidence.statistics import SIGNIFICANT, holm
from tools.evidence.targets import Tried
from tools.evidence.time_tables import PROFILES, Link, Stopwatch, slowdown_of
from tools.evidence.verdicts import Verdict
from tools.evidence.words import factor, setting_text, span, times
from tools.experiment.timing import LinkProfile
from tools.units import count_text

FASTER: Final = 5.0


@dataclass(frozen=True, slots=True)
class Goal:
    """A factor that uplink to target has to be smaller by.

    Attributes:
        factor: The least.
        than: Than what, as a sentence says it.
        wanted: Which configurations these are; the best of them counts.
    """

    factor: float
    than: str
    wanted: Wanted

    @property
    def text(self) -> str:
        """The goal as one says it."""
        return f"at least {self.factor:g} times less uplink to target than {self.than}"


def uplink_goals(baseline: str) -> tuple[Goal, ...]:
    """Return the goals of the uplink, the stretched one last."""

    def is_baseline(tried: Tried) -> bool:
        return tried.text == baseline

    return (
        Goal(100.0, f"{baseline}, the baseline", is_baseline),
        Goal(
            3.0,
            "the best honest 1-bit codec (EDEN, sign with feedback)",
            lambda tried: tried.configuration.is_one_bit,
        ),
        Goal(
            1.3,
            "the best of all baselines",
            lambda tried: tried.configuration.role is Role.BASELINE,
        ),
        Goal(150.0, f"{baseline} (the stretch)", is_baseline),
    )


def uplink_verdicts(contest: Contest, *, keys: Sequence[str]) -> list[Verdict]:
    """Return how each goal of the uplink stands in one setting."""
    where = setting_text(contest.comparison.setting, keys)
    goals = uplink_goals(contest.comparison.baseline)
    own = contest.own
    tried = contest.comparison.tried
    if not contest.comparison.targets or not any(_is_own(each) for each in tried):
        return [Verdict(goal.text, where, reached=None) for goal in goals]
    if own is None:
        note = "no configuration of this project's codec reached the target"
        return [Verdict(goal.text, where, reached=False, found=note) for goal in goals]
    opponents = [contest.best_of(goal.wanted) for goal in goals]
    ratios = _corrected(opponents, own)
    return [
        _uplink_verdict(goal, where, opponent, ratio, own=own)
        for goal, opponent, ratio in zip(goals, opponents, ratios, strict=True)
    ]


def time_verdict(contest: Contest, *, keys: Sequence[str], fetching: bool = False) -> Verdict:
    """Return how the goal of time to target stands in one setting, of our fastest.

    Args:
        contest: The setting.
        keys: What a heading names of it.
        fetching: Whether the versions that clients fetch are counted as well.
    """
    where = setting_text(contest.comparison.setting, keys)
    goal = f"at least {FASTER:g} times faster to target than {contest.comparison.baseline},"
    goal += f" {PROFILES[LinkProfile.LTE_MIXED]}"
    if fetching:
        goal += ", fetching counted"
    watch = Stopwatch(contest)
    link = Link(LinkProfile.LTE_MIXED, slowdown_of(contest.comparison.setting))
    found = {
        tried.text: watch.faster(tried, link, downlink=fetching)
        for tried in contest.comparison.tried
        if _is_own(tried)
    }
    known = {text: each for text, each in found.items() if each.ratio is not None}
    if not known:
        return Verdict(goal, where, reached=None)
    text = max(known, key=lambda each: (_reliable(contest, each), _mean(known[each])))
    return _verdict(
        goal,
        where,
        known[text],
        least=FASTER,
        note=f"`{text}`",
        reliable=_reliable(contest, text),
    )


def own_sentences(contests: Iterable[Contest], *, keys: Sequence[str]) -> list[str]:
    """Return which configuration is this project's best in each setting, and the paper's."""
    sentences = []
    for contest in contests:
        own = contest.own
        paper = contest.best_of(lambda tried: tried.configuration.role is Role.PAPER)
        parts = []
        if own is not None:
            parts.append(
                f"this project's best, of {count_text(own.configurations, 'configuration')}, is"
                f" `{own.tried.text}` ({len(own.tried.reached)} of {own.tried.runs} runs reached"
                " the target)"
            )
        if paper is not None:
            saving = against(contest.comparison.reference, paper.tried)
            text = f"the paper's own codec, best of {paper.configurations}, is"
            text += f" `{paper.tried.text}`: {_less(saving)} less than the baseline"
            if own is not None:
                text += f", {_less(against(paper.tried, own.tried))} more than this project's"
            parts.append(text)
        if parts:
            where = setting_text(contest.comparison.setting, keys)
            sentences.append(f"{where}: {'; '.join(parts)}.")
    return sentences


def _uplink_verdict(
    goal: Goal, where: str, opponent: Best | None, ratio: Against, *, own: Best
) -> Verdict:
    if opponent is None or ratio.ratio is None:
        return Verdict(goal.text, where, reached=None)
    note = "" if opponent.tried.text in goal.than else f"against `{opponent.tried.text}`"
    return _verdict(
        goal.text, where, ratio, least=goal.factor, note=note, reliable=own.tried.always_reached
    )


def _verdict(
    goal: str, where: str, ratio: Against, *, least: float, note: str, reliable: bool
) -> Verdict:
    assert ratio.ratio is not None
    notes = [note] if note else []
    if ratio.t_p is None:
        notes.append("a single pair, which tells nothing of chance")
    if not reliable:
        notes.append("not every run reached the target")
    significant = ratio.t_p is not None and ratio.t_p < SIGNIFICANT
    return Verdict(
        goal,
        where,
        reached=ratio.ratio.mean >= least and significant and reliable,
        found=times(factor(ratio) or 0.0),
        span=span(ratio),
        t_p=ratio.t_p,
        wilcoxon_p=ratio.wilcoxon_p,
        note=", ".join(notes),
    )


def _corrected(opponents: Sequence[Best | None], own: Best) -> list[Against]:
    """Return the ratios of several opponents, corrected for being several.

    An opponent who stands for two goals is tested once.
    """
    found = [against(each.tried if each else None, own.tried) for each in opponents]
    texts = [each.tried.text if each else "" for each in opponents]
    first = {text: at for at, text in reversed(list(enumerate(texts)))}
    places = sorted(first.values())
    t_p = dict(zip(places, holm([found[at].t_p for at in places]), strict=True))
    wilcoxon_p = dict(zip(places, holm([found[at].wilcoxon_p for at in places]), strict=True))
    return [
        Against(each.ratio, each.at_least, t_p[first[text]], wilcoxon_p[first[text]])
        for each, text in zip(found, texts, strict=True)
    ]


def _less(found: Against) -> str:
    return "an unknown factor" if found.ratio is None else times(factor(found) or 0.0)


def _mean(found: Against) -> float:
    return found.ratio.mean if found.ratio is not None else 0.0


def _is_own(tried: Tried) -> bool:
    return tried.configuration.role is Role.OWN


def _reliable(contest: Contest, text: str) -> bool:
    return contest.comparison.by_text[text].always_reached

"""The uplink's tables: bytes to the target, method by method, and every configuration. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tools.evidence.contest import Against, Best, Contest, against, together
from tools.evidence.sheets import Sheet
from tools.evidence.statistics import least_wilcoxon_p, summary
from tools.evidence.targets import Tried
from tools.evidence.words import (
    TIMES,
    factor,
    loss,
    megabytes,
    p_text,
    percent,
    setting_text,
    span,
    times,
)
from tools.experiment.quality.token_recall import token_recall
from tools.report.tables import Column
from tools.units import count_text

_BYTES: Final = (
    Column("reached", "Reached", about="Trials that reached the target, of those that ended"),
    Column("wire_up", "MB to target", megabytes, "Mean over the seeds that reached it"),
    Column("deviation", "± sd", megabytes, "Standard deviation over seeds"),
    Column("saving", "Less than baseline", times, "Geometric mean over seeds"),
    Column("saving_span", "95 % interval", str),
)
_END: Final = (
    Column("bytes_up", "MB of segments", megabytes, "To target, as the codec made them"),
    Column("bytes_saving", "Less of segments", times, "The baseline's over its own"),
    Column("final_loss", "Last loss", loss, "Mean over seeds after the last round"),
    Column("final_accuracy", "Last accuracy", percent, optional=True),
    Column("role", "Stands as", is_text=True),
    Column("command", "Run again with", is_text=True, optional=True),
)
_COMMAND: Final = _END[-1]

# What an adapter's quality says besides shares: the same for every seed of a workload.
_COUNTED: Final = ("questions", "programs", "tests")

COLUMNS: Final = (
    Column("method", "Method"),
    Column("configuration", "Best configuration", is_text=True),
    Column("tried", "Tried", about="Configurations of this method that were run"),
    *_BYTES,
    Column("over_own", f"{TIMES} own", times, "Bytes over those of this project's best"),
    Column("over_own_span", "95 % interval", str),
    Column("t_p", "p, t test", p_text, "Paired, two sides, Holm-corrected"),
    Column("wilcoxon_p", "p, Wilcoxon", p_text, "Signed ranks, two sides, Holm-corrected"),
    *_END,
)
CONFIGURATION_COLUMNS: Final = (
    Column("configuration", "Configuration"),
    *_BYTES,
    Column("failed", "Failed", optional=True),
    Column("all_wire_up", "MB, all rounds", megabytes),
    *_END,
)
_TOGETHER_COLUMNS: Final = (
    Column("method", "Method"),
    Column("role", "Stands as", is_text=True),
    Column("pairs", "Pairs"),
    Column("over_own", f"{TIMES} own", times),
    Column("over_own_span", "95 % interval", str),
    Column("t_p", "p, t test", p_text),
    Column("wilcoxon_p", "p, Wilcoxon", p_text),
)


def uplink_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet:
    """Return bytes to the target of every method at its best, in one setting.

    Args:
        contest: The setting's methods.
        keys: Of the setting, what the title names.
    """
    comparison = contest.comparison
    rows = tuple(_row(best, contest) for best in contest.bests)
    targets = summary(list(comparison.targets.values()))
    about = f"Target: {_target_text(comparison.setting, comparison.baseline)}"
    if targets.mean is not None:
        about += f"; mean over {count_text(targets.count, 'seed')} {loss(targets.mean)} nats"
    if targets.deviation is not None:
        about += f" ± {loss(targets.deviation)}. {_wilcoxon_text(contest)}"
    title = f"Uplink to target: {setting_text(comparison.setting, keys)}"
    return Sheet(title, COLUMNS, rows, f"{about}.")


def _wilcoxon_text(contest: Contest) -> str:
    """Return how small Wilcoxon's p can get: some methods may have been run with more seeds."""
    counts = sorted({best.tried.runs for best in contest.bests if best.tried.runs > 1})
    least = " and ".join(
        f"{p_text(least_wilcoxon_p(count))} over {count_text(count, 'seed')}" for count in counts
    )
    return f"Wilcoxon's p is never below {least}, uncorrected"


def other_configurations_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet | None:
    """Return the configurations that are no method's best in one setting; None without any."""
    bests = {best.tried.text for best in contest.bests}
    others = [tried for tried in contest.comparison.tried if tried.text not in bests]
    if not others:
        return None
    return replace(
        configurations_sheet(contest, keys=keys, tried=others),
        title=f"Not the best of their methods: {setting_text(contest.comparison.setting, keys)}",
    )


def configurations_sheet(
    contest: Contest, *, keys: Sequence[str], tried: Sequence[Tried] | None = None
) -> Sheet:
    """Return bytes to the target of every configuration, or of some, in one setting."""
    comparison = contest.comparison
    rows = tuple(
        {
            "configuration": one.text,
            "role": one.configuration.role.value,
            "all_wire_up": summary([each.all_wire_up for each in one.outcomes.values()]).mean,
            "failed": len(one.failed) or None,
            **bytes_values(one, comparison.reference),
        }
        for one in (comparison.tried if tried is None else tried)
    )
    title = f"Every configuration: {setting_text(comparison.setting, keys)}"
    return Sheet(title, CONFIGURATION_COLUMNS, rows)


def together_sheet(contests: Sequence[Contest], *, workloads: Sequence[str]) -> Sheet | None:
    """Return the ratios over all seeds of several workloads; None where there is no such thing."""
    found = together(contests)
    if len(contests) < 2 or not found:  # noqa: PLR2004  # one alone has its own table
        return None
    titles = {best.family: best for contest in contests for best in contest.bests}
    rows = [
        {
            "method": titles[family].title,
            "role": titles[family].role.value,
            "pairs": each.ratio.pairs if each.ratio else 0,
            "over_own": factor(each),
            "over_own_span": span(each),
            "t_p": each.t_p,
            "wilcoxon_p": each.wilcoxon_p,
        }
        for family, each in sorted(found.items(), key=lambda pair: _least(pair[1]))
    ]
    return Sheet(
        f"Uplink to target, all of {', '.join(workloads)}",
        _TOGETHER_COLUMNS,
        tuple(rows),
        "Each method at its best in each workload; pairs are a workload's seeds.",
    )


def quality_sheet(contests: Sequence[Contest]) -> Sheet | None:
    """Return what the last adapters answer, where that was taken."""
    rows: list[dict[str, Any]] = []
    metrics: dict[str, None] = {}
    for contest in contests:
        for tried in contest.comparison.tried:
            found = {**_quality(tried), **_recall(tried, contest.comparison.reference)}
            if found:
                metrics |= dict.fromkeys(found)
                row = {"workload": contest.comparison.workload, "configuration": tried.text}
                rows.append({**row, **found, "command": tried.command})
    if not rows:
        return None
    columns = [
        Column(name, name.replace("_", " "), _count_text if name in _COUNTED else _share_text)
        for name in metrics
    ]
    head = (Column("workload", "Workload"), Column("configuration", "Configuration", is_text=True))
    return Sheet(
        "Quality of the last adapter, mean over seeds", (*head, *columns, _COMMAND), tuple(rows)
    )


def bytes_values(tried: Tried, reference: Tried | None) -> dict[str, Any]:
    """Return what every table says of a configuration, beside the baseline's where there is one."""
    saving = against(reference, tried)
    sent = summary(list(tried.reached.values()))
    segments = [each.bytes_up for each in tried.outcomes.values() if each.bytes_up is not None]
    return {
        "reached": f"{len(tried.reached)} of {tried.runs}",
        "wire_up": sent.mean,
        "deviation": sent.deviation,
        "bytes_up": summary(segments).mean,
        "bytes_saving": _bytes_saving(tried, reference),
        "saving": factor(saving),
        "saving_span": span(saving),
        "command": tried.command,
        **last_values(tried),
    }


def last_values(tried: Tried) -> dict[str, float | None]:
    """Return loss and accuracy after the last round, means over seeds."""
    ends = [each.trial.rounds[-1] for each in tried.outcomes.values()]
    losses = [each.loss for each in ends if each.loss is not None and math.isfinite(each.loss)]
    accuracies = [each.accuracy for each in ends if each.accuracy is not None]
    return {
        "final_loss": summary(losses).mean,
        "final_accuracy": summary(accuracies).mean,
    }


def _row(best: Best, contest: Contest) -> dict[str, Any]:
    over = contest.over_own.get(best.family)
    return {
        "method": best.title,
        "configuration": best.tried.text,
        "role": best.role.value,
        "tried": best.configurations,
        **bytes_values(best.tried, contest.comparison.reference),
        "over_own": factor(over) if over else None,
        "over_own_span": span(over) if over else None,
        "t_p": over.t_p if over else None,
        "wilcoxon_p": over.wilcoxon_p if over else None,
    }


def _bytes_saving(tried: Tried, reference: Tried | None) -> float | None:
    """Return the baseline's segments over a configuration's, with seeds that both reached."""
    if reference is None:
        return None
    pairs = [
        (reference.outcomes[seed].bytes_up, each.bytes_up)
        for seed, each in tried.outcomes.items()
        if seed in reference.outcomes
    ]
    logs = [math.log(many / few) for many, few in pairs if many and few]
    return math.exp(math.fsum(logs) / len(logs)) if logs else None


def _least(found: Against) -> float:
    return found.ratio.mean if found.ratio is not None else math.inf


def _quality(tried: Tried) -> dict[str, float]:
    known = [each.trial.quality for each in tried.outcomes.values() if each.trial.quality]
    metrics = dict.fromkeys(name for quality in known for name in quality)
    return {
        name: sum(values) / len(values)
        for name in metrics
        if (values := [quality[name] for quality in known if name in quality])
    }


def _count_text(value: float) -> str:
    return f"{value:.0f}"


def _share_text(value: float) -> str:
    return f"{value:.3f}"


def _recall(tried: Tried, reference: Tried | None) -> dict[str, float]:
    """Return Token Recall against the baseline of the same seeds, where both took an order."""
    orders = {} if reference is None else reference.outcomes
    found = [
        token_recall(orders[seed].trial.token_order, each.trial.token_order)
        for seed, each in tried.outcomes.items()
        if seed in orders and orders[seed].trial.token_order and each.trial.token_order
    ]
    return {"token_recall": sum(found) / len(found)} if found else {}


def _target_text(setting: Mapping[str, Any], baseline: str) -> str:
    share = float(setting["target_share"])
    return f"the loss that {baseline} reaches after {share:.0%} of its rounds"

"""Everything that the document says, section by section. Pure.

The sections are those that were asked for before anything was run; one of which nothing was
measured says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tools.evidence.contest import Contest, contest_of
from tools.evidence.curves import matched_figures, uplink_figure
from tools.evidence.deciding import deciding_findings, deciding_sheet
from tools.evidence.goals import own_sentences, time_verdict, uplink_verdicts
from tools.evidence.matched import matched_sheets
from tools.evidence.measured import (
    INFERENCE,
    OVERHEAD,
    REPLAY,
    inference_sheet,
    inference_verdicts,
    overhead_sheet,
    overhead_verdicts,
    replay_sheet,
    rows_of,
)
from tools.evidence.other_targets import other_targets_sheet
from tools.evidence.reading import Folder
from tools.evidence.runs import failures_sheet, hyperparameters_sheet, shared_sheet
from tools.evidence.sheets import Figure, Section, Sheet
from tools.evidence.sweeps import (
    WORKLOAD,
    experiments_of,
    has_both_sides,
    judged,
    main_contests,
    sweep_sheets,
    varied,
)
from tools.evidence.targets import compare_all
from tools.evidence.time_tables import (
    PROFILES,
    downlink_sheet,
    energy_sheet,
    has_deltas,
    loss_sheet,
    slowdown_sheet,
    time_sheet,
)
from tools.evidence.uplink import (
    configurations_sheet,
    other_configurations_sheet,
    quality_sheet,
    together_sheet,
    uplink_sheet,
)
from tools.evidence.verdicts import Verdict, sentences, verdicts_sheet

_TARGET: Final = (
    "The target is set by the baseline alone, for each setting and seed: the lowest held-out loss"
    " (running minimum, nothing else smoothed) that it has reached after the share of its rounds"
    " that each table names. Bytes are those of the real messages of all clients and rounds, whole"
    " as they are published (compressed, with frame, manifest and topic; *segments* are the codec's"
    " part before compression), read on the straight line between evaluated rounds. A run that"
    " never reaches the target has no bytes to it; where a ratio is over such runs, their bytes of"
    " all rounds stand in, and it is marked ≥. A run that failed is counted among those that did"
    " not reach it."
)
_BEST: Final = (
    "A method is shown at its best configuration in each setting: most seeds at the target, then"
    " fewest bytes; *tried* is how many it had. The choice is made on the tested seeds, for all"
    " methods alike. Ratios are geometric means over seeds with 95 % intervals (Student's t on"
    " logarithms); p values are of paired tests with two sides that the ratio is 1, corrected by"
    " Holm over the rows of the table."
)
_REACHED: Final = (
    "The goals stood before anything was run. A factor is reached where its mean is, the corrected"
    " t test tells it from 1 (p < 0.05), and each run of that configuration of this project's"
    " reached the target."
)
_MATCHED: Final = (
    "Configurations are compared that have the same rate, error feedback and server, and so send"
    " the same bytes; the first of each table chooses with Fisher."
)
_OTHERS: Final = "Other servers, other clients, parts taken away, a larger base model"
_TIMES: Final = (
    "Rounds are timed by the model of `tools/experiment/timing.py`: the slowest client whose"
    " update arrived decides. Bytes are real; training seconds are the median of all runs with the"
    " same local work, so that what else the machine did has no say."
)


def sections_of(folder: Folder) -> tuple[Section, ...]:
    """Return the document's sections, made of everything that a folder holds."""
    contests = [contest_of(each) for each in compare_all(folder.trials)]
    main = main_contests(contests)
    first = judged(main)
    rest = [contest for contest in main if contest not in first]
    tuned = [contest for contest in rest if len(contest.comparison.seeds) == 1]
    others = [contest for contest in rest if contest not in tuned]
    fair = [contest for contest in others if has_both_sides(contest)]
    keys = heading_keys(first)
    return (
        _goals(folder, first, fetching=[*first, *fair], keys=keys),
        _uplink(first, keys=keys),
        _time(
            first,
            fair,
            keys=keys,
            replayed=rows_of(folder.companions, REPLAY),
        ),
        _matched(first, others, keys=keys),
        _sweeps(contests, first, keys=keys),
        _configurations("others", _OTHERS, others, first),
        _configurations("tuning", "How each method's configuration was chosen", tuned, first),
        _measured(folder.companions, OVERHEAD),
        _measured(folder.companions, INFERENCE),
        Section(
            "quality",
            "What the last adapters answer",
            sheets=_known([quality_sheet(contests)]),
        ),
        _runs(folder, contests),
    )


def heading_keys(contests: Sequence[Contest]) -> list[str]:
    """Return what a heading names of a setting: the workload, and what differs besides."""
    return [WORKLOAD, *varied(contests)]


def _uplink(main: Sequence[Contest], *, keys: Sequence[str]) -> Section:
    pooled = [
        together_sheet(group, workloads=[each.comparison.workload for each in group])
        for group in experiments_of(main).values()
        if len({each.comparison.workload for each in group}) == len(group)
    ]
    return Section(
        "uplink",
        "Uplink to target",
        (_TARGET, _BEST) if main else (),
        (
            *sentences(_uplink_verdicts(main, keys=keys)),
            *own_sentences(main, keys=keys),
        ),
        (
            *(uplink_sheet(each, keys=keys) for each in main),
            *_known(pooled),
            *_known([other_targets_sheet(each, keys=keys) for each in main]),
            *_known([other_configurations_sheet(each, keys=keys) for each in main]),
        ),
        tuple(uplink_figure(each, keys=keys) for each in main),
    )


def _time(
    main: Sequence[Contest],
    others: Sequence[Contest],
    *,
    keys: Sequence[str],
    replayed: Sequence[Mapping[str, Any]],
) -> Section:
    return Section(
        "time",
        "Time to target",
        (_TIMES,) if main else (),
        (
            *sentences(time_verdict(each, keys=keys) for each in main),
            *sentences(_fetching_verdicts([*main, *others], keys=keys)),
        ),
        (
            *(time_sheet(each, profile, keys=keys) for each in main for profile in PROFILES),
            *(energy_sheet(each, keys=keys) for each in main),
            *(
                _named(time_sheet(each, profile, keys=keys), each)
                for each in others
                for profile in PROFILES
            ),
            *(
                downlink_sheet(each, profile, keys=keys)
                for each in filter(has_deltas, main)
                for profile in PROFILES
            ),
            *(
                _named(downlink_sheet(each, profile, keys=keys), each)
                for each in filter(has_deltas, others)
                for profile in PROFILES
            ),
            *((replay_sheet(replayed),) if replayed else ()),
        ),
    )


def _matched(main: Sequence[Contest], others: Sequence[Contest], *, keys: Sequence[str]) -> Section:
    together = list(experiments_of([*main, *others]).values())
    deciding = [deciding_sheet(group) for group in together]
    sheets = (
        *(sheet for each in main for sheet in matched_sheets(each, keys=keys)),
        *(_named(sheet, each) for each in others for sheet in matched_sheets(each, keys=keys)),
    )
    figures = (
        *(figure for each in main for figure in matched_figures(each, keys=keys)),
        *(
            _named_figure(figure, each)
            for each in others
            for figure in matched_figures(each, keys=keys)
        ),
    )
    return Section(
        "matched",
        "What choosing by Fisher gains at the same bytes",
        (_MATCHED,) if sheets else (),
        tuple(text for group in together for text in deciding_findings(group)),
        (*_known(deciding), *sheets),
        figures,
    )


def _sweeps(
    contests: Sequence[Contest], main: Sequence[Contest], *, keys: Sequence[str]
) -> Section:
    return Section(
        "sweeps",
        "Sweeps: heterogeneity, dropout, packet loss, compute, clients",
        sheets=(
            *sweep_sheets(contests),
            *(loss_sheet(each, keys=keys) for each in main),
            *(slowdown_sheet(each, keys=keys) for each in main),
        ),
    )


def _configurations(
    identity: str, title: str, contests: Sequence[Contest], main: Sequence[Contest]
) -> Section:
    """Return every configuration of experiments in which nothing is judged.

    Titles name what differs from the settings that are judged.
    """
    sheets = [configurations_sheet(each, keys=heading_keys([*main[:1], each])) for each in contests]
    return Section(
        identity,
        title,
        sheets=tuple(_named(sheet, each) for sheet, each in zip(sheets, contests, strict=True)),
    )


def _named(sheet: Sheet, contest: Contest) -> Sheet:
    return replace(sheet, title=_of_experiment(sheet.title, contest))


def _named_figure(figure: Figure, contest: Contest) -> Figure:
    title = _of_experiment(figure.labels.title, contest)
    return replace(figure, labels=replace(figure.labels, title=title))


def _of_experiment(title: str, contest: Contest) -> str:
    """Return a title that says its experiment, where several may have the same."""
    return f"{title} (experiment {contest.comparison.experiment})"


def _measured(companions: Mapping[str, Mapping[str, Any]], kind: str) -> Section:
    rows = rows_of(companions, kind)
    if kind == OVERHEAD:
        found, sheet, name = overhead_verdicts(rows), overhead_sheet(rows), "Overhead of Fisher"
    else:
        found, sheet, name = inference_verdicts(rows), inference_sheet(rows), "Inference"
    return Section(kind, name, (), tuple(sentences(found)), (sheet,) if rows else ())


def _goals(
    folder: Folder, main: Sequence[Contest], *, fetching: Sequence[Contest], keys: Sequence[str]
) -> Section:
    verdicts = [
        *_uplink_verdicts(main, keys=keys),
        *(time_verdict(each, keys=keys) for each in main),
        *_fetching_verdicts(fetching, keys=keys),
        *overhead_verdicts(rows_of(folder.companions, OVERHEAD)),
        *inference_verdicts(rows_of(folder.companions, INFERENCE)),
    ]
    sheets = (verdicts_sheet(verdicts),) if verdicts else ()
    return Section("goals", "Goals", (_REACHED,) if verdicts else (), sheets=sheets)


def _uplink_verdicts(main: Sequence[Contest], *, keys: Sequence[str]) -> list[Verdict]:
    """Return the verdicts goal by goal."""
    columns = [uplink_verdicts(each, keys=keys) for each in main]
    return [verdict for row in zip(*columns, strict=True) for verdict in row]


def _fetching_verdicts(contests: Sequence[Contest], *, keys: Sequence[str]) -> list[Verdict]:
    """Return the verdicts on time with fetching, of settings whose versions go down as deltas."""
    return [time_verdict(each, keys=keys, fetching=True) for each in contests if has_deltas(each)]


def _runs(folder: Folder, contests: Sequence[Contest]) -> Section:
    if not folder.trials:
        return Section("runs", "Every run")
    failures = failures_sheet(folder, contests)
    ended = len(folder.trials)
    failed = sum(bool(trial.failure) for trial in folder.trials)
    return Section(
        "runs",
        "Every run, its hyperparameters, and what failed",
        findings=(f"{ended} runs have ended, {failed} of them failed.",),
        sheets=(shared_sheet(folder.trials), hyperparameters_sheet(folder.trials), failures),
    )


def _known(sheets: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(sheet for sheet in sheets if sheet is not None)

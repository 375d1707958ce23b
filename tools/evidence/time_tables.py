"""Time and energy to target, under each link profile and its variations. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tools.evidence.contest import Against, Best, Contest, bests_of
from tools.evidence.families import Role
from tools.evidence.sheets import Sheet
from tools.evidence.statistics import ratio, summary
from tools.evidence.targets import Tried
from tools.evidence.times import RememberedModel, energy_to_target, pace_of, seconds_to_target
from tools.evidence.words import factor, seconds, setting_text, span, three, times
from tools.experiment.timing import (
    MEASURED_GOODPUT,
    TRANSMIT_W,
    LinkProfile,
    Power,
    Slowdown,
    Tcp,
    TimeModel,
)
from tools.report.tables import Column

PROFILES: Final[Mapping[LinkProfile, str]] = {
    LinkProfile.LTE_20: "LTE, 20 Mbit/s for all",
    LinkProfile.LTE_MIXED: "heterogeneous LTE with a tail of stragglers",
}
# Compute heterogeneity of the sweep: nobody is slow, then 30 % of clients by such factors.
SLOWDOWNS: Final = (Slowdown(), Slowdown(0.3, 2, 2), Slowdown(0.3, 2, 4), Slowdown(0.3, 4, 4))
LOSSES: Final = (0.0, 0.05, 0.10, 0.15, 0.20)

_TIME_COLUMNS: Final = (
    Column("method", "Method"),
    Column("configuration", "Fastest configuration", is_text=True),
    Column("reached", "Reached"),
    Column("seconds", "Time to target", seconds, "Mean over the seeds that reached it"),
    Column("deviation", "± sd", seconds),
    Column("faster", "Faster than baseline", times, "Geometric mean over seeds"),
    Column("faster_span", "95 % interval", str),
    Column("with_downlink", "Downlink counted", times, "Faster, where adapters are fetched too"),
    Column("command", "Run again with", is_text=True, optional=True),
)


_DOWN_COLUMNS: Final = (
    Column("configuration", "Configuration", is_text=True),
    Column("versions", "Versions go down", is_text=True),
    Column("reached", "Reached"),
    Column("down_mb", "MB down to target", three, "Of whole cohorts, mean over the same seeds"),
    Column("seconds", "Time to target", seconds, "Fetching counted; mean over the same seeds"),
    Column("deviation", "± sd", seconds),
    Column("faster", "Faster than baseline", times, "Geometric mean over seeds"),
    Column("faster_span", "95 % interval", str),
    Column("uplink_alone", "By uplink alone", times),
    Column("command", "Run again with", is_text=True, optional=True),
)


@dataclass(frozen=True, slots=True)
class Link:
    """Everything of the time model but its seed, which is each trial's."""

    profile: LinkProfile
    slowdown: Slowdown = field(default_factory=Slowdown)
    loss: float = 0.0
    tcp: Tcp = Tcp.MATHIS

    def models(self, tried: Tried) -> dict[int, TimeModel]:
        """Return seed → time model."""
        return {
            seed: RememberedModel(self.profile, seed, self.slowdown, self.loss, self.tcp)
            for seed in tried.outcomes
        }


def slowdown_of(setting: Mapping[str, Any]) -> Slowdown:
    """Return the compute heterogeneity that a trial's setting names; none where it names none."""
    found = setting.get("slowdown") or {}
    low, high = found.get("factor") or (1.0, 1.0)
    return Slowdown(float(found.get("share") or 0.0), float(low), float(high))


class Stopwatch:
    """Seconds to target of a setting's methods, each reckoned once."""

    def __init__(self, contest: Contest) -> None:
        self._comparison = contest.comparison
        self._pace = pace_of(contest.comparison)
        self._known: dict[tuple[str, Link, bool], dict[int, float]] = {}

    def seconds(self, tried: Tried, link: Link, *, downlink: bool = False) -> dict[int, float]:
        """Return seed → seconds until the target, of the trials that reached it."""
        key = (tried.text, link, downlink)
        if key not in self._known:
            self._known[key] = seconds_to_target(
                tried, self._pace, link.models(tried), downlink=downlink
            )
        return self._known[key]

    def faster(self, tried: Tried, link: Link, *, downlink: bool = False) -> Against:
        """Return the baseline's seconds over a configuration's, with seeds that both reached."""
        none = Against(None, at_least=False, t_p=None, wilcoxon_p=None)
        reference = self._comparison.reference
        if reference is None:
            return none
        slow = self.seconds(reference, link, downlink=downlink)
        fast = self.seconds(tried, link, downlink=downlink)
        seeds = [seed for seed in sorted(slow.keys() & fast.keys()) if slow[seed] and fast[seed]]
        if not seeds:
            return none
        found = ratio([slow[seed] for seed in seeds], [fast[seed] for seed in seeds])
        return Against(found, at_least=False, t_p=found.t_p, wilcoxon_p=found.wilcoxon_p)


def time_sheet(contest: Contest, profile: LinkProfile, *, keys: Sequence[str]) -> Sheet:
    """Return time to target of every method at its fastest, under one link profile."""
    watch = Stopwatch(contest)
    link = Link(profile, slowdown_of(contest.comparison.setting))
    rows = []
    bests = bests_of(contest.comparison, lambda tried: watch.seconds(tried, link))
    for best in bests:
        tried = best.tried
        found = list(watch.seconds(tried, link).values())
        gain = watch.faster(tried, link)
        rows.append(
            {
                "method": best.title,
                "configuration": tried.text,
                "reached": f"{len(found)} of {tried.runs}",
                "seconds": summary(found).mean,
                "deviation": summary(found).deviation,
                "faster": factor(gain),
                "faster_span": span(gain),
                "with_downlink": factor(watch.faster(tried, link, downlink=True)),
                "command": tried.command,
            }
        )
    title = f"Time to target, {PROFILES[profile]}: {setting_text(contest.comparison.setting, keys)}"
    return Sheet(title, _TIME_COLUMNS, tuple(rows))


def has_deltas(contest: Contest) -> bool:
    """Say whether versions of any configuration go down as deltas, as they do when deployed."""
    return any("down" in dict(tried.configuration.options) for tried in contest.comparison.tried)


def downlink_sheet(contest: Contest, profile: LinkProfile, *, keys: Sequence[str]) -> Sheet:
    """Return time to target of every configuration, fetching counted.

    A device that has no version of the chain fetches the newest whole, as when deployed.
    """
    watch = Stopwatch(contest)
    link = Link(profile, slowdown_of(contest.comparison.setting))
    rows = [_downlink_row(each, watch, link) for each in contest.comparison.tried]
    rows.sort(key=lambda row: (row["seconds"] is None, row["seconds"], row["configuration"]))
    where = setting_text(contest.comparison.setting, keys)
    title = f"Time to target, fetching counted, {PROFILES[profile]}: {where}"
    return Sheet(title, _DOWN_COLUMNS, tuple(rows))


def _downlink_row(tried: Tried, watch: Stopwatch, link: Link) -> dict[str, Any]:
    found = watch.seconds(tried, link, downlink=True)
    gain = watch.faster(tried, link, downlink=True)
    options = dict(tried.configuration.options)
    fetched = [each.bytes_down for each in tried.outcomes.values()]
    return {
        "configuration": tried.text,
        "versions": f"deltas, `{options['down']}`" if "down" in options else "whole",
        "reached": f"{len(found)} of {tried.runs}",
        "down_mb": summary([each / 1e6 for each in fetched if each is not None]).mean,
        "seconds": summary(list(found.values())).mean,
        "deviation": summary(list(found.values())).deviation,
        "faster": factor(gain),
        "faster_span": span(gain),
        "uplink_alone": factor(watch.faster(tried, link)),
        "command": tried.command,
    }


def chosen(contest: Contest) -> tuple[Best, ...]:
    """Return the few whose variations are shown: own, the paper's, and the best baseline codec."""
    wanted = {
        "own": lambda tried: contest.own is not None and tried is contest.own.tried,
        "paper": lambda tried: tried.configuration.role is Role.PAPER,
        "bit": lambda tried: tried.configuration.is_one_bit,
        "baseline": lambda tried: (
            tried.configuration.role is Role.BASELINE and tried.text != contest.comparison.baseline
        ),
        "reference": lambda tried: tried.text == contest.comparison.baseline,
    }
    found: dict[str, Best] = {}
    for each in wanted.values():
        best = contest.best_of(each)
        if best is not None:
            found.setdefault(best.tried.text, best)
    return tuple(found.values())


def loss_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet:
    """Return time to target at each packet loss, by both models of TCP."""
    variations = {
        f"{100 * loss:.0f} %, {tcp.value}": Link(
            LinkProfile.LTE_20, slowdown_of(contest.comparison.setting), loss, tcp
        )
        for tcp in (Tcp.MATHIS, Tcp.MEASURED)
        for loss in LOSSES
        if tcp is Tcp.MATHIS or loss <= MEASURED_GOODPUT[-1][0]
    }
    about = (
        "Modelled: `mathis` is a loss-driven TCP, `measured` reads this project's own sender"
        " between the cases of docs/resilience.md. Nothing is lost of an update itself: TCP"
        " delivers it, later."
    )
    where = setting_text(contest.comparison.setting, keys)
    return _variation_sheet(contest, f"Packet loss: {where}", "Loss", variations, about)


def slowdown_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet:
    """Return time to target at each compute heterogeneity, under heterogeneous LTE."""
    variations = {_slowdown_text(each): Link(LinkProfile.LTE_MIXED, each) for each in SLOWDOWNS}
    where = setting_text(contest.comparison.setting, keys)
    return _variation_sheet(
        contest, f"Compute heterogeneity: {where}", "Slow clients", variations, ""
    )


def energy_sheet(contest: Contest, *, keys: Sequence[str]) -> Sheet:
    """Return a client's energy to the target at each power of the radio, heterogeneous LTE."""
    pace = pace_of(contest.comparison)
    link = Link(LinkProfile.LTE_MIXED, slowdown_of(contest.comparison.setting))
    few = chosen(contest)
    rows = []
    for watts in TRANSMIT_W:
        row: dict[str, Any] = {"at": f"{watts:g} W"}
        for at, best in enumerate(few):
            found = energy_to_target(
                best.tried, pace, link.models(best.tried), Power(transmit_w=watts)
            )
            row[f"mean{at}"] = summary([each.mean_j for each in found.values()]).mean
            row[f"straggler{at}"] = summary([each.straggler_j for each in found.values()]).mean
        rows.append(row)
    columns = [Column("at", "Radio")]
    for at, best in enumerate(few):
        columns.append(Column(f"mean{at}", f"{best.tried.text}, mean J", three))
        columns.append(Column(f"straggler{at}", "its straggler, J", three))
    title = f"Energy to target: {setting_text(contest.comparison.setting, keys)}"
    about = (
        f"Per client of a cohort, summed over rounds; computing takes {Power().compute_w:g} W,"
        " which is an assumption, for the seconds measured here."
    )
    return Sheet(title, tuple(columns), tuple(rows), about)


def _variation_sheet(
    contest: Contest, title: str, head: str, variations: Mapping[str, Link], about: str
) -> Sheet:
    """Return one row per variation of the links, a pair of columns per chosen method."""
    watch, few = Stopwatch(contest), chosen(contest)
    rows = []
    for name, link in variations.items():
        row: dict[str, Any] = {"at": name}
        for at, best in enumerate(few):
            row[f"seconds{at}"] = summary(list(watch.seconds(best.tried, link).values())).mean
            row[f"faster{at}"] = factor(watch.faster(best.tried, link))
        rows.append(row)
    columns = [Column("at", head)]
    for at, best in enumerate(few):
        columns.append(Column(f"seconds{at}", best.tried.text, seconds))
        if best.tried.text != contest.comparison.baseline:
            columns.append(Column(f"faster{at}", "faster", times))
    return Sheet(title, tuple(columns), tuple(rows), about)


def _slowdown_text(slowdown: Slowdown) -> str:
    if not slowdown.share:
        return "none"
    low, high = slowdown.low, slowdown.high
    span_text = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return f"{slowdown.share:.0%}, {span_text} times slower"

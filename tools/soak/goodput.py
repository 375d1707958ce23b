"""Case: an update gets of a bad link what a plain TCP stream gets of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.netem.lab import Lab
from tools.netem.profile import Direction, Profile
from tools.soak.link_update import UpdateRun, upload
from tools.soak.outcome import Outcome, Tell
from tools.soak.raw_stream import stream

LOSSES = (5, 20)
# What of the plain stream's goodput is to be reached.
LEAST = 0.9
_BYTES = 3_000_000
_REPETITIONS = 5
_QUICK_BYTES = 1_000_000
_QUICK_REPETITIONS = 1
# [bit/s] The least that a link with such losses gives: below, something hangs.
_SLOWEST_BPS = 20_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Updates and plain streams by turns over the same link.

    Attributes:
        loss_percent: In both directions.
        algorithm: TCP's congestion control, of both.
        updates: In order.
        stream_kbps: Goodput of each stream.
    """

    loss_percent: int
    algorithm: str
    updates: tuple[UpdateRun, ...]
    stream_kbps: tuple[float, ...]

    @property
    def update_kbps(self) -> float:
        """Goodput of all updates together."""
        return harmonic_mean([run.goodput_kbps for run in self.updates])

    @property
    def share(self) -> float:
        """The updates' goodput as a share of the streams'."""
        return self.update_kbps / harmonic_mean(self.stream_kbps)


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Compare five updates of 3 MB with as many streams at each loss."""
    return _compare(folder, length=_BYTES, repetitions=_REPETITIONS, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Compare one update of 1 MB with one stream at each loss."""
    return _compare(folder, length=_QUICK_BYTES, repetitions=_QUICK_REPETITIONS, tell=tell)


def link(loss_percent: int) -> Profile:
    """Return the case's link: 1 Mbit/s, 200 ms round trip, this loss in both directions."""
    direction = Direction(rate_kbit=1000, delay_ms=100, loss_percent=loss_percent)
    title = f"1 Mbit/s, 200 ms round trip, {loss_percent} % loss"
    return Profile(title=title, up=direction, down=direction)


def harmonic_mean(rates: Sequence[float]) -> float:
    """Return the rate of equal amounts together, one after the other."""
    return len(rates) / sum(1 / rate for rate in rates)


def outcome(comparisons: Sequence[Comparison]) -> Outcome:
    """Return the case's outcome from what was measured."""
    return Outcome(
        case="goodput",
        figure=(
            "1 Mbit/s, round trip 200 ms, packet loss 5 and 20 %: goodput of an update at least"
            f" {LEAST:.0%} of a plain TCP stream's"
        ),
        measured=", ".join(
            f"{one.loss_percent} %: {one.update_kbps:.0f} kbit/s, {one.share:.0%} of"
            f" {harmonic_mean(one.stream_kbps):.0f} ({one.algorithm})"
            for one in comparisons
        ),
        reached=all(one.share >= LEAST for one in comparisons),
        details={
            str(one.loss_percent): {
                "algorithm": one.algorithm,
                "share": round(one.share, 3),
                "update_kbps": [round(run.goodput_kbps, 1) for run in one.updates],
                "stream_kbps": [round(rate, 1) for rate in one.stream_kbps],
                "update_bytes": [run.update_bytes for run in one.updates],
                "link_bytes": [run.link_bytes for run in one.updates],
                "disconnects": [run.disconnects for run in one.updates],
            }
            for one in comparisons
        },
    )


def _compare(folder: Path, *, length: int, repetitions: int, tell: Tell) -> Outcome:
    comparisons = []
    with Lab() as lab:
        for loss_percent in LOSSES:
            profile = link(loss_percent)
            updates, rates, algorithm = [], [], ""
            for number in range(1, repetitions + 1):
                place = folder / f"loss-{loss_percent}-{number}"
                limit_s = 8 * length / _SLOWEST_BPS
                update = upload(
                    lab, place, profile, update_bytes=length, timeout_s=limit_s, tell=tell
                )
                updates.append(update)
                lab.apply(profile)
                seconds, algorithm = stream(lab, length=update.update_bytes)
                rates.append(8 * update.update_bytes / seconds / 1000)
                tell(
                    f"{loss_percent} % loss, {number} of {repetitions}:"
                    f" {update.goodput_kbps:.0f} kbit/s, plain stream {rates[-1]:.0f} kbit/s"
                )
            comparisons.append(Comparison(loss_percent, algorithm, tuple(updates), tuple(rates)))
    return outcome(comparisons)

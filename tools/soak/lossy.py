"""Case: twenty agents learn over links that lose packets, as well as over links that lose none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.netem.lab import SERVER, Lab
from tools.netem.namespaces import within
from tools.netem.profile import Direction, Profile
from tools.soak.learning_fleet import AGENTS, ROUNDS, FleetSettings, Learned, Place, learn
from tools.soak.outcome import Outcome, Tell

LOSSES = (0, 5, 10, 15, 20)
# The most by which the loss may differ from that of links without packet loss.
MOST = 0.005
_QUICK_ROUNDS = 3


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Run ten rounds at each packet loss."""
    return _compare(folder, LOSSES, rounds=ROUNDS, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Run three rounds without loss and at the highest one."""
    return _compare(folder, (LOSSES[0], LOSSES[-1]), rounds=_QUICK_ROUNDS, tell=tell)


def _compare(folder: Path, losses: Sequence[int], *, rounds: int, tell: Tell) -> Outcome:
    learned: dict[int, Learned] = {}
    with Lab(devices=AGENTS) as lab:
        # What docs/netem.md advises for a broker's machine: with CUBIC, 20 % loss leaves a
        # download 40 kbit/s of 1 Mbit/s. Agents ask for BBR themselves.
        lab.run(SERVER, ["sysctl", "-w", "net.ipv4.tcp_congestion_control=bbr"])
        place = Place(
            devices=tuple(within(lab.namespace(name), ()) for name in lab.devices),
            server=within(lab.namespace(SERVER), ()),
            address=lab.address(SERVER),
        )
        for percent in losses:
            lab.apply(link(percent))
            told = f"{percent} % loss"
            learned[percent] = learn(
                folder / f"loss-{percent}",
                FleetSettings(rounds=rounds),
                place=place,
                tell=lambda line, told=told: tell(f"{told}: {line}"),  # type: ignore[misc]
            )
    return outcome(learned, rounds=rounds)


def link(percent: int) -> Profile:
    """Return each agent's link: 1 Mbit/s, 100 ms round trip, this loss in both directions."""
    direction = Direction(rate_kbit=1000, delay_ms=50, loss_percent=percent)
    title = f"1 Mbit/s, 100 ms round trip, {percent} % loss"
    return Profile(title=title, up=direction, down=direction)


def outcome(learned: dict[int, Learned], *, rounds: int) -> Outcome:
    """Return the case's outcome: the losses are compared with the first run's."""
    first = learned[min(learned)].loss
    apart = {percent: run.loss / first - 1 for percent, run in learned.items()}
    closed = all(len(run.rounds) == rounds for run in learned.values())
    return Outcome(
        case="lossy",
        figure=(
            f"packet loss {'/'.join(map(str, learned))} %, {AGENTS} agents, {rounds} rounds:"
            f" every round closes; final loss within {MOST:.1%} of that at {min(learned)} %"
        ),
        measured=", ".join(
            f"{percent} %: {run.loss:.4f} ({apart[percent]:+.2%})"
            for percent, run in learned.items()
        ),
        reached=closed and max(abs(each) for each in apart.values()) <= MOST,
        details={str(percent): run.facts() for percent, run in learned.items()},
    )

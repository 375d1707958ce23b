"""Case: 5,000 devices come back to a broker that was restarted, and do not come all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from agent.config import AgentConfig
from tools.simulate.reconnect import MEAN_OVER_S, Return, come_back
from tools.soak.outcome import Outcome, Tell

AGENTS = 5_000
MOST = 3.0
_AWAY_S = (1.0, 10.0, 60.0, 600.0)
_SEEDS = 5


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Let the broker be away for a second to ten minutes, several times each."""
    return _return(folder, _AWAY_S, seeds=_SEEDS, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Do the same once each for the short absences."""
    return _return(folder, _AWAY_S[:3], seeds=1, tell=tell)


def _return(_folder: Path, aways: Sequence[float], *, seeds: int, tell: Tell) -> Outcome:
    spread_s = AgentConfig.model_fields["reconnect_spread_s"].default
    worst: list[Return] = []
    for away_s in aways:
        tell(f"{AGENTS} devices, the broker is away for {away_s:.0f} s")
        returns = (
            come_back(agents=AGENTS, away_s=away_s, spread_s=spread_s, seed=seed)
            for seed in range(seeds)
        )
        worst.append(max(returns, key=lambda one: one.ratio))
    return Outcome(
        case="reconnect",
        figure=(
            f"{AGENTS:,} simulated agents reconnect after a broker restart:"
            f" peak rate at most {MOST:g} times the mean over {MEAN_OVER_S:.0f} s"
        ),
        measured=", ".join(f"away {one.away_s:.0f} s: {one.ratio:.1f} times" for one in worst),
        reached=all(one.ratio <= MOST for one in worst),
        details={"spread_s": spread_s, "seeds": seeds, "worst": [asdict(one) for one in worst]},
    )

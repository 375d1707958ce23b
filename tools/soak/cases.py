"""The registry of soak cases: a name, and where its function is.

A case is a module with `run(folder, *, tell) -> Outcome`, mostly with a shorter `quick` of the same
face. Modules are imported when their case runs: the list costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from tools.soak.outcome import SoakCase


@dataclass(frozen=True, slots=True)
class CaseEntry:
    """Where a case is, and what it shows.

    Attributes:
        name: What `--case` takes.
        module: The module that has `run`, and `quick` where there is a short form.
        promise: One line for the list.
        has_quick: Whether the short form exists; `--quick` leaves out a case that has none.
    """

    name: str
    module: str
    promise: str
    has_quick: bool = True

    def load(self, *, quick: bool) -> SoakCase:
        """Return the case's function."""
        function: SoakCase = getattr(import_module(self.module), "quick" if quick else "run")
        return function


CASES: tuple[CaseEntry, ...] = (
    CaseEntry(
        "kill-matrix",
        "tools.soak.kill_matrix",
        "kill -9 at every crash point, disk full, I/O error, broker wiped: same adapter",
    ),
    CaseEntry(
        "broker-wipe",
        "tools.soak.broker_wipe",
        "1,000 updates through a broker that is killed and wiped every minute",
    ),
    CaseEntry(
        "announce-kill",
        "tools.soak.announce_kill",
        "the aggregator is killed 100 times between close and announcement",
    ),
    CaseEntry(
        "stragglers",
        "tools.soak.stragglers",
        "30 % of the agents never return, 20 % are 10 times slower",
    ),
    CaseEntry(
        "lossy",
        "tools.soak.lossy",
        "twenty agents learn over links that lose 0 to 20 % of their packets",
    ),
    CaseEntry(
        "dropout",
        "tools.soak.dropout",
        "70 % of twenty agents drop out of every round",
    ),
    CaseEntry(
        "goodput",
        "tools.soak.goodput",
        "an update gets of a lossy link what a plain TCP stream gets of it",
    ),
    CaseEntry(
        "flapping",
        "tools.soak.flapping",
        "2 MB over a link that is up for 20 s and down for 20 s, by turns",
    ),
    CaseEntry(
        "slow",
        "tools.soak.slow",
        "20 MB at 100 kbit/s over one connection",
    ),
    CaseEntry(
        "reconnect",
        "tools.soak.reconnect",
        "5,000 devices come back to a broker that was restarted (simulated)",
    ),
)


def case_named(name: str) -> CaseEntry:
    """Return the entry of this name.

    Raises:
        ValueError: There is none.
    """
    for entry in CASES:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in CASES)
    raise ValueError(f"no soak case is called {name!r}: there are {known}")

"""What a run's closed rounds gave and cost, and its losses by adapter version: bounded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tools.monitor import foreign
from tools.monitor.document import Document
from tools.units import bytes_text, count_text, ratio_text
from transport import control

# Rounds, and adapter versions with a loss, that are kept; of more every second older one goes.
MAX_ROUNDS: Final = 300
_SUMMED: Final = ("bytes_up", "bytes_up_payload", "bytes_up_fp32", "bytes_down", "seconds")


@dataclass(slots=True)
class Rounds:
    """Folds round summaries and losses into `rounds`, `losses` and `savings`."""

    document: Document
    _thinned: int = 0  # the newest round that is counted and no longer kept
    _settled: dict[str, float] = field(default_factory=dict)
    _settled_rounds: int = 0
    _settled_energy_j: float | None = None

    def closed(self, told: control.RoundSummary) -> None:
        """Take a round's summary; the same one again changes nothing."""
        round_id = foreign.count(told.round_id)
        if round_id <= self._thinned:
            return
        self.document.put("rounds", _round(told), key=str(round_id))
        if told.eval_loss is not None:
            self.evaluated(told.eval_version, told.eval_loss, told.eval_accuracy)
        if told.train_loss is not None:
            self._merge_loss(told.version, train_loss=foreign.number(told.train_loss))
        self._thin_rounds()
        self.document.put("savings", self._savings())

    def evaluated(self, version: int, loss: float, accuracy: float | None) -> None:
        """Take what devices say of an adapter version."""
        self._merge_loss(
            version, eval_loss=foreign.number(loss), eval_accuracy=foreign.number(accuracy)
        )

    def forget(self) -> None:
        """Begin with another run."""
        self._thinned, self._settled_rounds, self._settled_energy_j = 0, 0, None
        self._settled.clear()
        for section in ("rounds", "losses"):
            self.document.clear(section)
        self.document.put("savings", self._savings())

    def _merge_loss(self, version: int, **figures: float | None) -> None:
        if version < 0:
            return
        key = str(foreign.count(version))
        losses = self.document.section("losses")
        before = losses.get(key) or {
            "version": int(key), "eval_loss": None, "eval_accuracy": None, "train_loss": None,
        }  # fmt: skip
        self.document.put("losses", {**before, **figures}, key=key)
        _thin(self.document, "losses")

    def _thin_rounds(self) -> None:
        for row in _thin(self.document, "rounds"):
            self._thinned = max(self._thinned, row["round_id"])
            self._settled_rounds += 1
            for name in _SUMMED:
                self._settled[name] = self._settled.get(name, 0) + row[name]
            self._settled_energy_j = _sum(self._settled_energy_j, row["energy_j"])

    def _savings(self) -> dict[str, Any]:
        rows = self.document.section("rounds").values()
        sums = {
            name: self._settled.get(name, 0) + sum(row[name] for row in rows) for name in _SUMMED
        }
        energy_j = self._settled_energy_j
        for row in rows:
            energy_j = _sum(energy_j, row["energy_j"])
        rounds = self._settled_rounds + len(rows)
        up, dense = sums["bytes_up"], sums["bytes_up_fp32"]
        return {
            "rounds": rounds,
            **sums,
            "times": round(dense / up, 2) if up else None,
            "saved_pct": round(100 * (1 - up / dense), 1) if dense else None,
            "energy_j": energy_j,
            "words": _savings_words(rounds, up, dense),
        }


def no_savings() -> dict[str, Any]:
    """Return the section `savings` before any round has closed."""
    return {
        "rounds": 0,
        **dict.fromkeys(_SUMMED, 0),
        "times": None,
        "saved_pct": None,
        "energy_j": None,
        "words": _savings_words(0, 0, 0),
    }


def _savings_words(rounds: int, up: float, dense: float) -> str:
    if not up or not dense:
        return "no round has closed yet"
    of = f"{bytes_text(up)} up in {count_text(rounds, 'round')}"
    if dense > up:
        return f"{of} instead of {bytes_text(dense)}: {ratio_text(dense, up)} less"
    return f"{of}, {bytes_text(dense)} for dense fp32"


def _round(told: control.RoundSummary) -> dict[str, Any]:
    up, dense = foreign.count(told.bytes_up), foreign.count(told.bytes_up_fp32)
    refused = list(told.refused.items())[:16]
    return {
        "round_id": foreign.count(told.round_id),
        "version": foreign.count(told.version),
        "participants": foreign.count(told.participants),
        "complete": foreign.count(told.complete),
        "partial": foreign.count(told.partial),
        "late": foreign.count(told.late),
        "stale": foreign.count(told.stale),
        "dropped": foreign.count(told.dropped),
        "clipped": foreign.count(told.clipped),
        "seconds": foreign.positive(told.seconds),
        "bytes_up": up,
        "bytes_up_payload": foreign.count(told.bytes_up_payload),
        "bytes_up_fp32": dense,
        "bytes_down": foreign.count(told.bytes_down),
        "times": round(dense / up, 2) if up else None,
        "train_loss": foreign.number(told.train_loss),
        "eval_version": foreign.count(told.eval_version) if told.eval_loss is not None else None,
        "eval_loss": foreign.number(told.eval_loss),
        "eval_accuracy": foreign.number(told.eval_accuracy),
        "energy_j": foreign.positive(told.energy_j),
        "energy_above_idle_j": foreign.number(told.energy_above_idle_j),
        "energy_devices": foreign.count(told.energy_devices),
        "refused": {foreign.name(reason): foreign.count(count) for reason, count in refused},
    }


def _thin(document: Document, section: str) -> list[dict[str, Any]]:
    """Remove every second of the older half where there are too many, and return what went."""
    rows = document.section(section)
    if len(rows) <= MAX_ROUNDS:
        return []
    older = sorted(rows, key=int)[: MAX_ROUNDS // 2]
    gone = [rows[key] for key in older[1::2]]
    for key in older[1::2]:
        document.remove(section, key)
    return gone


def _sum(total: float | None, part: float | None) -> float | None:
    if part is None:
        return total
    return part if total is None else total + part

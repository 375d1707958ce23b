"""How the aggregator, its run and its round look in the snapshot. Pure."""

from __future__ import annotations

from typing import Any

from tools.monitor import foreign
from tools.units import count_text
from transport import control
from transport.control import RoundPhase


def service_row(status: control.ServiceStatus | None, *, since_s: float | None) -> dict[str, Any]:
    """Return the section `service`."""
    state = status.state.value if status else "unknown"
    reason = foreign.text(status.reason) if status else ""
    return {
        "state": state,
        "reason": reason,
        "since_s": since_s,
        "version": foreign.name(status.version) if status else "",
        "session": foreign.name(status.session) if status else "",
        "epoch": foreign.count(status.epoch) if status else 0,
        "adapter_version": max(status.adapter_version, -1) if status else -1,
        "words": f"aggregator {state}" + (f": {reason}" if reason else ""),
    }


def run_row(run: control.RunAnnouncement | None) -> dict[str, Any]:
    """Return the section `run`."""
    return {
        "run": foreign.name(run.run) if run else "",
        "codec": foreign.name(run.codec) if run else "",
        "downlink_codec": foreign.name(run.downlink_codec) if run else "",
        "rounds": foreign.count(run.rounds) if run else 0,
        "base_model": foreign.name(run.base_model) if run else "",
        "segment_bytes": foreign.count(run.segment_bytes) if run else 0,
        "local_steps": run.plan.local_steps if run else 0,
        "batch_size": run.plan.batch_size if run else 0,
        "error_feedback": run.error_feedback if run else False,
    }


def round_row(
    told: control.RoundStatus | None,
    *,
    deadline_at_s: float | None,
    segments: tuple[int, int, int],
    rounds: int,
) -> dict[str, Any]:
    """Return the section `round`.

    Args:
        told: What the aggregator last said.
        deadline_at_s: When it closes, on the observer's clock.
        segments: All of the round's updates so far, those accepted, those sent twice.
        rounds: Of the run, 0 where that is not known.
    """
    is_open = told is not None and told.phase is RoundPhase.OPEN
    return {
        "round_id": foreign.count(told.round_id) if told else 0,
        "phase": told.phase.value if told else "",
        "deadline_at_s": round(deadline_at_s, 1) if deadline_at_s is not None and is_open else None,
        "cohort": foreign.count(told.cohort) if told else 0,
        "goal": foreign.count(told.goal) if told else 0,
        "quorum": foreign.count(told.quorum) if told else 0,
        "complete": foreign.count(told.complete) if told else 0,
        "partial": foreign.count(told.partial) if told else 0,
        "late": foreign.count(told.late) if told else 0,
        "stalled": foreign.count(told.stalled) if told else 0,
        "bytes_up": foreign.count(told.bytes_up) if told else 0,
        "bytes_down": foreign.count(told.bytes_down) if told else 0,
        "segments": segments[0],
        "segments_accepted": segments[1],
        "segments_resent": segments[2],
        "words": _round_words(told, rounds),
    }


def _round_words(told: control.RoundStatus | None, rounds: int) -> str:
    if told is None:
        return "no round has been opened yet"
    which = f"round {foreign.count(told.round_id)}" + (f" of {rounds}" if rounds else "")
    if told.phase is not RoundPhase.OPEN:
        return f"{which} {told.phase.value}"
    parts = [f"{foreign.count(told.complete)} of {count_text(foreign.count(told.goal), 'update')}"]
    if told.partial > 0:
        parts.append(f"{foreign.count(told.partial)} on their way")
    if told.stalled > 0:
        parts.append(f"{foreign.count(told.stalled)} stalled")
    return f"{which}: {', '.join(parts)}"


def no_model() -> dict[str, Any]:
    """Return the section `model` before an adapter version is known."""
    return {
        "version": -1,
        "bytes": 0,
        "segments": 0,
        "delta_bytes": 0,
        "eval_loss": None,
        "eval_accuracy": None,
    }


def model_row(told: control.ModelStatus) -> dict[str, Any]:
    """Return the section `model`."""
    return {
        "version": foreign.count(told.version),
        "bytes": foreign.count(told.bytes),
        "segments": foreign.count(told.segments),
        "delta_bytes": foreign.count(told.delta_bytes),
        "eval_loss": foreign.number(told.eval_loss),
        "eval_accuracy": foreign.number(told.eval_accuracy),
    }

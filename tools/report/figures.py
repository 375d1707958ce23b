"""What a run's report says, as plain JSON-able values. Pure.

Every number is one of the journal's, or a sum, share or quotient of them: a report adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from aggregator.account import Contribution, DeviceTraffic
from tools.report.reading import DeviceRound, Round, Run
from transport.messages import ReceiptState

# A version of the JSON's form, raised when a key changes its meaning.
FORMAT = 1

# What an upload's bytes are, in the order in which they are stacked.
WIRE = ("payload", "framing", "mqtt", "repeated", "refused", "unsplit")

Values = dict[str, Any]
_BITS = 8


def document_of(run: Run) -> Values:
    """Return everything that the page, the JSON and the CSV say of a run."""
    coordinates = sum(size for _, size in run.layout)
    rounds = [_round(each, coordinates=coordinates) for each in run.rounds]
    evaluation = run.evaluation
    return {
        "format": FORMAT,
        "run": {
            "run": run.run,
            "starts": run.starts,
            "finished": run.finished,
            "base_model": run.base_model or run.about.get("base_model", ""),
            "about": dict(run.about),
            "tensors": len(run.layout),
            "coordinates": coordinates,
            "first_committed_at": rounds[0]["committed_at"] if rounds else None,
            "last_committed_at": rounds[-1]["committed_at"] if rounds else None,
            "open_round": run.open_round[0] if run.open_round else None,
            "open_bytes_up": run.open_round[1] if run.open_round else 0,
        },
        "totals": _totals(run, rounds),
        "final": {
            "version": run.rounds[-1].summary.version if run.rounds else 0,
            "loss": evaluation.loss if evaluation else None,
            "accuracy": evaluation.accuracy if evaluation else None,
            "tokens": evaluation.tokens if evaluation else 0,
        },
        "rounds": rounds,
        "devices": _devices(run),
        "device_rounds": [row for each in run.rounds for row in _device_rounds(each)],
        "tensors": _tensors(run),
        "tensor_payload": _tensor_payload(run),
        "notes": _notes(run, rounds),
    }


def _round(each: Round, *, coordinates: int) -> Values:
    summary = asdict(each.summary)
    del summary["run"]
    return {
        **summary,
        "attempts": each.attempts,
        "committed_at": each.committed_at,
        "devices": len(each.devices),
        "bits_per_coordinate": _ratio(
            8 * each.summary.bytes_up_payload, each.summary.participants * coordinates
        ),
        "wire": _wire(each),
    }


def _wire(each: Round) -> dict[str, int]:
    """Return what the round's bytes up were; `unsplit` is what no device's row has."""
    sums = _traffic(row.traffic for row in each.devices)
    split = {name: getattr(sums, f"{name}_bytes") for name in WIRE[:-1]}
    return {**split, "unsplit": max(0, each.summary.bytes_up - sums.bytes_up)}


def _traffic(rows: Iterable[DeviceTraffic]) -> DeviceTraffic:
    total = DeviceTraffic()
    for row in rows:
        for field in fields(DeviceTraffic):
            setattr(total, field.name, getattr(total, field.name) + getattr(row, field.name))
    return total


def _totals(run: Run, rounds: Sequence[Values]) -> Values:
    summaries = [each.summary for each in run.rounds]
    up = sum(summary.bytes_up for summary in summaries)
    dense = sum(summary.bytes_up_fp32 for summary in summaries)
    energies = [s.energy_j for s in summaries if s.energy_j is not None]
    refused: dict[str, int] = {}
    for summary in summaries:
        for reason, count in summary.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    return {
        "rounds": len(rounds),
        "seconds": sum(summary.seconds for summary in summaries),
        "bytes_up": up,
        "bytes_up_payload": sum(summary.bytes_up_payload for summary in summaries),
        "bytes_up_fp32": dense,
        "bytes_down": sum(summary.bytes_down for summary in summaries),
        "saved_bytes": dense - up,
        "saved_share": _ratio(dense - up, dense),
        "updates": sum(summary.participants for summary in summaries),
        "wire": {name: sum(each["wire"][name] for each in rounds) for name in WIRE},
        "energy_j": sum(energies) if energies else None,
        "refused": refused,
        "bits_per_moved": _bits_per_moved(run),
    }


def _bits_per_moved(run: Run) -> float | None:
    """Return the payload's bits over the coordinates that moved, in rounds where both are known."""
    bits = moved = 0
    for each in run.rounds:
        if each.tensors is not None:
            bits += 8 * sum(one.payload_bytes for one in each.contributions)
            moved += sum(each.tensors.moved)
    return _ratio(bits, moved)


def _devices(run: Run) -> list[Values]:
    rows: dict[str, list[DeviceRound]] = {}
    given: dict[str, list[Contribution]] = {}
    stale: dict[str, int] = {}
    for each in run.rounds:
        for row in each.devices:
            rows.setdefault(row.client_id, []).append(row)
        for one in each.contributions:
            given.setdefault(one.client_id, []).append(one)
            is_stale = one.trained_for < each.summary.round_id
            stale[one.client_id] = stale.get(one.client_id, 0) + is_stale
    weights = sum(one.weight for several in given.values() for one in several)
    names = rows.keys() | given.keys() | {client_id for client_id, _ in run.receipts}
    return [
        {
            "device": name,
            **_taken_part(rows.get(name, []), given.get(name, []), weights=weights),
            **{state.value: run.receipts.get((name, state.value), 0) for state in ReceiptState},
            "stale": stale.get(name, 0),
        }
        for name in sorted(names)
    ]


def _taken_part(
    rows: Sequence[DeviceRound], given: Sequence[Contribution], *, weights: float
) -> Values:
    sums = _traffic(row.traffic for row in rows)
    energies = [row.energy_j for row in rows if row.energy_j is not None]
    evaluated = [one.eval_loss for one in given if one.eval_loss is not None]
    return {
        "asked": sum(row.was_asked for row in rows),
        "rounds": len(given),
        "clipped": sum(one.clipped for one in given),
        "bytes_up": sums.bytes_up,
        **asdict(sums),
        "repeated_share": _ratio(sums.repeated_bytes, sums.bytes_up),
        "examples": sum(one.examples for one in given),
        "weight": sum(one.weight for one in given),
        "weight_share": _ratio(sum(one.weight for one in given), weights),
        "steps": sum(one.steps for one in given),
        "train_s": sum(one.train_s for one in given),
        "last_train_loss": given[-1].train_loss if given else None,
        "last_eval_loss": evaluated[-1] if evaluated else None,
        "energy_j": sum(energies) if energies else None,
    }


def _device_rounds(each: Round) -> list[Values]:
    given: dict[str, list[Contribution]] = {}
    for one in each.contributions:
        given.setdefault(one.client_id, []).append(one)
    return [
        {
            "round_id": each.summary.round_id,
            "device": row.client_id,
            "asked": row.was_asked,
            "updates": len(given.get(row.client_id, ())),
            "bytes_up": row.traffic.bytes_up,
            **asdict(row.traffic),
            "energy_j": row.energy_j,
            "above_idle_j": row.above_idle_j,
            **_given(given.get(row.client_id, [])),
        }
        for row in each.devices
    ]


def _given(updates: Sequence[Contribution]) -> Values:
    """Return what a device's updates in one mean come to; losses are of the newest."""
    newest = max(updates, key=lambda one: one.trained_for, default=None)
    return {
        "accepted_segments": sum(one.accepted for one in updates),
        "segments": sum(one.segments for one in updates),
        "accepted_payload_bytes": sum(one.payload_bytes for one in updates),
        "weight": sum(one.weight for one in updates),
        "examples": sum(one.examples for one in updates),
        "train_s": sum(one.train_s for one in updates),
        "train_loss": newest.train_loss if newest else None,
        "eval_loss": newest.eval_loss if newest else None,
        "norm": newest.norm if newest else None,
    }


def _tensors(run: Run) -> list[Values]:
    """Return what each tensor did over all rounds that were counted."""
    counted = [each for each in run.rounds if each.tensors is not None]
    layout = run.layout
    known = [t for each in counted if (t := each.tensors) and len(t.moved) == len(layout)]
    updates = sum(len(each.contributions) for each in counted)
    moved = [sum(t.moved[at] for t in known) for at in range(len(layout))]
    energy = [sum(t.energy[at] for t in known) for at in range(len(layout))]
    if not known:
        return []
    told = [t.bits for t in known if t.bits is not None]
    bits = [sum(each[at] for each in told) for at in range(len(layout))]
    payload_bits = _tensor_payload(run)["payload_bits"]
    return [
        {
            "tensor": name,
            "coordinates": size,
            "moved": moved[at],
            "moved_share": _ratio(moved[at], updates * size),
            "share_of_moved": _ratio(moved[at], sum(moved)),
            "energy": energy[at],
            "energy_share": _ratio(energy[at], sum(energy)),
            "rms_step": (energy[at] / (size * len(known))) ** 0.5,
            "payload_bits": bits[at] if told else None,
            "payload_share": _ratio(bits[at], payload_bits) if told else None,
            "bits_per_moved": _ratio(bits[at], moved[at]) if len(told) == len(known) else None,
        }
        for at, (name, size) in enumerate(layout)
    ]


def _tensor_payload(run: Run) -> dict[str, int]:
    """Return the bits of the payload in the means: tensors' own, shared, and not told apart."""
    own = shared = untold = 0
    for each in run.rounds:
        bits = _BITS * sum(one.payload_bytes for one in each.contributions)
        tensors = each.tensors
        if tensors is None or tensors.bits is None or len(tensors.bits) != len(run.layout):
            untold += bits
        else:
            own += sum(tensors.bits)
            shared += tensors.shared_bits
    return {
        "own_bits": own,
        "shared_bits": shared,
        "untold_bits": untold,
        "payload_bits": own + shared + untold,
    }


def tensor_rows(document: Mapping[str, Any]) -> list[Values]:
    """Return the tensors' rows, and one each for the payload that is of none and not told apart."""
    tensors, payload = document["tensors"], document["tensor_payload"]
    if not tensors:
        return []
    rest = (("(shared)", "shared_bits"), ("(not told apart)", "untold_bits"))
    nothing = dict.fromkeys(tensors[0])
    return [
        *tensors,
        *(
            {
                **nothing,
                "tensor": name,
                "payload_bits": payload[key],
                "payload_share": _ratio(payload[key], payload["payload_bits"]),
            }
            for name, key in rest
            if payload[key]
        ),
    ]


def _notes(run: Run, rounds: Sequence[Values]) -> list[str]:
    notes = []
    missing = [each.summary.round_id for each in run.rounds if each.committed_at is None]
    if missing:
        notes.append(
            f"{_rounds_text(missing)}: no account in the journal (earlier software), so that "
            "devices, tensors and the kinds of bytes are those of the other rounds."
        )
    unsplit = [
        each["round_id"]
        for each in rounds
        if each["wire"]["unsplit"] and each["committed_at"] is not None
    ]
    if unsplit:
        notes.append(
            f"{_rounds_text(unsplit)}: some bytes came before an aggregator of earlier software "
            "was started again, and are counted, but not told apart."
        )
    if run.open_round:
        notes.append(f"Round {run.open_round[0]} is not committed; it is not in any figure.")
    return notes


def _rounds_text(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"Round {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"Rounds {numbers[0]} to {numbers[-1]}"
    return "Rounds " + ", ".join(map(str, numbers[:12])) + (", …" if len(numbers) > 12 else "")  # noqa: PLR2004  # a line's worth


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None

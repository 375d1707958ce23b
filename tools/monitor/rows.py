"""How a device and a fleet look in the snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tools.monitor.attention import Attention, Scene, judge
from tools.monitor.device import GONE, Device
from tools.units import count_text
from transport.control import DeviceState


def device_row(device: Device, scene: Scene) -> dict[str, Any]:
    """Return a device's object in the snapshot."""
    verdict = judge(device, scene)
    training, upload, feeling, profile = (
        device.training, device.upload, device.feeling, device.profile,
    )  # fmt: skip
    goodput_bps = device.goodput_bps(scene.now)
    return {
        "id": device.client_id,
        "attention": verdict.attention.value,
        "words": verdict.words,
        "why": verdict.why,
        "state": device.state.value if device.state else "unknown",
        "reason": device.reason,
        "since_s": _tenths(device.since_s),
        "heard_s": _tenths(device.heard_s),
        "round_id": device.round_id,
        "step": training.step,
        "steps": training.steps,
        "train_loss": training.loss,
        "eta_s": training.eta_s,
        "micro_batch": training.micro_batch,
        "out_of_memory": training.out_of_memory,
        "train_round": training.round_id,
        "upload_round": upload.round_id,
        "segments": upload.segments,
        "segments_sent": upload.sent,
        "segments_accepted": upload.accepted,
        "segments_resent": upload.resent,
        "bytes_sent": upload.bytes_sent,
        "stalled_s": upload.stalled_s,
        "update_bytes": device.update_bytes,
        "declined": device.declined,
        "declined_round": device.declined_round,
        "goodput_bps": None if goodput_bps is None else round(goodput_bps),
        "power_w": feeling.power_w,
        "temp_c": feeling.temp_c,
        "cpu_pct": feeling.cpu_pct,
        "gpu_pct": feeling.gpu_pct,
        "ram_used_mb": feeling.ram_used_mb,
        "ram_mb": profile.ram_mb,
        "swap_used_mb": feeling.swap_used_mb,
        "disk_free_mb": feeling.disk_free_mb,
        "battery_pct": feeling.battery_pct,
        "on_mains": feeling.on_mains,
        "power_mode": feeling.power_mode,
        "energy_j": device.energy_j,
        "energy_round": device.energy_round,
        "eval_version": device.eval_version,
        "eval_loss": device.eval_loss,
        "sent_total": device.sent,
        "resent_total": device.resent,
        "accepted_total": device.accepted,
        "updates_accepted": device.accepted_updates,
        "restarts": device.restarts,
        "board": profile.board,
        "agent_version": profile.agent_version,
        "jetpack": profile.jetpack,
        "examples": profile.examples,
        "heldout_examples": profile.heldout_examples,
        "base_precision": profile.base_precision,
    }


def fleet_row(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the section `fleet`: sums over the devices' objects."""
    gone = {state.value for state in GONE}
    attention: Counter[str] = Counter()
    states: Counter[str] = Counter()
    power_w: float | None = None
    goodput_bps = 0
    hottest: tuple[float, str] | None = None
    for row in rows:
        attention[row["attention"]] += 1
        states[row["state"]] += 1
        if row["state"] in gone:
            continue
        if row["power_w"] is not None:
            power_w = (power_w or 0.0) + row["power_w"]
        if row["state"] == DeviceState.UPLOADING.value:
            goodput_bps += row["goodput_bps"] or 0
        if row["temp_c"] is not None and (hottest is None or row["temp_c"] > hottest[0]):
            hottest = row["temp_c"], row["id"]
    return {
        "devices": attention.total(),
        "attention": {one.value: attention[one.value] for one in Attention},
        "states": dict(sorted(states.items())),
        "power_w": None if power_w is None else round(power_w, 1),
        "goodput_bps": goodput_bps,
        "hottest_c": hottest[0] if hottest else None,
        "hottest_id": hottest[1] if hottest else "",
        "words": _fleet_words(attention),
    }


def _fleet_words(attention: Counter[str]) -> str:
    total = attention.total()
    if not total:
        return "no device is known yet"
    told = [f"{attention[one.value]} {one.value}" for one in Attention if attention[one.value]]
    return f"{count_text(total, 'device')}: {', '.join(told)}"


def _tenths(moment_s: float | None) -> float | None:
    return None if moment_s is None else round(moment_s, 1)

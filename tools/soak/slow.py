"""Case: an update of 20 MB at 100 kbit/s with a keepalive of 60 s, on one connection."""

from __future__ import annotations

from pathlib import Path

from tools.netem.lab import Lab
from tools.netem.profile import Direction, Profile
from tools.soak.link_update import UpdateRun, upload
from tools.soak.outcome import Outcome, Tell

_RATE_KBIT = 100
_BYTES = 20_000_000
_QUICK_BYTES = 2_000_000
# Times what the bytes take at the link's rate.
_PATIENCE = 2.0


def run(folder: Path, *, tell: Tell) -> Outcome:
    """Upload 20 MB, which takes half an hour."""
    return _run(folder, _BYTES, tell=tell)


def quick(folder: Path, *, tell: Tell) -> Outcome:
    """Upload 2 MB, which takes three minutes."""
    return _run(folder, _QUICK_BYTES, tell=tell)


def outcome(run: UpdateRun) -> Outcome:
    """Return the case's outcome from what the update took."""
    megabytes = run.update_bytes / 1e6
    return Outcome(
        case="slow",
        figure=f"{megabytes:.0f} MB at {_RATE_KBIT} kbit/s, keepalive 60: completes,"
        " no keepalive disconnect",
        measured=f"{run.seconds:.0f} s, {run.goodput_kbps:.1f} kbit/s,"
        f" {run.disconnects} disconnects",
        reached=run.disconnects == 0 and not run.broker_complaints,
        details={
            "seconds": round(run.seconds, 1),
            "update_bytes": run.update_bytes,
            "link_bytes": run.link_bytes,
            "disconnects": run.disconnects,
            "broker": list(run.broker_complaints),
        },
    )


def _run(folder: Path, length: int, *, tell: Tell) -> Outcome:
    direction = Direction(rate_kbit=_RATE_KBIT, delay_ms=100)
    link = Profile(title="100 kbit/s, 200 ms round trip", up=direction, down=direction)
    timeout_s = _PATIENCE * 8 * length / (1000 * _RATE_KBIT)
    with Lab() as lab:
        run = upload(
            lab, folder / "slow", link, update_bytes=length, timeout_s=timeout_s, tell=tell
        )
    return outcome(run)

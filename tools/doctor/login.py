"""When the doctor may use the service's own login: two sessions of one login end each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.doctor.context import Context, Role
from tools.doctor.locks import Holder, held, holder_of


@contextmanager
def own_login(context: Context) -> Iterator[str]:
    """Yield "" where the login is free, and keep the service from starting; else say why not.

    A service that runs is stopped only where that was asked for, and started again at the end.
    """
    lock = _lock(context)
    stopped = False
    if context.take_over and holder_of(lock) is Holder.HELD:
        # Noted first: whoever breaks off from here on must start it again.
        context.known.stopped.append(context.unit)
        stopped = context.ask(["systemctl", "stop", context.unit]).code == 0
        if not stopped:
            context.known.stopped.remove(context.unit)
    try:
        with held(lock) as holder:
            yield _reason(holder, context.unit)
    finally:
        if stopped:
            start_again(context)


def start_again(context: Context) -> None:
    """Start what was stopped here."""
    while context.known.stopped:
        context.ask(["systemctl", "start", context.known.stopped.pop()])


def _lock(context: Context) -> Path:
    name = "agent.lock" if context.role is Role.AGENT else "lock"
    return context.service.state_dir / name


def _reason(holder: Holder, unit: str) -> str:
    match holder:
        case Holder.NOBODY:
            return ""
        case Holder.HELD:
            return f"{unit.removesuffix('.service')} runs, and one login has one session"
        case Holder.UNKNOWN:
            return "whether the service runs is not known to this user"

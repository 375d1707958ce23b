"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from tools.fleet_view import DeviceView, FleetView
from tools.units import bytes_text, loss_text
from transport.control import DeviceState, RoundSummary


class Display(Protocol):
    """Shows a fleet; a context manager, since a live table owns the terminal while it is open."""

    def __enter__(self) -> Self:
        """Take the terminal."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        ...

    def note(self, text: str) -> None:
        """Print one line that stays."""
        ...

    def show(self, view: FleetView) -> None:
        """Show the fleet as it is now."""
        ...


def round_line(summary: RoundSummary, rounds: int) -> str:
    """Return one line that tells what a closed round gave and cost."""
    loss = (
        f"held-out loss of adapter {summary.eval_version}: {loss_text(summary.eval_loss)}"
        if summary.eval_loss is not None
        else "no held-out loss"
    )
    return (
        f"round {summary.round_id}/{rounds}: {summary.participants} devices in"
        f" {summary.seconds:.1f} s, {loss}, {bytes_text(summary.bytes_up)} up"
        f" (dense fp32: {bytes_text(summary.bytes_up_fp32)})"
    )


class _Rounds:
    """Tells which closed rounds have not been printed yet."""

    def __init__(self) -> None:
        self._printed: set[int] = set()

    def fresh(self, view: FleetView) -> list[RoundSummary]:
        fresh = [view.summaries[key] for key in sorted(view.summaries) if key not in self._printed]
        self._printed.update(summary.round_id for summary in fresh)
        return fresh


class PlainDisplay:
    """One line per event, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rounds = _Rounds()
        self._states: dict[str, DeviceState] = {}

    def __enter__(self) -> Self:
        """Take nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give nothing back."""

    def note(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, view: FleetView) -> None:
        """Print what is new: rounds that closed, devices that came or were lost."""
        for device in view.devices.values():
            state = device.status.state if device.status else None
            before = self._states.get(device.client_id)
            if state and state is not before:
                self._states[device.client_id] = state
                if before is None or state is DeviceState.LOST or before is DeviceState.LOST:
                    self.note(f"{device.client_id}: {state.value}")
        rounds = view.run.rounds if view.run else 0
        for summary in self._rounds.fresh(view):
            self.note(round_line(summary, rounds))


class LiveDisplay:
    """A table that follows the fleet, with the rounds that have closed above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._rounds = _Rounds()

    def __enter__(self) -> Self:
        """Take the terminal."""
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        self._live.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Print one line above the table."""
        self._live.console.print(text, highlight=False, markup=False)

    def show(self, view: FleetView) -> None:
        """Draw the fleet."""
        rounds = view.run.rounds if view.run else 0
        for summary in self._rounds.fresh(view):
            self.note(round_line(summary, rounds))
        self._live.update(Group(Text(_headline(view)), _table(view)))


def _headline(view: FleetView) -> str:
    state = view.service.state.value if view.service else "starting"
    if not view.round or not view.run:
        return f"aggregator: {state}"
    now = view.round
    return (
        f"aggregator: {state}   round {now.round_id}/{view.run.rounds} {now.phase.value}:"
        f" {now.complete} of {now.cohort} updates, {now.partial} on their way"
        f"   up {bytes_text(view.bytes_up)}, dense fp32 {bytes_text(view.bytes_up_fp32)}"
    )


def _table(view: FleetView) -> Table:
    table = Table(expand=False)
    for column in ("device", "state", "step", "loss", "segments", "sent"):
        table.add_column(column, justify="left" if column in {"device", "state"} else "right")
    for client_id in sorted(view.devices):
        table.add_row(*_row(view.devices[client_id]))
    return table


def _row(device: DeviceView) -> tuple[str, ...]:
    state = device.status.state.value if device.status else "?"
    progress = device.progress
    if progress is None:
        return (device.client_id, state, "", "", "", "")
    return (
        device.client_id,
        state,
        f"{progress.step}/{progress.steps}",
        loss_text(progress.loss),
        f"{progress.segments_accepted}/{progress.segments}",
        bytes_text(progress.bytes_sent),
    )

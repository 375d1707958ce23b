"""`fedfstq report RUN`, and beside it `fedfstq report experiment DIR`.

Whatever does not begin with a subcommand's name is a run's folder; one of such a name is
`./experiment`.
"""

from __future__ import annotations

from typing import Any, Final

import typer
from typer.core import TyperGroup

from tools.evidence.command import experiment
from tools.report.command import report as report_run

# No subcommand that could be typed by chance: it is put before the words of those who name none.
_RUN: Final = "RUN"
_EXPERIMENT: Final = "experiment"


class _RunByDefault(TyperGroup):
    """A group whose first word is a run's folder, where it is no subcommand's name."""

    # The type of a context is click's own, which this version of typer may have inside.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the words with the subcommand that they leave out."""
        if args[:1] != [_EXPERIMENT]:
            args = [_RUN, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command, under no name where none was typed."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _RUN else name, command, rest


report = typer.Typer(cls=_RunByDefault, name="report", help="A run's report, or experiments'.")
report.command(
    _RUN, epilog="Experiments have a report of their own: fedfstq report experiment --help"
)(report_run)
report.command(_EXPERIMENT)(experiment)

"""What `fedfstq init` refuses, in one line that says how to mend it."""

from __future__ import annotations

from transport.exit_codes import ExitCode


class InitRefused(Exception):
    """The request is not carried out, and nothing was changed."""

    exit_code = ExitCode.USAGE


class FleetDamaged(InitRefused):
    """A file of the fleet folder is missing or is not what `init` wrote."""

    exit_code = ExitCode.CONFIG

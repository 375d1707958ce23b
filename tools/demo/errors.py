"""Why a demo cannot start or go on, in words for the person who typed the command."""

from __future__ import annotations

from transport.exit_codes import ExitCode


class DemoError(Exception):
    """The demo ends here; the text says what is wrong and how to mend it."""

    exit_code = ExitCode.FAILED


class BadOptions(DemoError):
    """An option of the command line cannot be used."""

    exit_code = ExitCode.USAGE


class BadInput(DemoError):
    """The model or the data that was named cannot be used."""

    exit_code = ExitCode.CONFIG


class NoBroker(DemoError):
    """No broker could be started or reached."""

    exit_code = ExitCode.UNREACHABLE


class FleetFailed(DemoError):
    """A process of the fleet ended for good, or the run did not come to its end."""

    exit_code = ExitCode.FAILED

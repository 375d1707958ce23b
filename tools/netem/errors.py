"""What can go wrong with a network under test; every text is one line that says how to mend it."""

from __future__ import annotations

from typing import ClassVar

from transport.exit_codes import ExitCode


class NetemError(Exception):
    """A command of `fedfstq netem` cannot do what it was asked for."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


class BadProfile(NetemError):
    """A profile does not exist, or its file is wrong."""

    exit_code = ExitCode.CONFIG


class Refused(NetemError):
    """Doing it would touch what is not ours: an interface, a qdisc, another lab."""

    exit_code = ExitCode.USAGE


class Unavailable(NetemError):
    """This machine lacks something: a right, a program, or a part of its kernel."""

    exit_code = ExitCode.CONFIG


class NoNetem(Unavailable):
    """This machine's kernel has no sch_netem."""


class LabBroken(NetemError):
    """A lab stopped working while it ran."""

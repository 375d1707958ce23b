"""How a simulated process dies."""

from __future__ import annotations


class Crash(Exception):
    """The process dies here."""

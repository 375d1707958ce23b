"""Clients of an experiment, as much of them as does not depend on how they train. Pure."""

from __future__ import annotations

from typing import Protocol

from codec.codec import FloatArray
from codec.layout import Layout


class Clients(Protocol):
    """Clients that share a model, and the adapter that they begin with."""

    @property
    def layout(self) -> Layout:
        """The adapter's layout."""
        ...

    @property
    def client_ids(self) -> tuple[str, ...]:
        """All clients."""
        ...

    def start(self) -> FloatArray:
        """Return float32 (layout.size,), the adapter of version 0."""
        ...

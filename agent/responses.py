"""Answers to commands, which wait where there is no link."""

from __future__ import annotations

from agent.outputs import Output, Respond
from transport.control import EvalResponse, TrainResponse


class Responses:
    """Gives answers out while the link is there, and the last of the others once it is back."""

    def __init__(self) -> None:
        self._linked = False
        self._unsent: list[Respond] = []

    @property
    def linked(self) -> bool:
        """Whether the link is there."""
        return self._linked

    def connected(self) -> list[Output]:
        """Give out what waited."""
        self._linked = True
        unsent: list[Output] = [*self._unsent]
        self._unsent.clear()
        return unsent

    def disconnected(self) -> None:
        """Keep what is answered from now on."""
        self._linked = False

    def clear(self) -> None:
        """Forget what waits: it belongs to another run."""
        self._unsent.clear()

    def respond(self, response: TrainResponse | EvalResponse) -> list[Output]:
        """Answer a command."""
        if self._linked:
            return [Respond(response)]
        # Only the last words matter: what an older command was told, the aggregator can do without.
        self._unsent = [*self._unsent[-3:], Respond(response)]
        return []

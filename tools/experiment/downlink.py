"""How versions come down to a trial's clients, as deployed: whole, or as deltas. Pure."""

from __future__ import annotations

from functools import cached_property

from aggregator.chain import Chain, DeltaFacts
from aggregator.downlink import moved_towards
from codec.codec import Budget, FloatArray
from codec.layout import Layout
from codec.update import dense_bytes
from tools.bench.methods import Method as CodecMethod
from tools.experiment.fleet import TrialFailed
from tools.experiment.wire import delta_bytes, snapshot_bytes


class Downlink:
    """Publishes versions, and counts what each client fetches to hold the newest.

    With a codec it does what the aggregator and the agents do by default: a version is what the one
    before and its delta give; the next delta makes up for what this one drops; and a client follows
    the chain of deltas from the version it holds, or takes the whole where the chain does not reach
    back to it. Clients that a round does not choose fetch nothing.

    Args:
        method: The deltas' codec and rate; None publishes every version whole, in fp32.
        layout: The adapter's.
        segment_bytes: Most bytes that one segment has.
        seed: The trial's.
        adapter: float32 (layout.size,), version 0.

    Attributes:
        adapter: The newest version, as clients have it.
    """

    def __init__(
        self,
        method: CodecMethod | None,
        *,
        layout: Layout,
        segment_bytes: int,
        seed: int,
        adapter: FloatArray,
    ) -> None:
        self._method = method
        self._layout = layout
        self._segment_bytes = segment_bytes
        self._seed = seed
        self._version = 0
        self._chain = Chain()
        self._delta_bytes: dict[int, int] = {}
        self._held: dict[str, int] = {}
        self._whole_bytes: int | None = None
        self.adapter = adapter

    def publish(self, master: FloatArray) -> None:
        """Publish the next version.

        Args:
            master: float32 (layout.size,), the server's exact adapter.

        Raises:
            TrialFailed: It does not fit float32.
        """
        self._version += 1
        self._whole_bytes = None
        if self._method is None:
            self.adapter = master
            return
        budget = Budget(self._budget_bytes, self._segment_bytes)
        try:
            self.adapter, segments = moved_towards(
                master,
                self.adapter,
                layout=self._layout,
                codec=self._method.codec,
                budget=budget,
                seed=self._seed,
                version=self._version,
            )
        except OverflowError as error:
            raise TrialFailed(f"diverged: {error}") from error
        self._delta_bytes[self._version] = delta_bytes(
            segments, layout=self._layout, codec=self._method.codec, version=self._version
        )
        facts = DeltaFacts(self._version, sum(map(len, segments)), len(segments))
        self._chain = self._chain.extended(facts, whole_bytes=self._dense_bytes)

    def fetch(self, client_id: str) -> int:
        """Bring the newest version to a client, and return the bytes of what it fetches for it."""
        held = self._held.get(client_id)
        self._held[client_id] = self._version
        begins_at = self._chain.begins_at
        if held is None or begins_at is None or held < begins_at:
            return self._whole()
        return sum(self._delta_bytes[each] for each in range(held + 1, self._version + 1))

    def _whole(self) -> int:
        if self._whole_bytes is None:
            self._whole_bytes = snapshot_bytes(
                self.adapter, layout=self._layout, segment_bytes=self._segment_bytes
            )
        return self._whole_bytes

    @cached_property
    def _dense_bytes(self) -> int:
        return dense_bytes(self._layout, segment_bytes=self._segment_bytes)

    @cached_property
    def _budget_bytes(self) -> int | None:
        if self._method is None or self._method.rate is None:
            return None
        return self._method.rate.update_bytes(self._layout.size, round_number=1, rounds=1)

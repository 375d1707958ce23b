"""The adapter versions that devices may have, and their frames, made when they are wanted.

Little is held in memory: deltas are read from the versions' folders, and a whole adapter is cut
when somebody asks for it.
"""

from __future__ import annotations

import dataclasses

from aggregator.adapter_folder import Adapter, Delta
from aggregator.announcements import AdapterFacts
from aggregator.chain import DeltaFacts
from aggregator.config import AggregatorConfig
from aggregator.snapshot import Frames, delta_frames, whole_frames
from aggregator.state_folder import StateFolder


class Published:
    """What there is to publish of a run's adapter versions."""

    def __init__(self, config: AggregatorConfig, state: StateFolder) -> None:
        """Learn what the state folder holds.

        Raises:
            BadAdapter: The adapter takes more segments than a manifest can name, or a manifest too
                large, or how it came from the version before is damaged.
        """
        self._config = config
        self._state = state
        version = state.version
        state.delta(version)  # which the next version is made from, and not only then refused
        # Made once for its size, and to be refused before the run begins where it is too large.
        frames = self._whole(state.adapter, version)
        self._facts = AdapterFacts(
            version=version,
            sha256=state.adapter.sha256.hex(),
            size_bytes=frames.size_bytes,
            segments=len(frames.bodies),
            chain=state.chain,
            wholes=state.wholes(state.chain, newest=version),
        )

    @property
    def facts(self) -> AdapterFacts:
        """The newest adapter version that is durable."""
        return self._facts

    def candidate(self, adapter: Adapter, version: int, delta: Delta | None) -> AdapterFacts:
        """Return what a version will be when it is committed.

        Raises:
            BadAdapter: Its delta takes more segments than a manifest can name.
        """
        digest = adapter.sha256
        chain = self._facts.chain
        if delta is not None:
            frames = delta_frames(
                adapter,
                run=self._state.run.run,
                version=version,
                sha256=digest,
                codec=delta.codec,
                bodies=delta.segments,
            )
            facts = DeltaFacts(version, frames.size_bytes, len(frames.bodies))
            chain = chain.extended(facts, whole_bytes=self._facts.size_bytes)
        return dataclasses.replace(
            self._facts,
            version=version,
            sha256=digest.hex(),
            chain=chain,
            wholes=self._state.wholes(chain, newest=version),
        )

    def committed(self, facts: AdapterFacts) -> None:
        """Let the candidate be the newest version."""
        self._facts = facts

    def frames(self, version: int, *, delta: bool) -> Frames | None:
        """Return what is sent of a version, or of its delta; None where devices can do without.

        Raises:
            BadAdapter: Its files are damaged.
        """
        if not self._facts.count(version, delta=delta):
            return None  # A newer version was committed in the same batch, and follows.
        if not delta:
            return self._whole(self._state.read(version), version)
        codec, bodies = self._state.delta_segments(version)
        return delta_frames(
            self._state.adapter,
            run=self._state.run.run,
            version=version,
            sha256=self._state.digest(version),
            codec=codec,
            bodies=bodies,
        )

    def _whole(self, adapter: Adapter, version: int) -> Frames:
        return whole_frames(
            adapter,
            run=self._state.run.run,
            version=version,
            segment_bytes=self._config.segment_bytes,
        )

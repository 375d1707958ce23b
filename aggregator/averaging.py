"""The next adapter version: made from a frozen set, and held until its commit is durable.

The same set gives the same bytes, so that nothing of this has to be journaled.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from aggregator.adapter_folder import Adapter, Delta
from aggregator.announcements import AdapterFacts
from aggregator.closing import Aggregated
from aggregator.config import AggregatorConfig
from aggregator.downlink import next_version
from aggregator.fedavg import Average, ClientUpdate, federated_average
from aggregator.outputs import Aggregate, Commit, FrozenUpdate
from aggregator.published import Published
from aggregator.server_optimizer import arrivals_factor, step
from aggregator.state_folder import StateFolder
from aggregator.tensors import tensor_figures
from codec.codec import SumArray
from codec.registry import codec_named

logger = logging.getLogger(__name__)


class Averaging:
    """Averages what arrived, and takes the server's step.

    Args:
        config: The run's codec, bounds, step and downlink.
        state: Where the segments of updates are, and the adapter versions.
        published: Learns what a version will be, and that it is durable.
        works: Called before each update: averaging a large fleet takes minutes, and each update
            that goes into it is progress.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        state: StateFolder,
        published: Published,
        *,
        works: Callable[[], None],
    ) -> None:
        self._config = config
        self._state = state
        self._published = published
        self._works = works
        self._adapter: Adapter = state.adapter
        self._candidate: tuple[Adapter, AdapterFacts, Delta | None] | None = None

    def aggregate(self, aggregate: Aggregate) -> Aggregated:
        """Make the next adapter version from the frozen set; nothing is written.

        Raises:
            BadAdapter: Its delta takes more segments than a manifest can name; or the files of an
                earlier version, which momentum or a delta starts from, are damaged.
            OverflowError: A coordinate of it is beyond float32.
            StoreUnavailable: The segments cannot be read.
        """
        started = time.monotonic()
        average = federated_average(
            map(self._client_update, aggregate.updates),
            codec=codec_named(self._config.codec),
            layout=self._adapter.layout,
            max_delta_abs=self._config.max_delta_abs,
            norm_bound=aggregate.norm_bound,
            norm_policy=self._config.norm_policy,
        )
        version = aggregate.base_version + 1
        server_step = self._server_step(average)
        adapter, delta = self._step(average.mean, version, server_step)
        facts = self._published.candidate(adapter, version, delta)
        self._candidate = (adapter, facts, delta)
        logger.info(
            "aggregated version=%d updates=%d step=%.3g in %.3f s",
            version,
            len(average.included),
            server_step,
            time.monotonic() - started,
        )
        figures = tensor_figures(
            average.mean,
            average.moved,
            layout=self._adapter.layout,
            server_step=server_step,
            bits=average.bits,
            payload_bytes=average.payload_bytes,
        )
        return Aggregated(
            facts, average.included, average.refused, average.norms, average.clipped, figures
        )

    def commit(self, commit: Commit) -> AdapterFacts:
        """Make the version that was made last durable, and return what it is.

        Raises:
            StoreUnavailable: The disk does not do its work.
        """
        assert self._candidate is not None
        adapter, facts, delta = self._candidate
        assert facts.version == commit.version
        self._state.commit(commit, adapter, delta)
        self._adapter, self._candidate = adapter, None
        self._published.committed(facts)
        return facts

    def _client_update(self, update: FrozenUpdate) -> ClientUpdate:
        self._works()
        return ClientUpdate(
            uid=update.uid,
            weight=update.weight,
            segment_count=update.segment_count,
            segments=self._state.store.segments(update.uid, update.accepted),
        )

    def _server_step(self, average: Average) -> float:
        """Return η of this round, shorter where few updates of few bits arrived."""
        config = self._config
        if not config.step_by_arrivals or not average.included:
            return config.server_step
        return config.server_step * arrivals_factor(
            average.bits_per_coordinate,
            arrived=average.arrived,
            goal=config.goal,
            order=codec_named(config.codec).order,
        )

    def _step(
        self, mean: SumArray, version: int, server_step: float
    ) -> tuple[Adapter, Delta | None]:
        """Return the next adapter version, and how it comes from this one where that is asked.

        Args:
            mean: float64 (layout.size,), the updates' weighted mean.
            version: The next one.
            server_step: η of this round.
        """
        config, adapter = self._config, self._adapter
        newest = self._state.delta(version - 1) if config.downlink_codec else None
        before = self._state.exact(version - 2) if config.server_momentum and version > 1 else None
        master = step(
            adapter.flat if newest is None else newest.master,
            mean,
            server_step=server_step,
            momentum=config.server_momentum,
            before=before,
        )
        if config.downlink_codec is None:
            return dataclasses.replace(adapter, flat=master), None
        flat, delta = next_version(adapter, master, config=config, version=version)
        return dataclasses.replace(adapter, flat=flat), delta

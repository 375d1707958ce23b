"""How this device comes to an adapter version: along the chain of deltas, or by the whole. Pure.

    download   event                                  next
    none       a version is wanted                    the next delta of the chain, else the whole
    any        everything has come                    it is being stored
    storing    stored, and it is the wanted version   none
    storing    stored, and it is on the way there     the next delta
    storing    refused                                none; then the whole, where it was a delta
    delta      silence                                the whole
    any        it does not lead to what is wanted     the next delta of the chain, else the whole
    any        nobody wants it, nothing has come      none
    any        nobody wants it, something has come    goes on: the chain leads on from there

What has brought anything is never given up while it goes on bringing more: on a slow link a version
may take longer than a round, and whoever began anew with each round would never have one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass

from agent.inbox import Inbox
from agent.outputs import Adapter, Output, PublishWant, StoreAdapter, Subscribe, Unsubscribe
from codec.registry import CODECS
from transport.fetch import Fetch, FetchDone, FetchOutput, FetchRefused, FetchWant
from transport.messages import AdapterManifest
from transport.transfer import TransferPolicy

log = logging.getLogger(__name__)

# Questions in a row without an answer after which another way is taken: where nothing at all has
# come there may be nothing; where something has, the answers may have been lost.
SILENCES_BEFORE = 2
SILENCES_AFTER = 4
# As many make a stall that people are told of.
STALLED = 2


@dataclass(slots=True)
class _Download:
    """One adapter version on its way here.

    Attributes:
        base: The version before, where it comes as a delta.
        storing: Everything has come, and is being checked and kept.
    """

    fetch: Fetch
    base: Adapter | None
    storing: bool = False


class Fetching:
    """The adapter versions of a device: those that it holds, and the one that it is fetching."""

    def __init__(
        self,
        inbox: Inbox,
        *,
        adapters: Iterable[Adapter],
        kept: int,
        policy: TransferPolicy,
        rng: random.Random,
    ) -> None:
        self._inbox = inbox
        self._adapters = {adapter.version: adapter for adapter in adapters}
        self._kept = kept
        self._policy = policy
        self._rng = rng
        self._linked = False
        self._wanted: int | None = None
        self._takes_whole = False
        self._download: _Download | None = None

    @property
    def busy(self) -> bool:
        """Whether a version is on its way or being stored."""
        return self._download is not None

    @property
    def stalled(self) -> bool:
        """Whether the aggregator was asked more than once, and nothing new has come."""
        download = self._download
        if download is None or download.storing or not self._linked:
            return False
        return download.fetch.silences >= STALLED

    def held(self, version: int) -> Adapter | None:
        """Return this version where the device holds it."""
        return self._adapters.get(version)

    def want(self, version: int, *, now: float) -> list[Output]:
        """Go for a version that is not held; what is on its way already may lead there."""
        self._wanted = version
        outputs: list[Output] = []
        if self._download:
            if self._leads(self._download, version):
                return []
            outputs.extend(self._end())
        return [*outputs, *self._begin(version, now=now)]

    def release(self) -> list[Output]:
        """Let nobody want anything any more; what has brought something goes on."""
        self._wanted, self._takes_whole = None, False
        download = self._download
        if download and not download.storing and not download.fetch.begun:
            return self._end()
        return []

    def clear(self) -> list[Output]:
        """Forget everything: there is another run."""
        self._adapters.clear()
        self._wanted, self._takes_whole = None, False
        return self._end()

    def connected(self, now: float) -> list[Output]:
        """Go on over a new connection."""
        self._linked = True
        download = self._download
        return self._fetched(download, download.fetch.connected(now)) if download else []

    def disconnected(self) -> None:
        """Ask nothing until the link is back."""
        self._linked = False

    def manifest(self, manifest: AdapterManifest, *, delta: bool, now: float) -> list[Output]:
        """Take the manifest of a version or of its delta, wanted or not."""
        download = self._download
        if download is None or not _is_of(download, manifest.version, delta=delta):
            return []
        return self._fetched(download, download.fetch.manifest(manifest, now=now))

    def segment(
        self, version: int, *, index: int, body: bytes, delta: bool, now: float
    ) -> list[Output]:
        """Take one segment of a version or of its delta, wanted or not."""
        download = self._download
        if download is None or not _is_of(download, version, delta=delta):
            return []
        return self._fetched(download, download.fetch.segment(index, body, now=now))

    def stored(self, adapter: Adapter, *, now: float) -> list[Output]:
        """Hold a version that is durable, and go on from there where a later one is wanted."""
        self._adapters[adapter.version] = adapter
        while len(self._adapters) > self._kept:
            del self._adapters[min(self._adapters.keys() - {adapter.version})]
        outputs: list[Output] = []
        download, wanted = self._download, self._wanted
        if download and adapter.version in {download.fetch.version, wanted}:
            outputs.extend(self._end())
        if wanted == adapter.version:
            self._wanted, self._takes_whole = None, False
        elif wanted is not None and self._download is None:
            outputs.extend(self._begin(wanted, now=now))
        return outputs

    def is_storing(self, version: int) -> bool:
        """Whether everything of this version has come, and it is neither stored nor refused."""
        download = self._download
        return bool(download and download.storing and download.fetch.version == version)

    def refused(self) -> list[Output]:
        """End the download that could not be used; `want` begins another."""
        # What a delta cannot give, the whole adapter may.
        self._takes_whole = self._takes_whole or bool(self._download and self._download.base)
        return self._end()

    def tick(self, now: float) -> list[Output]:
        """Ask for what is missing, or take another way, when it is due."""
        download = self._download
        if download is None or download.storing:
            return []
        outputs = self._fetched(download, download.fetch.tick(now))
        if outputs and download.fetch.silences % SILENCES_AFTER == 0:
            # A broker that was restored from a copy may know the session and not the subscription.
            outputs.append(_subscription(download))
        if not self._linked or not self._is_hopeless(download):
            return outputs
        log.info("adapter %d: nothing more comes of it", download.fetch.version)
        outputs.extend(self._end())
        if self._wanted is not None:
            self._takes_whole = self._takes_whole or download.base is not None
            outputs.extend(self._begin(self._wanted, now=now))
        return outputs

    def next_wakeup(self) -> float | None:
        """Return when `tick` has something to do."""
        download = self._download
        return download.fetch.next_wakeup() if download and not download.storing else None

    def _begin(self, wanted: int, *, now: float) -> list[Output]:
        run = self._inbox.run
        assert run is not None, "nothing is wanted before a run is announced"
        base = self._base(wanted)
        version = wanted if base is None else base.version + 1
        fetch = Fetch(run.run, version, policy=self._policy, rng=self._rng)
        self._download = _Download(fetch, base)
        outputs: list[Output] = [_subscription(self._download)]
        outputs.extend(self._fetched(self._download, fetch.begin(now)))
        if run.downlink_codec and version > 0 and base is None and self._linked:
            # Where there are deltas, a whole adapter is published only when one is asked for.
            outputs.append(PublishWant(version, None))
        return outputs

    def _base(self, wanted: int) -> Adapter | None:
        """Return the newest version held from which deltas lead to the wanted one."""
        run = self._inbox.run
        if self._takes_whole or run is None or run.downlink_codec not in CODECS:
            return None
        from_here = range(self._inbox.chain_from(wanted), wanted)
        return self._adapters.get(max(self._adapters.keys() & set(from_here), default=-1))

    def _leads(self, download: _Download, wanted: int) -> bool:
        """Return whether this download is a step towards the wanted version."""
        version = download.fetch.version
        if version == wanted:
            return True
        starts_at = version if download.base is None else version - 1
        leads = version < wanted and self._inbox.chain_from(wanted) <= starts_at
        return leads and download.fetch.begun

    def _is_hopeless(self, download: _Download) -> bool:
        fetch = download.fetch
        if download.base is None and fetch.version == self._wanted:
            return False  # There is no other way than to go on asking.
        return fetch.silences >= (SILENCES_AFTER if fetch.begun else SILENCES_BEFORE)

    def _fetched(self, download: _Download, events: Iterable[FetchOutput]) -> list[Output]:
        outputs: list[Output] = []
        for event in events:
            match event:
                case FetchWant(version, missing) if self._linked:
                    delta = download.base is not None
                    outputs.append(PublishWant(version, missing, delta=delta))
                case FetchWant():
                    pass  # The link's return asks anew.
                case FetchDone(_, bodies, manifest):
                    assert self._inbox.run is not None
                    download.storing = True
                    base = download.base
                    outputs.append(StoreAdapter(self._inbox.run, manifest, bodies, base))
                case FetchRefused(version, reason, text):
                    # The fetch goes on without it, and asks for what is missing.
                    log.warning("adapter %d: %s (%s)", version, text, reason)
        return outputs

    def _end(self) -> list[Output]:
        download, self._download = self._download, None
        if download is None:
            return []
        return [Unsubscribe(download.fetch.version, delta=download.base is not None)]


def _subscription(download: _Download) -> Subscribe:
    return Subscribe(download.fetch.version, delta=download.base is not None)


def _is_of(download: _Download, version: int, *, delta: bool) -> bool:
    return download.fetch.version == version and (download.base is not None) is delta

"""The aggregator's process as a model: `aggregator.runtime` without sockets, disks and threads.

The coordinator is the real one. What it wants done is done in the real order: a batch's journal
entries in one transaction, then its answers, then the acknowledgements to the broker. The process
may die at any point that `transport.crash_points` names; the journal stays.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from aggregator.announcements import AdapterFacts, RunFacts
from aggregator.config import AggregatorConfig
from aggregator.coordinator import Coordinator, State
from aggregator.fencing import (
    Answer,
    Claim,
    Fence,
    FenceOutput,
    Lead,
    RaiseEpoch,
    Restate,
    Yield,
    read_overheard,
)
from aggregator.inbound import Unreadable
from aggregator.journal import Snapshot
from aggregator.outputs import (
    Aggregate,
    Commit,
    Finish,
    Freeze,
    JournalCloned,
    JournalEvaluation,
    JournalLate,
    JournalManifest,
    JournalSegment,
    Output,
    Reopen,
    SaveRound,
)
from tools.simulate import adapters, payloads
from tools.simulate.averaging import Candidate, average
from tools.simulate.broker import TOPICS, Entry
from tools.simulate.clock import moment_of
from tools.simulate.crash import Crash
from tools.simulate.journal import Journal, JournalEntry
from tools.simulate.line import Line, Network
from tools.simulate.reading import read_entry
from tools.simulate.speaker import Effect, Speaker
from transport.control import ServiceState, ServiceStatus
from transport.topics import CoordRun, CoordStatus, DeviceTopic, Model

if TYPE_CHECKING:
    from tools.simulate.world import World

MAX_BATCH = 128
# Of uploads, which devices repeat, only so many wait until it is known who leads.
MAX_HELD_UPLOADS = 256

_BARRIERS = frozenset(
    {Freeze, Aggregate, Reopen, Commit, Finish, RaiseEpoch, Lead, Answer, Restate, Yield}
)
_JOURNALED = (JournalManifest, JournalSegment, JournalLate, JournalCloned, JournalEvaluation)


class _Fenced(Exception):
    """Another aggregator leads: the process ends, and stays away."""


class _Raised(Exception):
    """The process starts anew at once, with a higher epoch."""


class _Change(Enum):
    """What became of the line."""

    UP = "up"
    DOWN = "down"


class Aggregator:
    """One aggregator: its disk, and the process on it while it runs.

    Attributes:
        world: Where it is.
        facts: The newest adapter version that is durable.
        name: What it is called here.
        client_id: What it is called at the broker.
        gave_way: It was fenced off, or another process has its client id: it does not come back.
        journal: What is durable.
        contents: Version → the adapter's content, for those whose folders are renamed.
        line: Its link while it runs.
        coordinator: The machine while it runs.
        fence: What lets it speak, while it runs.
    """

    def __init__(
        self,
        world: World,
        *,
        name: str,
        client_id: str,
        config: AggregatorConfig,
        journal: Journal,
        contents: dict[int, bytes],
        network: Network,
        rng: random.Random,
    ) -> None:
        self.name = name
        self.client_id = client_id
        self.gave_way = False
        self.journal = journal
        self.contents = contents
        self.line: Line | None = None
        self.coordinator: Coordinator | None = None
        self.fence: Fence | None = None
        self.network = network
        self.world = world
        self._config = config
        self._rng = rng
        self._speaker = Speaker(self)
        self._has_begun = False
        self._offset = 0.0
        self._session = ""
        self._snapshot: Snapshot | None = None
        self._queue: list[Entry] = []
        self._held: list[Entry] = []
        self._is_due = False
        self._wake_at: float | None = None
        self._candidate: Candidate | None = None
        self.facts: AdapterFacts | None = None

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.fence is not None

    @property
    def finished(self) -> bool:
        """Whether the run has ended, by what is durable."""
        return self.coordinator is not None and self.coordinator.state is State.FINISHED

    @property
    def now(self) -> float:
        """The process's monotonic clock, which means nothing to any other."""
        return self.world.clock.now + self._offset

    # Its life -------------------------------------------------------------------------------------

    def start(self, *, takeovers: int = 0) -> None:
        """Start a process on what is on the disk."""
        if self.fence is not None or self.gave_way:
            return
        world = self.world
        self._offset = self._rng.uniform(0.0, 1e5) if world.jumps else 0.0
        snapshot = self.journal.open()
        content = self.contents[snapshot.version]
        world.truth.made(self.name, self.journal.run, snapshot.version, content)
        self.facts = adapters.facts_of(snapshot.version, content, config=self._config)
        self._session = f"{self._rng.getrandbits(64):016x}"
        self._snapshot = snapshot
        self.coordinator = self._make_coordinator()
        self.fence = Fence(
            run=self.journal.run,
            epoch=self.journal.epoch,
            session=self._session,
            software="0",
            version=snapshot.version,
            sha256=self.facts.sha256,
        )
        lost = self._status(ServiceState.LOST, "the connection ended without goodbye")
        self.line = Line(
            world.clock,
            world.broker,
            self,
            client_id=self.client_id,
            filters=TOPICS.aggregator_filters(),
            will=(CoordStatus(), world.packed(CoordStatus(), lost)),
            network=self.network,
            rng=self._rng,
            takeovers=takeovers,
        )
        world.lines[self.line] = None
        self._queue, self._held, self._is_due, self._wake_at = [], [], False, None
        self._candidate = None
        self._has_begun = False
        self.line.open()

    def _make_coordinator(self) -> Coordinator:
        assert self.facts is not None
        assert self._snapshot is not None
        facts = RunFacts(
            run=self.journal.run,
            epoch=self.journal.epoch,
            session=self._session,
            base_model="base",
            base_digest=payloads.BASE_DIGEST,
            layout=self.world.layout,
        )
        return Coordinator(
            self._config, facts, adapter=self.facts, snapshot=self._snapshot, version="0"
        )

    def stop(self, *, goodbye: bool = False) -> None:
        """End the process: killed, or with a goodbye."""
        if self.fence is None:
            return
        if goodbye and self.fence.leads and self.line is not None:
            away = self._status(ServiceState.OFFLINE, "the process has ended")
            self.line.publish(CoordStatus(), self.world.packed(CoordStatus(), away), retain=True)
        self._end(goodbye=goodbye)

    def _status(self, state: ServiceState, reason: str) -> ServiceStatus:
        journal = self.journal
        return ServiceStatus(
            state, self._session, "0", reason, run=journal.run, epoch=journal.epoch
        )

    def _end(self, *, goodbye: bool) -> None:
        self.world.truth.left(self.name)
        self.coordinator = self.fence = None
        if self.line is not None:
            self.world.lines.pop(self.line, None)
            self.line.close(goodbye=goodbye)
            self.line = None
        self._queue.clear()

    # What its line tells --------------------------------------------------------------------------

    def line_up(self) -> None:
        """Ask who leads."""
        self._guard(self._turn, [], _Change.UP)

    def line_down(self) -> None:
        """Take what had come, and say nothing more."""
        batch, self._queue = self._queue, []
        self._guard(self._turn, batch, _Change.DOWN)

    def line_refused(self) -> None:
        """Another process has this client id: end."""
        self.world.truth.tally["aggregator gave way"] += 1
        self.gave_way = True
        self.stop()

    def line_delivers(self, entry: Entry) -> None:
        """Take a delivery into the next batch."""
        self._queue.append(entry)
        if not self._is_due:
            self._is_due = True
            self.world.clock.after(self.world.batch_s, self._process, self.fence)

    # The loop -------------------------------------------------------------------------------------

    def _process(self, fence: Fence | None) -> None:
        if fence is None or fence is not self.fence:
            return
        self._is_due = False
        batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        if self._queue:
            self._is_due = True
            self.world.clock.after(self.world.batch_s, self._process, fence)
        if batch:
            self._guard(self._turn, batch, None)

    def _turn(self, batch: list[Entry], change: _Change | None) -> None:
        """Take what has come, and do what is due."""
        fence, now = self.fence, self.now
        assert fence is not None
        assert self.coordinator is not None
        outputs: list[Effect] = []
        for entry in batch:
            outputs += self._deliver(entry, now=now)
        if change is _Change.UP:
            outputs += fence.connected(now)
        elif change is _Change.DOWN:
            fence.disconnected()
            self._held = [entry for entry in self._held if not _shows_a_device(entry)]
            self.coordinator.disconnected()
        outputs += fence.tick(now)
        if self._has_begun and (fence.leads or fence.was_away):
            outputs += self.coordinator.tick(now)
        self._execute(outputs)
        if batch:
            self.reach("aggregator-journal-answered")
            line = self.line
            assert line is not None
            for entry in batch:
                line.acknowledge(entry)

    def _deliver(self, entry: Entry, *, now: float) -> list[Effect]:
        fence = self.fence
        assert fence is not None
        self.world.note(self.name, entry)
        if isinstance(entry.address, CoordStatus | CoordRun | Model):
            message = entry.message
            if isinstance(message, bytes):
                heard = read_overheard(TOPICS, TOPICS.topic(entry.address), message)
                message = heard.message if heard else None
            return [*fence.heard(message, retained=entry.retained, now=now)]
        if fence.leads and self._has_begun:
            return [*self._take(entry, now=now, fresh=not entry.retained)]
        if len(self._held) < MAX_HELD_UPLOADS or isinstance(entry.address, DeviceTopic):
            self._held.append(entry)
        return []

    def _take(self, entry: Entry, *, now: float, fresh: bool) -> list[Output]:
        coordinator = self.coordinator
        assert coordinator is not None
        inbound = read_entry(entry, coordinator, now=now, fresh=fresh)
        match inbound:
            case None:
                return []
            case Unreadable():
                self.world.truth.tally[f"unreadable {inbound.reason}"] += 1
                return coordinator.unreadable(inbound, now=now)
            case _:
                return coordinator.receive(inbound, now=now)

    def _lead(self, now: float) -> list[Output]:
        """Go on, or begin, with all that stands and what has come in the meantime."""
        coordinator = self.coordinator
        assert coordinator is not None
        outputs: list[Output] = []
        if not self._has_begun:
            self._has_begun = True
            outputs += coordinator.start(now)
        outputs += coordinator.connected(now)
        held, self._held = self._held, []
        for entry in held:
            outputs += self._take(entry, now=now, fresh=False)
        return outputs

    def _obey(self, output: FenceOutput) -> list[Output]:
        """Do what the fence decided."""
        match output:
            case RaiseEpoch(epoch):
                self.journal.epoch = epoch - 1  # each start adds one
                raise _Raised
            case Lead():
                return self._lead(self.now)
            case Answer():
                assert self.coordinator is not None
                return self.coordinator.status()
            case Restate():
                assert self.coordinator is not None
                return self.coordinator.connected(self.now)
            case Yield(text, word):
                self._speaker.emit(Claim(word))
                raise _Fenced(text)
        return []

    def _guard(self, work: Any, *arguments: Any) -> None:
        """Run a step; a crash in it ends the process, and it starts again after a while."""
        if self.fence is None:
            return
        try:
            work(*arguments)
        except Crash:
            self.stop()
            self.world.restart(self)
            return
        except _Raised:
            self.world.truth.tally["epoch raised"] += 1
            takeovers = self.line.takeovers if self.line else 0
            self.stop(goodbye=True)
            self.start(takeovers=takeovers)
            return
        except _Fenced as fenced:
            self.gave_way = True
            # It says goodbye, so that its will is not published, and leaves the status as it is.
            self.fence = None
            self._end(goodbye=True)
            self.world.fenced(str(fenced))
            return
        if self.fence is not None and (self.fence.leads or self.fence.was_away):
            self.world.truth.check_deadline(self.name, now=self.world.clock.now)
        self._arm()

    def _arm(self) -> None:
        fence, coordinator = self.fence, self.coordinator
        if fence is None or coordinator is None:
            return
        moments = [fence.next_wakeup()]
        if fence.leads or fence.was_away:
            moments.append(coordinator.next_wakeup())
        wakeup = min((moment for moment in moments if moment is not None), default=None)
        if wakeup is None:
            return
        moment = max(moment_of(wakeup, self._offset), self.world.clock.now)
        if self._wake_at is None or moment < self._wake_at:
            self._wake_at = moment
            self.world.clock.at(moment, self._wake, fence, moment)

    def _wake(self, fence: Fence, moment: float) -> None:
        if fence is not self.fence or self._wake_at != moment:
            return
        self._wake_at = None
        self._guard(self._turn, [], None)

    # Effects --------------------------------------------------------------------------------------

    def _execute(self, outputs: list[Effect]) -> None:
        """Do all of it in order; within a stretch, what is to be durable comes first."""
        while outputs:
            end = len(outputs)
            for at, output in enumerate(outputs):
                if type(output) in _BARRIERS:
                    end = at
                    break
            stretch, barrier, rest = outputs[:end], outputs[end : end + 1], outputs[end + 1 :]
            rest = [*rest, *self._journal(stretch)]
            for output in stretch:
                self._speaker.emit(output)
            outputs = [*(self._pass_barrier(barrier[0]) if barrier else []), *rest]

    def _journal(self, outputs: Sequence[Effect]) -> list[Output]:
        entries: list[JournalEntry] = []
        record: SaveRound | None = None
        for output in outputs:
            if isinstance(output, SaveRound):
                record = output
            elif isinstance(output, _JOURNALED):
                entries.append(output)
        if record is not None:
            entries.append(record)
        if not entries:
            return []
        self.reach("aggregator-journal-before")
        self.journal.write(entries)
        self.reach("aggregator-journal-committed")
        stored: dict[str, set[int]] = {}
        for entry in entries:
            if isinstance(entry, JournalSegment):
                stored.setdefault(entry.uid, set()).add(entry.index)
        assert self.coordinator is not None
        return self.coordinator.stored(stored, now=self.now)

    def _pass_barrier(self, output: Effect) -> Sequence[Effect]:
        truth = self.world.truth
        match output:
            case RaiseEpoch() | Lead() | Answer() | Restate() | Yield():
                return self._obey(output)
            case Freeze():
                self.reach("aggregator-freeze-before")
                self.journal.freeze(output)
                truth.froze(self.name, output, now=self.world.clock.now)
                self.reach("aggregator-frozen")
            case Aggregate():
                return self._aggregate(output)
            case Reopen():
                self.journal.reopen(output)
            case Commit():
                self._commit(output)
            case Finish(version):
                self.journal.finish(version)
        return []

    def _aggregate(self, aggregate: Aggregate) -> list[Output]:
        truth = self.world.truth
        truth.aggregates(self.name, aggregate)
        self._candidate = candidate = average(
            aggregate,
            journal=self.journal,
            contents=self.contents,
            config=self._config,
            check=truth.body,
        )
        assert self.coordinator is not None
        return self.coordinator.aggregated(candidate.result, now=self.now)

    def _commit(self, commit: Commit) -> None:
        assert self._candidate is not None
        facts, content = self._candidate.result.adapter, self._candidate.content
        included = self._candidate.result.included
        truth, run = self.world.truth, self.journal.run
        self.reach("aggregator-folder-before")
        truth.made(self.name, run, commit.version, content)
        self.contents[commit.version] = content
        self.reach("aggregator-current-written")
        self.journal.commit(commit)
        truth.committed(self.name, run, commit, included)
        self.reach("aggregator-committed")
        self.facts, self._candidate = facts, None
        assert self.fence is not None
        self.fence.made(facts.version, facts.sha256)
        self.world.progressed()
        self.reach("aggregator-announcing")

    def reach(self, point: str) -> None:
        """Die here, where the scenario says so.

        Raises:
            Crash: It does.
        """
        if self.world.crashes and self.world.is_fatal(self.name, point):
            raise Crash


def _shows_a_device(entry: Entry) -> bool:
    """Say whether this is a status, which the broker of the next connection tells anew."""
    address = entry.address
    return isinstance(address, DeviceTopic) and address.leaf == "status" and bool(entry.message)

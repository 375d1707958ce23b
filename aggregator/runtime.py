"""The aggregator's process: link, journal, signals and the loop; it decides nothing.

Deliveries are taken in batches. What a batch wants to keep is written in one transaction, then the
answers are published, then the deliveries are acknowledged to the broker: whatever dies before
that, the broker delivers it again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.metadata
import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from aggregator import broker_log
from aggregator.adapter_folder import BadAdapter
from aggregator.announcements import RunFacts
from aggregator.averaging import Averaging
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
)
from aggregator.gate import EpochUsed, FencedOff, Gate, encode
from aggregator.inbound import Unreadable, read
from aggregator.metrics_server import Monitoring
from aggregator.outputs import (
    Aggregate,
    ClearAdapter,
    Commit,
    Finish,
    Freeze,
    JournalCloned,
    JournalEvaluation,
    JournalLate,
    JournalManifest,
    JournalSegment,
    JournalTraffic,
    Output,
    Publish,
    Reopen,
    SaveRound,
    SendAdapter,
)
from aggregator.published import Published
from aggregator.state_folder import StateFolder, open_state_folder
from aggregator.store import ForeignJournal, JournalEntry, StoreUnavailable
from transport import control
from transport.control import ServiceState, ServiceStatus
from transport.crash_points import reach
from transport.errors import (
    BadLinkConfig,
    BrokerUnreachable,
    LinkError,
    LoginRefused,
    PublishingRefused,
    SessionTakenOver,
)
from transport.exit_codes import ExitCode
from transport.link import Delivery, Link, LinkDown, LinkEvent, LinkRefused, LinkUp, Publication
from transport.notify import Heartbeat, Notifier, Outage
from transport.signing import load_seals
from transport.topics import CoordStatus, ModelManifest, ModelSegment, Topics

logger = logging.getLogger(__name__)

Effect = Output | FenceOutput

_JOURNALED = (
    SaveRound,
    JournalTraffic,
    JournalManifest,
    JournalSegment,
    JournalLate,
    JournalCloned,
    JournalEvaluation,
)
# What may only happen when everything before it in the list is done.
_BARRIERS = (Freeze, Aggregate, Reopen, Commit, Finish, RaiseEpoch, Lead, Answer, Restate, Yield)


def run(config: AggregatorConfig) -> int:
    """Run the aggregator until it is told to stop, or has finished where it is to exit then.

    Returns:
        The process's exit code; what went wrong is one line of the log.
    """
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        cuts: int | None = 0
        while cuts is not None:
            cuts = _serve(config, cuts)
    except (BadAdapter, ForeignJournal, BadLinkConfig, OverflowError) as error:
        return _failed(error, ExitCode.CONFIG)
    except (LoginRefused, PublishingRefused, SessionTakenOver, FencedOff) as error:
        return _failed(error, ExitCode.REFUSED)
    except BrokerUnreachable as error:
        return _failed(error, ExitCode.UNREACHABLE)
    except (StoreUnavailable, LinkError) as error:
        return _failed(error, ExitCode.TRY_AGAIN)
    return ExitCode.OK


def _serve(config: AggregatorConfig, cuts: int) -> int | None:
    """Run one service; return what the next one's link is to know where it is to be followed."""
    with open_state_folder(config) as state:
        service = Service(config, state, cuts=cuts)
        with _signals(service), service.monitoring:
            try:
                service.serve()
            except EpochUsed as used:
                return used.cuts
    return None


class Service:
    """Carries out what the coordinator decides.

    Attributes:
        monitoring: Shows the service to Prometheus while it is entered.
    """

    def __init__(self, config: AggregatorConfig, state: StateFolder, *, cuts: int = 0) -> None:
        self._config = config
        self._state = state
        self._topics = Topics(config.federation)
        self._stopping = threading.Event()
        self._session = secrets.token_hex(8)
        self._version = _software_version()
        self._published = Published(config, state)
        self._averaging = Averaging(config, state, self._published, works=self._works)
        self._broker_log = broker_log.BrokerLog()
        self._coordinator = self._make_coordinator()
        self._has_begun = False
        self.monitoring = Monitoring(config.metrics)
        self._fence = Fence(
            run=state.run.run,
            epoch=state.run.epoch,
            session=self._session,
            software=self._version,
            version=state.snapshot.version,
            sha256=self._published.facts.sha256,
        )
        self._seals = load_seals(
            config.signing,
            broker=config.broker,
            topics=self._topics,
            name=config.client_id,
            aggregator=config.client_id,
        )
        self._link = Link(
            config.broker,
            client_id=config.client_id,
            subscriptions=self._subscriptions(),
            will=self._status(ServiceState.LOST, "the connection ended without goodbye"),
            cuts=cuts,
            # Another aggregator may have led meanwhile: what was said before is said again only
            # where this one leads.
            repeats_by_itself=False,
        )
        self._notifier = Notifier()
        self._heartbeat = Heartbeat(self._notifier, is_turning=self._link.is_turning)
        self._outage = Outage(time.monotonic())
        self._gate = Gate(
            self._link,
            self._fence,
            topics=self._topics,
            mqtt_version=config.broker.mqtt_version,
            seals=self._seals,
        )

    def _make_coordinator(self) -> Coordinator:
        state = self._state
        return Coordinator(
            self._config,
            RunFacts(
                run=state.run.run,
                epoch=state.store.run.epoch,
                session=self._session,
                base_model=state.adapter.base_model,
                base_digest=state.adapter.base_digest,
                layout=state.adapter.layout,
            ),
            adapter=self._published.facts,
            snapshot=state.snapshot,
            version=self._version,
        )

    def stop(self) -> None:
        """End `serve` soon; may be called from a signal handler or another thread."""
        self._stopping.set()

    def serve(self) -> None:
        """Connect, and do the run's work until it is stopped or finished.

        Raises:
            LinkError: The broker is not reached at the start, or refuses this process.
            StoreUnavailable: The disk does not do its work.
            FencedOff: Another aggregator leads.
            EpochUsed: To be opened and served again, unless it was told to stop.
        """
        logger.info(
            "run=%s epoch=%d version=%d rounds=%d",
            self._state.run.run,
            self._state.run.epoch,
            self._state.snapshot.version,
            self._config.rounds,
        )
        farewell = self._status(ServiceState.FAILED, "stopped by an error")
        word: Publication | None = None
        self._link.open()
        try:
            self._notifier.ready()
            if self._notifier.is_supervised:
                # A supervisor could only start it again to wait for the same broker.
                faulthandler.enable()  # the watchdog's SIGABRT then shows where each thread hangs
            else:
                self._link.wait_connected(self._config.broker.connect_timeout_s)
            while not self._stopping.is_set() and not self._may_exit():
                self._tell(time.monotonic())
                self._process(self._gate.take_events(self._wakeup()))
            self._notifier.stopping()
            finished = self._coordinator.state is State.FINISHED
            # The run's end is what matters to those who read it; the reason says who is left.
            state = ServiceState.FINISHED if finished else ServiceState.OFFLINE
            farewell = self._status(state, "the process has ended")
        except EpochUsed:
            farewell = self._status(ServiceState.OFFLINE, "starts anew with a higher epoch")
            if not self._stopping.is_set():
                raise
        except FencedOff as fenced:
            word = fenced.word
            raise
        finally:
            # Who does not lead leaves the word of the one that does in its place.
            self._link.close(farewell=word or (farewell if self._fence.leads else None))

    def _tell(self, now: float) -> None:
        """Let the supervisor know that the loop has come around, and what the service does."""
        self._heartbeat.beat(now)
        outage = self._outage.words(now)
        words = outage or self._words()
        self.monitoring.turned(
            now,
            leads=self._fence.leads,
            is_connected=not outage,
            is_linked=self._link.is_turning(now),
            words=words,
        )
        if self._notifier.is_supervised:
            self._notifier.status(words)

    def _words(self) -> str:
        if not self._fence.leads:
            return "waiting to see whether another aggregator leads"
        version = self._coordinator.adapter.version
        match self._coordinator.state:
            case State.TRAINING:
                return f"round {version + 1} of {self._config.rounds}"
            case State.EVALUATING:
                return f"evaluating adapter version {version}"
            case State.FINISHED:
                return f"finished with adapter version {version}"

    def _may_exit(self) -> bool:
        finished = self._coordinator.state is State.FINISHED
        return finished and self._config.exit_when_finished and self._gate.has_told

    def _wakeup(self) -> float | None:
        may_work = self._fence.leads or self._fence.was_away
        return self._coordinator.next_wakeup() if may_work else None

    def _process(self, events: list[LinkEvent]) -> None:
        now = time.monotonic()
        outputs: list[Effect] = []
        deliveries: list[Delivery] = []
        for event in events:
            match event:
                case Delivery():
                    outputs += self._deliver(event, now=now)
                    deliveries.append(event)
                case LinkUp():
                    self._outage.connected()
                    outputs += self._fence.connected(now)
                case LinkDown():
                    self._outage.disconnected(now)
                    self._fence.disconnected()
                    self._gate.disconnected()
                    self._coordinator.disconnected()
                case LinkRefused(error):
                    raise error
        outputs += self._fence.tick(now)
        if self._has_begun and (self._fence.leads or self._fence.was_away):
            outputs += self._coordinator.tick(now)
        self._execute(outputs)
        reach("aggregator-journal-answered")
        for delivery in deliveries:
            self._link.acknowledge(delivery)

    def _subscriptions(self) -> tuple[str, ...]:
        filters = self._topics.aggregator_filters()
        return (*filters, *broker_log.FILTERS) if self._config.broker_log else filters

    def _deliver(self, delivery: Delivery, *, now: float) -> list[Effect]:
        if delivery.topic.startswith(broker_log.ROOT):
            return [*self._read_broker_log(delivery.payload, now=now)]
        overheard = self._gate.overhear(delivery, now=now)
        if overheard is not None:
            return [*overheard]
        if self._fence.leads and self._has_begun:
            return [*self._take(delivery, now=now, fresh=not delivery.retain)]
        self._gate.hold(delivery)
        return []

    def _read_broker_log(self, line: bytes, *, now: float) -> list[Output]:
        text = self._broker_log.receive(line)
        if text is None or not (self._fence.leads and self._has_begun):
            return []
        return self._coordinator.login_refused(text, now=now)

    def _take(self, delivery: Delivery, *, now: float, fresh: bool) -> list[Output]:
        inbound = read(
            self._topics,
            delivery.topic,
            delivery.payload,
            qos=delivery.qos,
            mqtt_version=self._config.broker.mqtt_version,
            meter=lambda client_id, size: self._coordinator.meter(client_id, size, now=now),
            unseal=self._seals.unseal,
            fresh=fresh,
        )
        self.monitoring.received(inbound)
        match inbound:
            case None:
                return []
            case Unreadable():
                return self._coordinator.unreadable(inbound, now=now)
            case _:
                return self._coordinator.receive(inbound, now=now)

    def _lead(self, now: float) -> list[Output]:
        """Go on, or begin, with all that stands and what has come in the meantime."""
        self._link.repeat()
        outputs: list[Output] = []
        if not self._has_begun:
            self._has_begun = True
            outputs += self._coordinator.start(now)
        self._gate.has_told = True
        outputs += self._coordinator.connected(now)
        for delivery in self._gate.release():
            outputs += self._take(delivery, now=now, fresh=False)
        return outputs

    def _execute(self, outputs: list[Effect]) -> None:
        """Do all of it in order; within a stretch, what is to be durable comes first."""
        while outputs:
            ends = [at for at, output in enumerate(outputs) if isinstance(output, _BARRIERS)]
            end = ends[0] if ends else len(outputs)
            stretch, barrier, rest = outputs[:end], outputs[end : end + 1], outputs[end + 1 :]
            self.monitoring.decided([*stretch, *barrier])
            rest = [*rest, *self._journal(stretch)]
            for output in stretch:
                self._emit(output)
            outputs = [*(self._pass_barrier(barrier[0]) if barrier else []), *rest]

    def _journal(self, outputs: Sequence[Effect]) -> list[Output]:
        """Write what is to be durable in one transaction, and return what follows from it."""
        entries: list[JournalEntry] = [
            output for output in outputs if isinstance(output, _JOURNALED)
        ]
        records = [entry for entry in entries if isinstance(entry, SaveRound)]
        entries = [entry for entry in entries if not isinstance(entry, SaveRound)] + records[-1:]
        if not entries:
            return []
        reach("aggregator-journal-before")
        self._state.store.write(entries)
        reach("aggregator-journal-committed")
        stored: dict[str, set[int]] = {}
        for entry in entries:
            if isinstance(entry, JournalSegment):
                stored.setdefault(entry.uid, set()).add(entry.index)
        return self._coordinator.stored(stored, now=time.monotonic())

    def _pass_barrier(self, output: Effect) -> Sequence[Effect]:
        match output:
            case RaiseEpoch() | Lead() | Answer() | Restate() | Yield():
                return self._obey(output)
            case Freeze():
                reach("aggregator-freeze-before")
                self._state.store.freeze(output)
                reach("aggregator-frozen")
            case Aggregate():
                result = self._averaging.aggregate(output)
                return self._coordinator.aggregated(result, now=time.monotonic())
            case Reopen():
                self._state.store.reopen(output)
            case Commit():
                noticed = self._gate.look_around(time.monotonic())
                for verdict in noticed:
                    if isinstance(verdict, RaiseEpoch | Yield):
                        self._obey(verdict)
                self._commit(output)
                return [*noticed]
            case Finish(version):
                self._state.store.finish(version)
        return []

    def _obey(self, output: FenceOutput) -> list[Output]:
        """Do what the fence decided."""
        now = time.monotonic()
        match output:
            case RaiseEpoch(epoch):
                self._state.store.raise_epoch(epoch - 1)  # each start adds one
                raise EpochUsed(self._link.cuts)
            case Lead():
                return self._lead(now)
            case Answer():
                return self._coordinator.status()
            case Restate():
                return self._coordinator.connected(now)
            case Yield(text, word):
                topic = self._topics.topic(CoordStatus())
                payload = self._seals.seal(topic, encode(topic, word))
                raise FencedOff(text, Publication(topic, payload))
        return []

    def _works(self) -> None:
        """Let it be seen that a long computation makes progress."""
        now = time.monotonic()
        self._heartbeat.beat(now)
        self.monitoring.works(now)

    def _commit(self, commit: Commit) -> None:
        facts = self._averaging.commit(commit)
        self._fence.made(facts.version, facts.sha256)
        reach("aggregator-announcing")

    def _emit(self, output: Effect) -> None:
        match output:
            case Claim():
                self._gate.claim(output)
            case Publish(address, message, retain):
                topic = self._topics.topic(address)
                self._publish(topic, encode(topic, message), retain=retain)
            case SendAdapter():
                self._send_adapter(output)
            case ClearAdapter(version, segments, delta):
                self._clear(version, segments, delta=delta)

    def _clear(self, version: int, segments: int, *, delta: bool) -> None:
        self._publish(self._topics.topic(ModelManifest(version, delta)), b"", retain=True)
        for index in range(segments):
            topic = self._topics.topic(ModelSegment(version, index, delta))
            self._publish(topic, b"", retain=True)

    def _send_adapter(self, output: SendAdapter) -> None:
        version, delta = output.version, output.delta
        try:
            frames = self._published.frames(version, delta=delta)
        except BadAdapter as error:
            logger.error("not published: %s", error)  # noqa: TRY400 - one clear line
            return  # devices go another way
        if frames is None:
            return
        retain = delta or version == self._published.facts.version
        topic = self._topics.topic(ModelManifest(version, delta))
        self._publish(topic, frames.manifest, retain=retain)
        reach("aggregator-adapter-sent")
        wanted = range(len(frames.bodies)) if output.indices is None else sorted(output.indices)
        for index in wanted:
            topic = self._topics.topic(ModelSegment(version, index, delta))
            self._publish(topic, frames.segment(index), retain=retain)
            reach("aggregator-adapter-sent")
        reach("aggregator-announced")

    def _publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        size = self._gate.publish(topic, payload, retain=retain)
        if size and topic.startswith(f"{self._topics.bulk}/"):
            self._coordinator.sent(size)
            self.monitoring.sent(size)

    def _status(self, state: ServiceState, reason: str = "") -> Publication:
        topic = self._topics.topic(CoordStatus())
        run = self._state.store.run
        # No version: a last will may come late, or from one that has announced nothing.
        status = ServiceStatus(
            state, self._session, self._version, reason, time.time(), run.run, run.epoch
        )
        payload = self._seals.seal(topic, control.encode(status))
        return Publication(topic, payload, retain=True)


@contextlib.contextmanager
def _signals(service: Service) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the service; outside of the main thread Python has none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: service.stop()) for number in wanted]
    try:
        yield
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


def _software_version() -> str:
    try:
        return importlib.metadata.version("fedfstq")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _failed(error: Exception, code: ExitCode) -> int:
    logger.error("%s", error)
    return code

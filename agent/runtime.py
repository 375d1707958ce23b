"""The agent's process: one link, one trainer, one queue, one loop.

Threads only put what happened into the queue; everything is decided and done on the loop's own
thread. No torch here: this process is always up, and small.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import queue
import random
import secrets
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from agent.adapter_store import AdapterStore
from agent.commands import Commands
from agent.conditions import Conditions
from agent.config import AgentConfig
from agent.database import DatabaseError
from agent.deliveries import Deliveries
from agent.eligibility import Eligibility
from agent.job import JobPolicy
from agent.outbox import Outbox
from agent.outputs import Output, Remembered
from agent.pauses import Pauses
from agent.performer import Performer
from agent.session import Session
from agent.tasks import EvalResult, TaskFailed, TaskProgress, TrainerHello, TrainResult
from agent.trainer_client import (
    TRAINER_COMMAND,
    FromTrainer,
    TrainerClient,
    TrainerEvent,
    TrainerGone,
    TrainerUnable,
    TrainerUnusable,
)
from agent.trainer_greeting import GreetingFile
from agent.trainer_on_demand import TrainerOnDemand
from transport import control
from transport.control import DeviceState, DeviceStatus
from transport.errors import BadLinkConfig, BrokerUnreachable, LinkError
from transport.exit_codes import ExitCode
from transport.link import Delivery, Link, LinkDown, LinkEvent, LinkRefused, LinkUp, Publication
from transport.notify import Heartbeat, Notifier, Outage
from transport.signing import load_seals
from transport.topics import DeviceTopic, Topics
from transport.transfer import TransferPolicy

log = logging.getLogger(__name__)

# [s] How often the loop looks at its threads when nothing else happens.
_WATCH_S = 5.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True)
class _Stop:
    """A signal asked for the end."""

    number: int


_Event: TypeAlias = LinkEvent | TrainerEvent | _Stop


class _Busy(Exception):
    """Another agent uses the state folder."""


def run(
    config: AgentConfig,
    *,
    trainer_command: Sequence[str] = TRAINER_COMMAND,
    root: Path = Path("/"),
) -> int:
    """Take part in a federation until a signal, and return the exit code.

    Args:
        config: This device's configuration.
        trainer_command: What starts the trainer where it is a child.
        root: Where the board's own files are.
    """
    logging.basicConfig(level=config.log_level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
    try:
        config.state_dir.mkdir(parents=True, exist_ok=True)
        events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        # Signals are taken until everything is closed: a second Ctrl-C is no reason to break off.
        with _only_agent(config.state_dir), _signals(events.put), ExitStack() as stack:
            agent = _Agent(config, events, stack, trainer_command=trainer_command, root=root)
            return agent.run()
    except (BadLinkConfig, DatabaseError) as error:
        return _end(error, ExitCode.CONFIG)
    except BrokerUnreachable as error:
        return _end(error, ExitCode.UNREACHABLE)
    except LinkError:
        return ExitCode.REFUSED  # The link has said why.
    except _Busy as error:
        return _end(error, ExitCode.TRY_AGAIN)
    except (OSError, sqlite3.Error) as error:
        log.error("the state folder %s cannot be used: %s", config.state_dir, error)  # noqa: TRY400 - one clear line
        return ExitCode.TRY_AGAIN


class _Agent:
    """Everything that one agent process holds, and its loop."""

    def __init__(
        self,
        config: AgentConfig,
        events: queue.SimpleQueue[_Event],
        stack: ExitStack,
        *,
        trainer_command: Sequence[str],
        root: Path,
    ) -> None:
        self._events = events
        self._config = config
        self._stack = stack
        self._trainer_command = trainer_command
        self._rng = random.Random()
        self._boot = secrets.token_hex(8)
        self._topics = Topics(config.federation)
        self._trainer: TrainerClient | TrainerOnDemand | None = None
        self._greeting = GreetingFile(config)
        self._model = config.model
        jobs = JobPolicy()
        outbox = Outbox(config.state_dir, client_id=config.client_id)
        stack.callback(outbox.close)
        # Before the link's own end is put on the stack: the farewell does not wait for a trainer.
        stack.callback(self._close_trainer)
        adapters = AdapterStore(config.state_dir / "adapters", kept=jobs.adapters_kept)
        pauses = Pauses(Eligibility(config.eligibility), hold=outbox.hold)
        self._conditions = Conditions(config.eligibility, pauses=pauses, root=root)
        self._session = Session(
            config.client_id,
            remembered=Remembered(
                run=outbox.run,
                epoch=outbox.epoch,
                adapters=adapters.load(outbox.run),
                uploads=outbox.waiting(),
                settled=outbox.settled_rounds(),
                goodput_bps=outbox.goodput_bps,
                train_s=outbox.train_s,
            ),
            jobs=jobs,
            transfer=TransferPolicy(),
            rng=self._rng,
            uplink=config.uplink,
            pauses=pauses,
        )
        self._link = Link(
            config.broker,
            client_id=config.client_id,
            subscriptions=self._topics.agent_filters(config.client_id),
            will=self._last_word(DeviceState.LOST),
            receive_maximum=TransferPolicy().window_max,
            rng=self._rng,
            spread_s=config.reconnect_spread_s,
        )
        self._notifier = Notifier()
        self._heartbeat = Heartbeat(self._notifier, is_turning=self._link.is_turning)
        self._outage = Outage(time.monotonic())
        seals = load_seals(
            config.signing,
            broker=config.broker,
            topics=self._topics,
            name=config.client_id,
            aggregator=config.signing.aggregator,
        )
        self._deliveries = Deliveries(
            self._topics,
            client_id=config.client_id,
            session=self._session,
            commands=Commands(self._session, pauses=pauses, boot=self._boot),
            seals=seals,
            clock=_clock_s,
        )
        self._performer = Performer(
            config,
            boot=self._boot,
            topics=self._topics,
            link=self._link,
            outbox=outbox,
            adapters=adapters,
            session=self._session,
            give_task=lambda task: self._trainer.send(task) if self._trainer else None,
            end_trainer=lambda: self._trainer.kill() if self._trainer else None,
            seals=seals,
            root=root,
        )
        stack.callback(self._performer.close)

    def run(self) -> int:
        """Connect, and serve until something ends it."""
        if self._model is not None or self._config.trainer == "service":
            self._start_trainer()
        # Before its first status, so that nobody is asked who is about to decline.
        self._conditions.look(time.monotonic(), training=False)
        self._link.open()
        self._stack.callback(
            lambda: self._link.close(farewell=self._last_word(DeviceState.OFFLINE))
        )
        # A daemon: it ends with the process, blocked on a queue into which nothing comes any more.
        threading.Thread(target=self._forward_link, name="link-events", daemon=True).start()
        self._notifier.ready()
        if self._notifier.is_supervised:
            # A supervisor could only start it again to wait for the same broker.
            faulthandler.enable()  # the watchdog's SIGABRT then shows where each thread hangs
            return self._serve()
        code = self._wait_connected()
        return self._serve() if code is None else code

    def _wait_connected(self) -> int | None:
        """Return None once the link is up, or the exit code of what came first."""
        give_up_at = time.monotonic() + self._config.broker.connect_timeout_s
        while True:
            match self._next(give_up_at):
                case LinkUp() as event:
                    self._handle(event)
                    return None
                case None if time.monotonic() >= give_up_at:
                    self._link.wait_connected(0.0)
                case None:
                    pass
                case event:
                    code = self._handle(event)
                    if code is not None:
                        return code

    def _serve(self) -> int:
        telemetry_at = time.monotonic()
        while True:
            now = time.monotonic()
            self._tell(now)
            sample_at = self._performer.measure(now)
            if now >= telemetry_at:
                telemetry_at = now + self._config.telemetry_interval_s
                if self._link.connected:
                    self._performer.publish_telemetry()
            wakeup = self._session.next_wakeup()
            due_at = min(telemetry_at, sample_at, self._conditions.due_at)
            event = self._next(due_at if wakeup is None else min(due_at, wakeup))
            code = self._handle(event) if event else None
            if code is not None:
                return code
            if not self._link.alive and self._events.empty():
                log.error("%s: the link's thread has ended", self._config.client_id)
                return ExitCode.TRY_AGAIN
            self._conditions.look(time.monotonic(), training=self._session.is_working)
            self._perform(self._session.tick)

    def _next(self, until: float) -> _Event | None:
        most_s = min(_WATCH_S, self._heartbeat.interval_s or _WATCH_S)
        timeout_s = min(max(until - time.monotonic(), 0.0), most_s)
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _tell(self, now: float) -> None:
        """Let the supervisor know that the loop has come around, and what the device does."""
        self._heartbeat.beat(now)
        if self._notifier.is_supervised:
            outage = self._outage.words(now)
            words = self._session.standing.words
            self._notifier.status(f"{outage}; {words}" if outage else words)

    def _handle(self, event: _Event) -> int | None:
        """Act on one event; return an exit code where it ends the agent."""
        match event:
            case Delivery():
                now = time.monotonic()
                self._performer.perform(self._deliveries.take(event, now=now), now=now)
                # Only now, since what it asked for is durable.
                self._link.acknowledge(event)
                self._follow_model()
            case LinkUp():
                self._outage.connected()
                self._perform(self._session.connected)
            case LinkDown():
                self._outage.disconnected(time.monotonic())
                self._perform(self._session.disconnected)
            case LinkRefused():
                return ExitCode.REFUSED  # The link has said why.
            case FromTrainer():
                self._from_trainer(event)
            case TrainerGone():
                self._conditions.trainer_pid = None
                self._perform(self._session.trainer_gone)
            case TrainerUnable(reason, text):
                now = time.monotonic()
                outputs = self._session.trainer_unable(reason, text, now=now)
                self._performer.perform(outputs, now=now)
            case TrainerUnusable():
                log.error("%s: the trainer cannot work, see its line above", self._config.client_id)
                return ExitCode.CONFIG
            case _Stop(number):
                self._notifier.stopping()
                log.info("%s: stopped by %s", self._config.client_id, signal.Signals(number).name)
                return ExitCode.OK
        return None

    def _from_trainer(self, event: FromTrainer) -> None:
        now, session = time.monotonic(), self._session
        outputs: list[Output]
        match event.message:
            case TrainerHello() as hello:
                self._conditions.trainer_pid = hello.pid
                if self._config.trainer == "service":
                    self._greeting.save(hello)
                outputs = session.trainer_ready(hello, now=now)
            case TaskProgress() as progress:
                outputs = session.task_progress(progress, now=now)
            case TrainResult() as result:
                outputs = session.trained(result, now=now)
            case EvalResult() as result:
                outputs = session.evaluated(result, now=now)
            case TaskFailed() as failure:
                outputs = session.task_failed(failure, now=now)
            case other:
                log.warning("the trainer sent a %s", type(other).__name__)
                outputs = []
        self._performer.perform(outputs, now=now)

    def _perform(self, step: Callable[[float], list[Output]]) -> None:
        now = time.monotonic()
        self._performer.perform(step(now), now=now)

    def _follow_model(self) -> None:
        """Start a trainer with the run's own base model where none is configured."""
        wanted = self._session.base_model
        if self._config.model or self._config.trainer == "service" or wanted in {None, self._model}:
            return
        self._close_trainer()
        self._model = wanted
        self._start_trainer()

    def _start_trainer(self) -> None:
        if self._config.trainer == "service":
            self._await_tasks()
            return
        self._trainer = TrainerClient(
            self._config.model_copy(update={"model": self._model}),
            deliver=self._events.put,
            rng=self._rng,
            command=self._trainer_command,
        )
        self._trainer.start()

    def _await_tasks(self) -> None:
        """Leave the trainer to systemd; what it said last stands until it says something else."""
        hello = self._greeting.load()
        if hello:
            self._perform(lambda now: self._session.trainer_ready(hello, now=now))
        self._trainer = TrainerOnDemand(
            self._config, deliver=self._events.put, rng=self._rng, greet=hello is None
        )
        self._trainer.start()

    def _close_trainer(self) -> None:
        if self._trainer:
            self._trainer.close()

    def _forward_link(self) -> None:
        while True:
            self._events.put(self._link.events.get())

    def _last_word(self, state: DeviceState) -> Publication:
        topic = self._topics.topic(DeviceTopic(self._config.client_id, "status"))
        status = DeviceStatus(state, self._boot, ts=time.time())
        return Publication(topic, control.encode(status), retain=True)


def _clock_s() -> float:
    """Return seconds of a clock that counts on while the machine sleeps, where it has one."""
    return round(time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)), 3)


@contextmanager
def _only_agent(state_dir: Path) -> Iterator[None]:
    """Hold the state folder's lock, which the kernel frees however this process ends."""
    descriptor = os.open(state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _Busy(f"another agent uses {state_dir}: give each its own state_dir") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _signals(put: Callable[[_Stop], None]) -> Iterator[None]:
    def stop(number: int, _frame: FrameType | None) -> None:
        put(_Stop(number))

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may take signals.
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(error: Exception, code: ExitCode) -> int:
    log.error("%s", error)
    return code

"""A whole federation on one virtual clock: puts the models together, and runs them to the end."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from agent.tasks import TrainerHello
from codec.layout import Layout
from tools.simulate import payloads
from tools.simulate.broker import Broker, Entry, Image
from tools.simulate.clock import Clock
from tools.simulate.device import Device
from tools.simulate.disk import Disk
from tools.simulate.faults import SAME_NAME, Fault, Kind
from tools.simulate.hostile import Hostile
from tools.simulate.journal import Journal
from tools.simulate.line import Line, Network
from tools.simulate.outbox import Outbox
from tools.simulate.reading import encode
from tools.simulate.scenario import COORD, Scenario
from tools.simulate.service import Aggregator
from tools.simulate.truth import Truth, Violation, check_resent
from transport import control
from transport.control import ModelStatus
from transport.errors import Loss
from transport.topics import Alert, RoundLast, RoundNow

LAYOUT = Layout.from_shapes({"a": (4, 4)})
# [s] A mosquitto saves its database so often.
AUTOSAVE_S = 60.0
# [s] Without a new version for so long after the last fault, nothing moves any more.
PATIENCE_S = 20_000.0
# [events] How often the end and the progress are looked at.
LOOK_EVERY = 8
YEAR_S = 365 * 86_400.0
# What only people read: it need not travel.
_FOR_PEOPLE = (RoundNow, RoundLast, Alert)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one simulation.

    Attributes:
        seed: Of the scenario.
        rounds: That were committed.
        virtual_s: How long it would have taken.
        events: Calls of the clock.
        trace: Digest of every delivery and every version, the same for the same seed.
        tally: What happened how often.
        violation: The promise that was broken; empty where all were kept.
        text: What happened then.
    """

    seed: int
    rounds: int
    virtual_s: float
    events: int
    trace: str
    tally: dict[str, int]
    violation: str = ""
    text: str = ""


class World:
    """One federation.

    Attributes:
        scenario: What is simulated.
        config: The run's configuration.
        clock: The virtual clock.
        broker: The broker.
        truth: What really happened.
        devices: Client id → device, those that keep to the protocol.
        aggregators: Client id and number → aggregator; the first is the run's own.
        lines: All links that exist.
        crashes: Whether a process may still die at a point.
        jumps: Whether clocks mean nothing.
        alerts: Code → the last notice, as operators see it.
    """

    batch_s = 0.01

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.config = scenario.config
        self.layout = LAYOUT
        self.clock = Clock()
        self.broker = Broker(self.clock)
        self.broker.queue_limit = scenario.queue_limit
        self.truth = Truth(
            codec=self.config.codec,
            quorum=self.config.quorum,
            max_staleness=self.config.max_staleness,
        )
        self.broker.told_model = self._told_model
        self.lines: dict[Line, None] = {}
        self.jumps = scenario.jumps
        self.alerts: dict[str, Any] = {}
        self.hello = TrainerHello(
            pid=1,
            torch="",
            cuda="",
            examples=1,
            heldout_examples=1,
            base_digest=payloads.BASE_DIGEST.hex(),
        )
        self._rng = random.Random(f"world/{scenario.seed}")
        self._trace = zlib.crc32(str(scenario.seed).encode())
        self._progress_at = 0.0
        self._fatal: dict[tuple[str, str], list[Fault]] = {}
        self.crashes = False
        self._healed_at = 0.0
        self._images: list[Image] = []
        self.devices: dict[str, Device] = {}
        self.clones: list[Device] = []
        self._make_devices()
        self.aggregators = {COORD: self._make_aggregator()}
        self.hostile = [
            Hostile(self, client_id=name, network=self._network(name), rng=self._fork(name))
            for name in sorted(scenario.hostile)
        ]
        self._plan()

    # The run --------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end, and return what came of it."""
        events = 0
        violation, text = "", ""
        try:
            self._start()
            while not self._is_over():
                for _ in range(LOOK_EVERY):
                    self._step()
                events += LOOK_EVERY
                self._check_progress()
            self._end()
        except Violation as found:
            violation, text = found.name, f"at {self.clock.now:.3f} s: {found}"
        return Outcome(
            seed=self.scenario.seed,
            rounds=self.truth.rounds,
            virtual_s=round(self.clock.now, 3),
            events=events,
            trace=f"{self._trace:08x}",
            tally=dict(sorted(self.truth.tally.items())),
            violation=violation,
            text=text,
        )

    @property
    def aggregator(self) -> Aggregator:
        """The aggregator that goes on: the run's own, until it gives way to another."""
        left = [one for one in self.aggregators.values() if not one.gave_way]
        return left[0] if left else self.aggregators[COORD]

    def _step(self) -> None:
        if not self.clock.step():
            raise Violation("timer", "nothing is scheduled, and the run is not finished")

    def _start(self) -> None:
        self.aggregator.start()
        for number, device in enumerate(self.devices.values()):
            self.clock.after(0.01 * number, device.start)
        for hostile in self.hostile:
            hostile.start()

    def _is_over(self) -> bool:
        if all(one.gave_way for one in self.aggregators.values()):
            raise Violation("fenced", "nobody leads: each aggregator gave way to another")
        if not self.aggregator.finished or self.clock.now < self._healed_at:
            return False
        return not any(
            device.disk.outbox.rows
            for device in self.devices.values()
            if not device.gone and not device.copied
        )

    def _check_progress(self) -> None:
        since = max(self._progress_at, self._healed_at)
        if self.clock.now > since + PATIENCE_S:
            version = self.aggregator.journal.version
            waiting = {name: len(device.disk.outbox.rows) for name, device in self.devices.items()}
            text = f"version {version} for {PATIENCE_S:.0f} s; updates that wait: {waiting}"
            raise Violation("stuck", text)

    def _end(self) -> None:
        truth = self.truth
        devices = [*self.devices.values(), *self.clones]
        if not self.clones:
            truth.balance(device.disk.outbox for device in devices)
        for device in devices:
            truth.tally["resent"] += sum(device.resent.values())
            truth.tally["cuts"] += device.cuts
            if self._only_cuts():
                for uid, resent in device.resent.items():
                    check_resent(resent, cuts=device.cuts, describe=lambda uid=uid: uid)  # type: ignore[misc]  # mypy takes no default in a lambda

    def _only_cuts(self) -> bool:
        """Whether nothing but cut links has made anybody send anything again."""
        kinds = {fault.kind for fault in self.scenario.faults}
        quiet = all(
            not network.loss and not network.reorder and network.bytes_per_s is None
            for network in self.scenario.networks.values()
        )
        links = all(
            fault.target != COORD for fault in self.scenario.faults if fault.kind is Kind.CUT
        )
        return kinds <= {Kind.CUT, Kind.AGENT_CRASH} and quiet and links and not self.jumps

    # What the models ask --------------------------------------------------------------------------

    def packed(self, address: Any, message: Any) -> Any:
        """Return a message as it travels: its real bytes where the scenario says so."""
        if not self.scenario.wire or message is None or isinstance(address, _FOR_PEOPLE):
            return message
        return encode(message)

    def note(self, name: str, entry: Entry) -> None:
        """Write a delivery into the trace."""
        line = f"{self.clock.now:.6f}{name}{entry.address.__class__.__name__}"
        self._trace = zlib.crc32(line.encode(), self._trace)

    def alert(self, code: str, notice: Any) -> None:
        """Note what operators are told."""
        self.alerts[code] = notice
        if notice is not None:
            self.truth.tally[f"alert {code}"] += 1

    def fenced(self, text: str) -> None:
        """Note that an aggregator has given way, which it may only do to another."""
        self.truth.tally["fenced off"] += 1
        if len(self.aggregators) == 1:
            raise Violation("fenced", f"the only aggregator gave way: {text}")

    def _told_model(self, message: Any) -> None:
        if isinstance(message, bytes):
            message = control.decode(ModelStatus, message)
        self.truth.heard(message.run, message.version, message.sha256)

    def progressed(self) -> None:
        """Note that there is a new version."""
        self._progress_at = self.clock.now

    def wall_clock(self) -> float:
        """Return a device's wall clock, which may be years off."""
        if not self.jumps:
            return self.clock.now
        return self.clock.now + self._rng.choice((-YEAR_S, 0.0, YEAR_S))

    def restart(self, process: Aggregator | Device) -> None:
        """Start a process again some time after it died."""
        self.truth.tally[f"crash {process.name[:1]}"] += 1
        self.clock.after(self._rng.uniform(0.5, 30.0), process.start)

    def is_fatal(self, name: str, point: str) -> bool:
        """Say whether a process dies at this reach of a point."""
        faults = self._fatal.get((name, point))
        if not faults:
            return False
        now = self.clock.now
        for number, fault in enumerate(faults):
            if now >= fault.at:
                if fault.reach > 1:
                    faults[number] = replace(fault, reach=fault.reach - 1)
                    return False
                del faults[number]
                self.truth.tally[f"died at {point}"] += 1
                self._trace = zlib.crc32(f"{now:.6f}{name}{point}".encode(), self._trace)
                return True
        return False

    # Making it ------------------------------------------------------------------------------------

    def _fork(self, name: str) -> random.Random:
        return random.Random(f"{self.scenario.seed}/{name}")

    def _network(self, name: str) -> Network:
        return copy(self.scenario.networks.get(name) or Network())

    def _make_devices(self) -> None:
        for name, traits in self.scenario.traits.items():
            if name not in self.scenario.hostile:
                self.devices[name] = Device(
                    self,
                    client_id=name,
                    disk=Disk(Outbox(name, self.config.codec)),
                    traits=traits,
                    network=self._network(name),
                    rng=self._fork(name),
                )

    def _make_aggregator(self) -> Aggregator:
        run = hashlib.sha256(f"run/{self.scenario.seed}".encode()).hexdigest()[:32]
        return Aggregator(
            self,
            name=COORD,
            client_id=COORD,
            config=self.config,
            journal=Journal(run),
            contents={0: hashlib.sha256(b"initial").digest()},
            network=self._network(COORD),
            rng=self._fork(COORD),
        )

    # Faults ---------------------------------------------------------------------------------------

    def _plan(self) -> None:
        for fault in self.scenario.faults:
            self._healed_at = max(self._healed_at, fault.at + fault.duration_s)
            if fault.point and fault.point != SAME_NAME:
                self._fatal.setdefault((fault.target, fault.point), []).append(fault)
                continue
            if fault.kind is Kind.BROKER_KILL:
                # What is lost is what came since the database was saved last.
                self.clock.at(fault.at - self._rng.uniform(0.0, AUTOSAVE_S), self._save)
            elif fault.kind is Kind.BROKER_RESTORE:
                self.clock.at(fault.at - self._rng.uniform(60.0, 600.0), self._save)
            self.clock.at(fault.at, self._inject, fault)
        self.crashes = bool(self._fatal)
        if self.crashes:
            self.clock.at(self._healed_at, self._heal)

    def _heal(self) -> None:
        self.crashes = False

    def _save(self) -> None:
        if self.broker.up:
            self._images.append(self.broker.image())

    def _inject(self, fault: Fault) -> None:
        self.truth.tally[f"fault {fault.kind.value}"] += 1
        match fault.kind:
            case Kind.BROKER_KILL | Kind.BROKER_WIPE | Kind.BROKER_RESTORE:
                self._kill_broker(fault)
            case Kind.SESSION_EXPIRED:
                self._expire(fault)
            case Kind.AGENT_CRASH | Kind.AGGREGATOR_CRASH:
                process = self._process(fault.target)
                if process is not None and process.running:
                    process.stop(goodbye=bool(self._rng.getrandbits(1)))
                    self.clock.after(fault.duration_s, process.start)
            case Kind.TRAINER_CRASH:
                self.devices[fault.target].crash_trainer()
            case Kind.CLOCK:
                self.devices[fault.target].suspend(fault.duration_s)
            case Kind.FLAPPING:
                self._flap(fault, until=self.clock.now + 10 * fault.duration_s)
            case Kind.CUT | Kind.BLACKOUT:
                self._break(fault)
            case Kind.TWO_AGGREGATORS:
                self._start_rival(same_name=fault.point == SAME_NAME)
            case Kind.CLONE:
                self._clone(self.devices[fault.target])
            case Kind.PAUSE | Kind.HEAT:
                device = self.devices[fault.target]
                begin, end = (
                    (device.pause, device.resume)
                    if fault.kind is Kind.PAUSE
                    else (device.heat_up, device.cool_down)
                )
                begin()
                self.clock.after(fault.duration_s, end)

    def _process(self, name: str) -> Aggregator | Device | None:
        return self.aggregators.get(name) or self.devices.get(name)

    def _start_rival(self, *, same_name: bool) -> None:
        """Start a copy of the state folder elsewhere, while the first one may still run."""
        first = self.aggregators[COORD]
        rival = Aggregator(
            self,
            name="rival",
            client_id=COORD if same_name else "rival",
            config=self.config,
            journal=first.journal.copy(),
            contents=dict(first.contents),
            network=self._network("rival"),
            rng=self._fork("rival"),
        )
        self.aggregators["rival"] = rival
        self.truth.copied(COORD, to="rival")
        rival.start()

    def _clone(self, device: Device) -> None:
        """Start a copy of a device's disk on another board, with the same identity."""
        clone = Device(
            self,
            client_id=device.client_id,
            disk=Disk(device.disk.outbox.copy(), dict(device.disk.adapters)),
            traits=device.traits,
            network=self._network(device.client_id),
            rng=self._fork(f"clone of {device.client_id}"),
        )
        self.clones.append(clone)
        device.copied = True
        clone.start()

    def _break(self, fault: Fault) -> None:
        process = self._process(fault.target)
        if process is None or process.line is None:
            return
        if fault.kind is Kind.CUT:
            process.line.cut(noticed_by_broker_s=fault.duration_s)
        else:
            process.line.go_dark(fault.duration_s)

    def _flap(self, fault: Fault, *, until: float) -> None:
        """Let nothing pass for so many seconds, then everything for as many."""
        if self.clock.now >= until:
            return
        process = self._process(fault.target)
        if process is not None and process.line is not None:
            process.line.go_dark(fault.duration_s)
            process.line.cut(noticed_by_broker_s=fault.duration_s)
        self.clock.after(2 * fault.duration_s, self._flap_again, fault, until)

    def _flap_again(self, fault: Fault, until: float) -> None:
        self._flap(fault, until=until)

    def _kill_broker(self, fault: Fault) -> None:
        if not self.broker.up:
            return
        self.broker.kill()
        for line in list(self.lines):
            line.cut(cause=Loss.BROKER)
        image: Image | None = None
        if fault.kind is not Kind.BROKER_WIPE and self._images:
            image = self._images[-1] if fault.kind is Kind.BROKER_KILL else self._images[0]
        self.clock.after(fault.duration_s, self._start_broker, image)

    def _start_broker(self, image: Image | None) -> None:
        if not self.broker.up:
            self.broker.start(image)

    def _expire(self, fault: Fault) -> None:
        """Let a device be away for so long that the broker forgets it."""
        process = self._process(fault.target)
        if process is not None and process.line is not None:
            process.line.go_dark(1.0)
            process.line.cut()
            self.clock.after(0.5, self.broker.expire, fault.target)


def simulate(scenario: Scenario) -> Outcome:
    """Run one scenario to its end."""
    return World(scenario).run()


def total(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return the sum of the tallies."""
    tally: Counter[str] = Counter()
    for outcome in outcomes:
        tally.update(outcome.tally)
    return dict(sorted(tally.items()))

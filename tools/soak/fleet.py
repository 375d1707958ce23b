"""A whole federation of real processes: mosquitto, an aggregator, agents with synthetic trainers.

`Fleet` lays out a folder, starts and kills its processes, and waits for the run's end; what it left
on its disks is read by `tools.soak.evidence`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import yaml
from safetensors.numpy import save
from typing_extensions import Self

from agent.config import AgentConfig, DataConfig
from aggregator.config import AggregatorConfig
from aggregator.state_folder import open_state_folder
from codec.layout import Layout
from tools.soak import evidence
from tools.soak.outcome import Tell
from tools.soak.processes import Supervisor
from tools.soak.synthetic_trainer import BASE_DIGEST, Behaviour
from transport.broker import BrokerConfig
from transport.exit_codes import ExitCode

FEDERATION = "soak"
BROKER = "broker"
AGGREGATOR = "aggregator"
POLL_S = 0.1
# [s] So few agents need no more; the default is for thousands, and every wipe would cost it.
RECONNECT_SPREAD_S = 2.0

# What no restart mends, a traceback among it.
_FINAL = frozenset({ExitCode.FAILED, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.CONFIG})
_RANK = 8
_DATABASE = "mosquitto.db"
_MOSQUITTO_CONF = """\
listener {port} {host}
allow_anonymous true
persistence true
persistence_location {folder}/
autosave_interval 60
max_packet_size 262144
max_inflight_messages 64
max_queued_messages 20000
set_tcp_nodelay true
log_type error
log_type warning
log_type notice
"""

# (process name, its command) → the command that runs it elsewhere, as in a network namespace.
Launch: TypeAlias = Callable[[str, tuple[str, ...]], tuple[str, ...]]


class FleetStuck(Exception):
    """What was waited for has not come; the text says what stands instead."""


class NoMosquitto(Exception):
    """mosquitto is not installed."""


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What a fleet is.

    Attributes:
        agents: Devices, named device-1 and so on.
        rounds: Adapter versions to make.
        coordinates: Of the adapter, about.
        settings: Keys of the aggregator's configuration that are to be others than here.
        agent_settings: The same for every agent.
        behaviour: How every device behaves.
        behaviours: How single devices behave.
        broker_host: Where broker and services meet.
        launch: Puts processes where they are to run.
    """

    agents: int
    rounds: int
    coordinates: int = 4096
    settings: Mapping[str, Any] = field(default_factory=dict)
    agent_settings: Mapping[str, Any] = field(default_factory=dict)
    behaviour: Behaviour = field(default_factory=Behaviour)
    behaviours: Mapping[str, Behaviour] = field(default_factory=dict)
    broker_host: str = "127.0.0.1"
    launch: Launch = lambda _name, command: command

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices' names."""
        return tuple(f"device-{number}" for number in range(1, self.agents + 1))

    @property
    def layout(self) -> Layout:
        """The adapter's layout: pairs of LoRA matrices."""
        width = max(8, self.coordinates // (4 * _RANK))
        return Layout.from_shapes(
            {
                f"base_model.model.layers.{layer}.q.lora_{matrix}.weight": shape
                for layer in range(2)
                for matrix, shape in (("A", (_RANK, width)), ("B", (width, _RANK)))
            }
        )

    def behaviour_of(self, device: str) -> Behaviour:
        """Return how a device behaves."""
        return self.behaviours.get(device, self.behaviour)


class Fleet:
    """The processes of one federation in one folder; a context that leaves none of them behind.

    Args:
        folder: For everything; must not exist, or be empty.
        spec: What the fleet is.
        template: A state folder of an aggregator to begin with. Runs that begin with the same one
            have the same id, so that the same updates have the same uids.
    """

    def __init__(self, folder: Path, spec: FleetSpec, *, template: Path | None = None) -> None:
        self.folder = folder
        self.spec = spec
        self.port = _free_port(spec.broker_host)
        self.supervisor = Supervisor(folder / "logs")
        self.kills = 0
        for name in ("broker", "config", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if template is None:
            self._write_adapter()
        else:
            shutil.copytree(template, self.state(AGGREGATOR))
        self.config = self._write_aggregator()
        for device in spec.devices:
            self._write_agent(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.supervisor.stop()

    def state(self, name: str) -> Path:
        """Return the state folder of a service."""
        return self.folder / "state" / name

    def log(self, name: str) -> str:
        """Return what a process has written so far."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, *, environ: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Start broker, aggregator and agents; `environ` has variables for some of them by name."""
        self.start_broker()
        for name in (AGGREGATOR, *self.spec.devices):
            self.start_service(name, environ=(environ or {}).get(name))

    def start_service(self, name: str, *, environ: Mapping[str, str] | None = None) -> None:
        """Start the aggregator or an agent, or start it anew with this environment."""
        config = str(self.folder / "config" / name)
        command: tuple[str, ...]
        if name == AGGREGATOR:
            command = (sys.executable, "-m", "tools.cli", "aggregator", "--config", config)
        else:
            command = (sys.executable, "-m", "tools.soak.agent_process", config)
        self.supervisor.start(name, self.spec.launch(name, command), environ=environ)

    def kill(self, name: str, *, stays_dead: bool = False) -> None:
        """Kill a process with SIGKILL; it comes back by itself unless it is to stay dead."""
        self.kills += 1
        self.supervisor.kill(name, stays_dead=stays_dead)

    def watch(self) -> list[str]:
        """Start again what died; return the names of what has ended by itself."""
        return self.supervisor.watch()

    # The broker ---------------------------------------------------------------------------------

    def start_broker(self) -> None:
        """Start mosquitto, and return once it listens.

        Raises:
            NoMosquitto: It is not installed.
            FleetStuck: It does not listen.
        """
        daemon = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if daemon is None:
            raise NoMosquitto("mosquitto is not installed: apt install mosquitto")
        folder = self.folder / "broker"
        text = _MOSQUITTO_CONF.format(port=self.port, host=self.spec.broker_host, folder=folder)
        if os.geteuid() == 0:
            text += "user root\n"  # its own user could not write here
        file = folder / "mosquitto.conf"
        file.write_text(text, encoding="utf-8")
        command = self.spec.launch(BROKER, (daemon, "-c", str(file)))
        self.supervisor.start(BROKER, command)
        if self.spec.broker_host == "127.0.0.1":
            self.wait_for(self._listens, "the broker listens", timeout_s=10)

    def wipe_broker(self, *, database: bytes | None = None) -> None:
        """Kill the broker, take its database away or put an old one in place, and start it."""
        self.kill(BROKER, stays_dead=True)
        path = self.folder / "broker" / _DATABASE
        path.unlink(missing_ok=True)
        if database is not None:
            path.write_bytes(database)
        self.start_broker()

    def save_broker(self) -> bytes:
        """Have the broker write its database, and return it."""
        path = self.folder / "broker" / _DATABASE
        before = path.stat().st_mtime_ns if path.exists() else 0
        self.supervisor.children[BROKER].process.send_signal(signal.SIGUSR1)
        self.wait_for(
            lambda: path.exists() and path.stat().st_mtime_ns > before,
            "the broker saves its database",
            timeout_s=10,
        )
        return path.read_bytes()

    # Waiting ------------------------------------------------------------------------------------

    def wait_for(self, done: Callable[[], bool], what: str, *, timeout_s: float) -> float:
        """Poll until something is so, starting again what dies, and return the seconds it took.

        Raises:
            FleetStuck: It was not so in time.
        """
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > timeout_s:
                raise FleetStuck(f"after {timeout_s:.0f} s not: {what}; {self.describe()}")
            for name in self.watch():
                if self.supervisor.children[name].codes[-1] in _FINAL:
                    raise FleetStuck(f"{name} ended for good: {_last_line(self.log(name))}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def wait_finished(
        self, *, timeout_s: float, tell: Tell | None = None, step: Callable[[], None] | None = None
    ) -> float:
        """Wait until the run has ended and no agent waits for a receipt; return the seconds.

        Args:
            timeout_s: How long that may take.
            tell: Is told of each round.
            step: Called with every poll: what is to happen meanwhile.

        Raises:
            FleetStuck: It was not so in time.
        """
        told = 0

        def finished() -> bool:
            nonlocal told
            if step is not None:
                step()
            version = evidence.committed_version(self.state(AGGREGATOR))
            if tell is not None and version != told:
                told = version
                tell(f"round {version} of {self.spec.rounds}")
            if version < self.spec.rounds:
                return False
            waiting = (evidence.waiting_updates(self.state(name)) for name in self.spec.devices)
            return not any(waiting)

        return self.wait_for(finished, "the run has ended", timeout_s=timeout_s)

    def describe(self) -> str:
        """Return in one line how far the fleet is."""
        version = evidence.committed_version(self.state(AGGREGATOR))
        waiting = {
            name: count
            for name in self.spec.devices
            if (count := evidence.waiting_updates(self.state(name)))
        }
        dead = [name for name in self.supervisor.children if not self.supervisor.alive(name)]
        last = _last_line(self.log(AGGREGATOR))
        return f"version {version}, waiting {waiting}, dead {dead}, aggregator: {last}"

    def _listens(self) -> bool:
        try:
            with socket.create_connection((self.spec.broker_host, self.port), timeout=1.0):
                return True
        except OSError:
            return False

    # Its files ----------------------------------------------------------------------------------

    def _write_adapter(self) -> None:
        layout = self.spec.layout
        folder = self.folder / "adapter"
        folder.mkdir()
        flat = np.random.default_rng(7).normal(0, 0.1, layout.size).astype(np.float32)
        content = save(layout.unflatten(flat), metadata={"format": "pt"})
        (folder / "adapter_model.safetensors").write_bytes(content)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
        facts = {"base_model": "synthetic", "base_digest": BASE_DIGEST}
        (folder / "fedfstq.json").write_text(json.dumps(facts))

    def _write_aggregator(self) -> AggregatorConfig:
        values: dict[str, Any] = {
            "federation": FEDERATION,
            "broker": {"host": self.spec.broker_host, "port": self.port},
            "state_dir": str(self.state(AGGREGATOR)),
            "initial_adapter": str(self.folder / "adapter"),
            "rounds": self.spec.rounds,
            "goal": self.spec.agents,
            "quorum": self.spec.agents,
            "min_devices": self.spec.agents,
            "over_selection": 1.0,
            "deadline_s": 600.0,
            "answer_timeout_s": 60.0,
            "codec": "fstq-r",
            "update_bytes": 4096,
            "segment_bytes": 512,
            "downlink_codec": None,
            "step_by_arrivals": False,
            "server_momentum": 0.0,  # the sums that `evidence` makes again are plain averages
            "plan": {"eval_examples": 0},
            "keep_versions": 1_000_000,
            **self.spec.settings,
        }
        file = self.folder / "config" / AGGREGATOR
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return AggregatorConfig.model_validate(values)

    def _write_agent(self, device: str) -> None:
        state = self.state(device)
        state.mkdir(parents=True)
        self.spec.behaviour_of(device).write(state)
        config = AgentConfig(
            federation=FEDERATION,
            client_id=device,
            broker=BrokerConfig(host=self.spec.broker_host, port=self.port),
            state_dir=state,
            model="synthetic",
            data=DataConfig(train=state / "no-data"),
            reconnect_spread_s=RECONNECT_SPREAD_S,
        ).model_copy(update=dict(self.spec.agent_settings))
        (self.folder / "config" / device).write_text(config.model_dump_json(), encoding="utf-8")


def make_template(folder: Path, spec: FleetSpec) -> Path:
    """Begin a run without any process, and return the aggregator's state folder."""
    fleet = Fleet(folder, spec)
    with open_state_folder(fleet.config):
        pass
    return fleet.state(AGGREGATOR)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing was logged"])[-1]


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host if host == "127.0.0.1" else "0.0.0.0", 0))  # noqa: S104  # only asked for a number
        port: int = probe.getsockname()[1]
    return port

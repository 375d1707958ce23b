"""A fleet that really learns: twenty real agents with trainers, on the demo's model and text.

Two cases stand on it: lossy links and devices that drop out. What they compare is the held-out loss
of the last adapter over all devices' text, evaluated here, the same way for every run.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import Self

from tools.corpus import client_groups
from tools.demo.broker import mosquitto_daemon
from tools.demo.model import evaluate_adapter, make_adapter
from tools.demo.options import BASE_FOLDER, DEFAULT_BITS
from tools.demo.processes import Processes
from tools.soak.outcome import Tell
from transport.control import TrainingPlan

FEDERATION = "soak"
AGENTS = 20
ROUNDS = 10
# Without federated evaluation, which would take most of the time of so small a model.
PLAN = TrainingPlan(
    local_steps=4, batch_size=8, max_tokens=128, learning_rate=2e-3, eval_examples=0
)
_POLL_S = 0.2
_FIRST_OPENS = "round=1 attempt=1 opens"
# A run that has closed no round for so long will close none: several deadlines.
_SILENCE_S = 900.0
_BROKER = """\
listener {port} {address}
allow_anonymous true
persistence true
persistence_location {folder}/
max_inflight_messages 64
max_queued_messages 20000
set_tcp_nodelay true
user root
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes run.

    Attributes:
        devices: What stands before each agent's command, such as `ip netns exec <name>`, one after
            the other; nothing where it is empty.
        server: The same for broker and aggregator.
        address: The broker's, as agents reach it.
        port: The broker's.
    """

    devices: tuple[tuple[str, ...], ...] = ()
    server: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    port: int = 18_830


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """How the rounds of a fleet are run.

    Attributes:
        quorum: Updates without which a deadline abandons the round.
        deadline_s: Seconds from a round's opening to its deadline.
        answer_timeout_s: Seconds after which a device that says nothing is not awaited.
        min_devices: Devices that must be online before a round opens; None takes all.
    """

    agents: int = AGENTS
    rounds: int = ROUNDS
    quorum: int = AGENTS // 2
    deadline_s: float = 120.0
    answer_timeout_s: float = 60.0
    min_devices: int | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What a fleet's run gave.

    Attributes:
        loss: Held-out loss of the last adapter in nats per token, over all devices' text.
        before: The same of the base model.
        rounds: The summary of each round.
        seconds: The whole run, with the start of its processes.
    """

    loss: float
    before: float
    rounds: tuple[dict[str, Any], ...]
    seconds: float
    restarts: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_up(self) -> int:
        """Bytes of MQTT packets that reached the aggregator."""
        return sum(summary["bytes_up"] for summary in self.rounds)

    def facts(self) -> dict[str, Any]:
        """Return what the soak's table keeps of it."""
        return {
            "loss": round(self.loss, 4),
            "before": round(self.before, 4),
            "rounds": len(self.rounds),
            "participants": [summary["participants"] for summary in self.rounds],
            "partial": sum(summary["partial"] for summary in self.rounds),
            "late": sum(summary["late"] for summary in self.rounds),
            "stale": sum(summary.get("stale", 0) for summary in self.rounds),
            "longest_round_s": max(summary["seconds"] for summary in self.rounds),
            "bytes_up": self.bytes_up,
            "seconds": round(self.seconds, 1),
            "restarts": self.restarts,
        }


class FleetStuck(Exception):
    """A fleet closed no round for longer than several deadlines take, or a process ended."""


def learn(
    folder: Path,
    settings: FleetSettings,
    *,
    place: Place,
    tell: Tell,
    around_rounds: Callable[[Processes, Sequence[str]], AbstractContextManager[RoundHook]]
    | None = None,
) -> Learned:
    """Run a fleet to its last round, and return what it learned.

    Args:
        folder: Empty; logs and state stay in it.
        settings: How rounds are run.
        place: Where its processes run.
        tell: Takes a line per closed round.
        around_rounds: Given the processes and the agents' names, returns what is called with each
            round's number when it opens.

    Raises:
        FleetStuck: It closed no round for too long.
    """
    started = time.monotonic()
    logs = folder / "logs"
    logs.mkdir(parents=True)
    heldout, names = _lay_out(folder, settings, place)
    make_adapter(str(BASE_FOLDER), folder / "initial-adapter")
    processes = Processes(logs)
    try:
        command = (sys.executable, "-m", "tools.cli")
        daemon = mosquitto_daemon()
        if daemon is None:
            raise FleetStuck("mosquitto is not installed: apt install mosquitto")
        processes.start("broker", (*place.server, daemon, "-c", str(folder / "broker.conf")))
        time.sleep(1.0)  # Agents try again by themselves; this only keeps their logs short.
        config = str(folder / "aggregator.yaml")
        processes.start("aggregator", (*place.server, *command, "aggregator", "--config", config))
        for name, prefix in zip(names, place.devices or [()] * len(names), strict=True):
            config = str(folder / f"{name}.yaml")
            processes.start(name, (*prefix, *command, "agent", "--config", config))
        hooks = around_rounds(processes, names) if around_rounds else nullcontext(RoundHook())
        with hooks as hook:
            rounds = _follow(folder, settings, processes=processes, tell=tell, hook=hook)
        restarts = processes.restarts()
    finally:
        processes.stop()
    tell("evaluating the last adapter")
    version = folder / "state" / "aggregator" / "adapters" / str(settings.rounds)
    scores = evaluate_adapter(str(BASE_FOLDER), version, heldout)
    tokens = sum(after.tokens for _, after in scores)
    return Learned(
        loss=sum(after.loss * after.tokens for _, after in scores) / tokens,
        before=sum(before.loss * before.tokens for before, _ in scores) / tokens,
        rounds=tuple(rounds),
        seconds=time.monotonic() - started,
        restarts=restarts,
    )


class RoundHook:
    """Is told of each round that opens; this one does nothing."""

    def opened(self, round_id: int) -> None:
        """Act on the opening of a round."""


class Dropout(RoundHook):
    """Stops a share of the agents, trainers too, while a round is on, and lets them go after it."""

    def __init__(
        self, processes: Processes, names: Sequence[str], *, share: float, seed: int
    ) -> None:
        self._processes = processes
        self._names = list(names)
        self._count = round(share * len(names))
        self._rng = random.Random(seed)
        self._stopped: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def opened(self, round_id: int) -> None:  # noqa: ARG002  the hook's face
        """Let the stopped agents go, and stop others."""
        self._release()
        pids = self._processes.pids()
        for name in self._rng.sample(self._names, self._count):
            self._stopped += _signal_tree(pids[name], signal.SIGSTOP)

    def _release(self) -> None:
        for pid in self._stopped:
            _signal(pid, signal.SIGCONT)
        self._stopped.clear()


def _signal_tree(pid: int, number: signal.Signals) -> list[int]:
    """Signal a process and its descendants, and return whom."""
    pids = [pid]
    for parent in pids:
        tasks = Path(f"/proc/{parent}/task/{parent}/children")
        if tasks.exists():
            pids += [int(child) for child in tasks.read_text(encoding="utf-8").split()]
    for each in pids:
        _signal(each, number)
    return pids


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # It was restarted meanwhile.


def _follow(
    folder: Path, settings: FleetSettings, *, processes: Processes, tell: Tell, hook: RoundHook
) -> list[dict[str, Any]]:
    path = folder / "state" / "aggregator" / "rounds.jsonl"
    rounds: list[dict[str, Any]] = []
    progress_at = time.monotonic()
    log = folder / "logs" / "aggregator.log"
    has_opened = False
    while len(rounds) < settings.rounds or processes.running("aggregator"):
        time.sleep(_POLL_S)
        if not has_opened and _FIRST_OPENS in log.read_text(encoding="utf-8"):
            has_opened = True
            hook.opened(1)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines[len(rounds) :]:
            summary = json.loads(line)
            rounds.append(summary)
            progress_at = time.monotonic()
            tell(
                f"round {summary['round_id']}: {summary['participants']} updates"
                f" ({summary['partial']} partial) in {summary['seconds']:.0f} s"
            )
            hook.opened(summary["round_id"] + 1)
        for ended in processes.watch():
            if ended.code != 0:
                raise FleetStuck(f"{ended.name} ended with code {ended.code}: {ended.words}")
        if time.monotonic() - progress_at > _SILENCE_S:
            raise FleetStuck(f"no round was closed for {_SILENCE_S:.0f} s; see {folder / 'logs'}")
    return rounds


def _lay_out(folder: Path, settings: FleetSettings, place: Place) -> tuple[list[Path], list[str]]:
    """Write every configuration and every device's text; return held-out files and names."""
    broker = {"host": place.address, "port": place.port}
    first, _, last = DEFAULT_BITS.partition(":")
    (folder / "broker").mkdir()
    (folder / "broker.conf").write_text(
        _BROKER.format(port=place.port, address=place.address, folder=folder / "broker"),
        encoding="utf-8",
    )
    _write(
        folder / "aggregator.yaml",
        {
            "federation": FEDERATION,
            "broker": broker,
            "state_dir": str(folder / "state" / "aggregator"),
            "initial_adapter": str(folder / "initial-adapter"),
            "rounds": settings.rounds,
            "goal": settings.agents,
            "quorum": settings.quorum,
            "min_devices": settings.min_devices or settings.agents,
            "over_selection": 1.0,
            "deadline_s": settings.deadline_s,
            "answer_timeout_s": settings.answer_timeout_s,
            "bits_per_coordinate": {"first": float(first), "last": float(last)},
            "plan": asdict(PLAN),
            "keep_versions": settings.rounds + 1,
            "exit_when_finished": True,
        },
    )
    heldout, names = [], []
    for group in client_groups(settings.agents):
        parts = {}
        for part, texts in (("train", group.train), ("heldout", group.heldout)):
            parts[part] = folder / "data" / f"{group.client_id}.{part}.jsonl"
            parts[part].parent.mkdir(exist_ok=True)
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            parts[part].write_text(lines, encoding="utf-8")
        heldout.append(parts["heldout"])
        names.append(group.client_id)
        _write(
            folder / f"{group.client_id}.yaml",
            {
                "federation": FEDERATION,
                "client_id": group.client_id,
                "broker": broker,
                "state_dir": str(folder / "state" / group.client_id),
                "model": str(BASE_FOLDER),
                "data": {key: str(value) for key, value in parts.items()},
                "device": "cpu",
                "threads": 1,
                # The default is meant for thousands.
                "reconnect_spread_s": 2.0,
            },
        )
    return heldout, names


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

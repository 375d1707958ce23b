"""What the checks look at: one service's configuration on one machine, and what they found out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from transport.broker import BrokerConfig
from transport.control import RunAnnouncement

# [s] What a program of the system's own may take to answer.
_COMMAND_S = 15.0


class Role(str, Enum):
    """Whose configuration is examined."""

    AGENT = "agent"
    AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said.

    Attributes:
        code: Its exit code; 127 where there is no such program, 124 where it took too long.
    """

    code: int
    out: str


def ask_system(command: Sequence[str]) -> Answer:
    """Run a program of the system and return its answer."""
    try:
        done = subprocess.run(  # noqa: S603  # our own words, no shell
            list(command), capture_output=True, text=True, timeout=_COMMAND_S, check=False
        )
    except FileNotFoundError:
        return Answer(127, "")
    except (OSError, subprocess.TimeoutExpired):
        return Answer(124, "")
    return Answer(done.returncode, done.stdout)


@dataclass(slots=True)
class Known:
    """What earlier checks found out, for later ones.

    Attributes:
        has_cuda: None until torch was asked.
        run: The run that the broker announces.
        stopped: Units that were stopped here and must be started again.
    """

    has_cuda: bool | None = None
    run: RunAnnouncement | None = None
    stopped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Context:
    """One examination.

    Attributes:
        config: The service's configuration; None where there is none that can be read.
        path: The file that it came from.
        root: Where the kernel's and the system's files begin.
        ask: Runs a program of the system.
        now: The wall clock, in seconds since 1970.
        take_over: The running service may be stopped for the checks that need its login.
        known: Grows from check to check.
    """

    config: AgentConfig | AggregatorConfig | None = None
    path: Path | None = None
    root: Path = Path("/")
    ask: Callable[[Sequence[str]], Answer] = ask_system
    now: Callable[[], float] = time.time
    take_over: bool = False
    known: Known = field(default_factory=Known)

    @property
    def role(self) -> Role | None:
        """The service's role; None where no configuration says it."""
        match self.config:
            case AgentConfig():
                return Role.AGENT
            case AggregatorConfig():
                return Role.AGGREGATOR
            case None:
                return None

    @property
    def agent(self) -> AgentConfig:
        """The agent's configuration; the plan runs an agent's checks with nothing else."""
        assert isinstance(self.config, AgentConfig)
        return self.config

    @property
    def aggregator(self) -> AggregatorConfig:
        """The aggregator's configuration; the plan runs its checks with nothing else."""
        assert isinstance(self.config, AggregatorConfig)
        return self.config

    @property
    def service(self) -> AgentConfig | AggregatorConfig:
        """The configuration of whichever service it is."""
        assert self.config is not None
        return self.config

    @property
    def broker(self) -> BrokerConfig:
        """The broker of the service."""
        return self.service.broker

    @property
    def unit(self) -> str:
        """The systemd unit of the service."""
        if self.role is Role.AGENT:
            return f"fedfstq-agent@{self.agent.client_id}.service"
        return "fedfstq-aggregator.service"

    def text(self, name: str) -> str | None:
        """Return a file of the system by its path from the root; None where it cannot be read."""
        try:
            return (self.root / name).read_text(errors="replace")
        except OSError:
            return None

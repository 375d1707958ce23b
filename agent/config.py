"""What one device's agent is configured with: read from YAML by the command, checked here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.budget import UplinkConfig
from agent.eligibility import EligibilityConfig
from transport.broker import BrokerConfig
from transport.signing import SigningConfig
from transport.topics import identifier

Identifier = Annotated[str, AfterValidator(identifier)]


class DataConfig(BaseModel):
    """Where this device's private text is.

    Attributes:
        train: A file, or a folder of files, of examples.
        heldout: Examples that are only evaluated on; None sets a share of `train` aside.
        heldout_share: That share, chosen by a hash of each example, so that it never changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path
    heldout: Path | None = None
    heldout_share: float = Field(default=0.1, ge=0.0, lt=1.0)


class DeviceSigningConfig(SigningConfig):
    """How a device signs, and whom it believes.

    Attributes:
        aggregator: The aggregator's name: the common name of its certificate.
    """

    aggregator: Identifier = "coord"


class AgentConfig(BaseModel):
    """One device's agent and its trainer.

    Attributes:
        federation: The federation that the device belongs to.
        client_id: The device's name in topics, and its login where the broker binds the two.
        signing: Signs updates, and believes no receipt that is not signed; `off`, `sign` or
            `required`, alone or as `mode` beside files.
        state_dir: Holds everything that must outlive a restart; one agent per folder.
        model: Folder or hub id of the base model; None takes the one that the run names.
        device: Where the trainer computes; "auto" takes CUDA where there is one.
        dtype: Of the frozen base model; the adapter is float32 always.
        base_precision: "full" holds the base model in `dtype`; "bitsandbytes" holds its linear
            layers in 4 bits (nf4), "torchao" in 8; "auto" takes the first of the two that works
            here where the full model would take more than half of the memory.
        threads: torch's CPU threads; None leaves torch its own choice.
        trainer: "child" starts the trainer and ends with it; "service" connects to its socket when
            there is a task, which starts fedfstq-trainer@.service.
        trainer_idle_s: A trainer that systemd started ends after so many seconds without a task:
            the base model leaves memory, and the GPU is free for the device's real job. The next
            task waits until it is loaded again.
        uplink: How much of its link this device gives to a round.
        eligibility: When this device takes no new task: heat, battery, hours, memory, load.
        reconnect_spread_s: When the broker has closed or refused connections, this device comes
            back after up to so many seconds: all devices of a federation notice at once, and one
            that comes back at a time of its own choosing leaves the broker to breathe. 85 s are for
            5,000 devices; a dozen may take 1 s.
        telemetry_interval_s: Seconds between telemetry messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    federation: Identifier
    client_id: Identifier
    broker: BrokerConfig = BrokerConfig()
    signing: DeviceSigningConfig = DeviceSigningConfig()
    state_dir: Path
    model: str | None = None
    data: DataConfig
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    base_precision: Literal["auto", "full", "bitsandbytes", "torchao"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    trainer: Literal["child", "service"] = "child"
    trainer_idle_s: float = Field(default=600.0, gt=0.0, le=86_400.0)
    uplink: UplinkConfig = UplinkConfig()
    eligibility: EligibilityConfig = EligibilityConfig()
    reconnect_spread_s: float = Field(default=85.0, ge=0.0, le=3600.0)
    telemetry_interval_s: float = Field(default=10.0, gt=0.0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def trainer_socket(self) -> Path:
        """The Unix socket on which the trainer listens."""
        return self.state_dir / "trainer.sock"

    @property
    def trainer_lock(self) -> Path:
        """The file whose lock keeps a second trainer from starting."""
        return self.state_dir / "trainer.lock"

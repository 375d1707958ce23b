"""All checks, in the order in which they are made: cheap and local first, the long ones last."""

from __future__ import annotations

from typing import Final

from tools.doctor import broker, certificates
from tools.doctor.board import examine_board
from tools.doctor.broker import examine_broker
from tools.doctor.certificates import examine_certificates
from tools.doctor.clock import examine_clock
from tools.doctor.context import Role
from tools.doctor.data_lint import examine_data
from tools.doctor.disk import examine_disk
from tools.doctor.journal import examine_journal
from tools.doctor.kernel import examine_kernel
from tools.doctor.memory import examine_memory
from tools.doctor.model import examine_model
from tools.doctor.paths import examine_paths
from tools.doctor.runner import Group
from tools.doctor.sensors import examine_sensors
from tools.doctor.signatures import examine_signing
from tools.doctor.software import examine_software
from tools.doctor.torch_probe import PROBE_S, examine_torch
from tools.doctor.units import examine_units

_AGENT: Final = frozenset({Role.AGENT})
_AGGREGATOR: Final = frozenset({Role.AGGREGATOR})
_BOTH: Final = _AGENT | _AGGREGATOR
# [s] Gigabytes from an SD card.
_LONG_S: Final = 600.0
# [s] A handshake, an answer, and a packet of the largest size, each over a slow link.
_BROKER_S: Final = 90.0

GROUPS: Final = (
    Group("Python", ("python", "packages"), examine_software),
    Group("the board", ("board",), examine_board),
    Group(
        "torch and CUDA",
        ("torch", "cuda", "quantized"),
        examine_torch,
        roles=_AGENT,
        limit_s=PROBE_S + 10,
    ),
    Group("memory", ("memory", "swap"), examine_memory),
    Group("the disk", ("disk", "state-dir", "fsync"), examine_disk, roles=_BOTH, limit_s=60),
    Group("files", ("paths", "secrets"), examine_paths, roles=_BOTH),
    Group("the clock", ("clock",), examine_clock),
    Group("sensors", ("sensors",), examine_sensors, roles=_AGENT),
    Group("the kernel", ("bbr", "tcp-timeout"), examine_kernel),
    Group(
        "systemd",
        ("systemd", "unit", "watchdog", "old-units", "open-files"),
        examine_units,
        roles=_BOTH,
        limit_s=60,
    ),
    Group("certificates", certificates.NAMES, examine_certificates, roles=_BOTH),
    Group("signatures", ("signing",), examine_signing, roles=_BOTH),
    Group("the broker", broker.NAMES, examine_broker, roles=_BOTH, limit_s=_BROKER_S, online=True),
    Group(
        "the base model",
        ("model", "layout"),
        examine_model,
        roles=_AGENT,
        limit_s=_LONG_S,
        after="run",
    ),
    Group(
        "the examples",
        ("data", "data-quality"),
        examine_data,
        roles=_AGENT,
        limit_s=_LONG_S,
        after="run",
    ),
    Group(
        "the journal",
        ("journal", "adapter"),
        examine_journal,
        roles=_AGGREGATOR,
        limit_s=_LONG_S,
        after="run",
    ),
)

# What comes from finding the configuration, before all others.
CONFIGURATION: Final = "configuration"
ALL_NAMES: Final = (CONFIGURATION, *(name for group in GROUPS for name in group.names))

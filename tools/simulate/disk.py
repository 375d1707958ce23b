"""What a device keeps over restarts: its outbox, and the adapter versions that it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.job import JobPolicy
from agent.outputs import Adapter, StoreAdapter
from agent.pauses import OperatorHold
from tools.simulate import payloads
from tools.simulate.outbox import Outbox
from tools.simulate.trainer import FILE

ADAPTERS_KEPT = JobPolicy().adapters_kept


@dataclass(slots=True)
class Disk:
    """One device's disk.

    Attributes:
        adapters: Version → adapter, with its content.
        goodput_bps: What is remembered of the link.
        train_s: What is remembered of training.
        hold: What an operator said that keeps new tasks away.
    """

    outbox: Outbox
    adapters: dict[int, tuple[Adapter, bytes]] = field(default_factory=dict)
    goodput_bps: float | None = None
    train_s: float | None = None
    hold: OperatorHold | None = None

    def keep(self, output: StoreAdapter) -> Adapter | None:
        """Check and keep an adapter version; None where it is not what its manifest says."""
        manifest = output.manifest
        content = b"".join(output.bodies)
        if output.base is not None:
            held = self.adapters.get(output.base.version)
            content = payloads.difference(content, held[1]) if held else b""
        if content != manifest.sha256:
            return None
        adapter = Adapter(
            run=manifest.run,
            version=manifest.version,
            base_digest=manifest.base_digest.hex(),
            layout=manifest.layout,
            adapter_config=manifest.adapter_config,
            file=FILE,
        )
        self.adapters[manifest.version] = (adapter, content)
        for version in sorted(self.adapters)[:-ADAPTERS_KEPT]:
            if version != manifest.version:
                del self.adapters[version]
        return adapter

    def forget_others(self, run: str | None) -> None:
        """Delete the adapter versions of other runs."""
        for version in [number for number, (held, _) in self.adapters.items() if held.run != run]:
            del self.adapters[version]

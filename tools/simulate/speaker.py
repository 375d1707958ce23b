"""What a simulated aggregator publishes: messages, claims, and adapter versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.fencing import Claim, FenceOutput
from aggregator.outputs import ClearAdapter, Output, Publish, SendAdapter
from tools.simulate import adapters
from tools.simulate.reading import PACKET_BYTES
from transport.control import RoundStatus
from transport.messages import Message, Segment
from transport.topics import Alert, CoordStatus, ModelManifest, ModelSegment, RoundNow

if TYPE_CHECKING:
    from tools.simulate.service import Aggregator

Effect = Output | FenceOutput


class Speaker:
    """Publishes for one aggregator, as long as its fence lets it."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator

    def emit(self, output: Effect) -> None:
        """Publish what an output says, where this aggregator leads."""
        match output:
            case Claim(status):
                if self._aggregator.line is not None:
                    self._aggregator.line.publish(
                        CoordStatus(), self._aggregator.world.packed(CoordStatus(), status)
                    )
            case Publish(address, message, retain):
                self._publish(address, message, retain=retain)
            case SendAdapter():
                self._send_adapter(output)
            case ClearAdapter(version, segments, delta):
                self._publish(ModelManifest(version, delta), None, retain=True)
                for index in range(segments):
                    self._publish(ModelSegment(version, index, delta), None, retain=True)

    def _send_adapter(self, output: SendAdapter) -> None:
        version, delta = output.version, output.delta
        assert self._aggregator.facts is not None
        if not self._aggregator.facts.count(version, delta=delta):
            return
        manifest, bodies = adapters.frames_of(
            self._aggregator.contents, version, delta=delta, run=self._aggregator.journal.run
        )
        retain = delta or version == self._aggregator.facts.version
        self._publish(ModelManifest(version, delta), manifest, retain=retain)
        self._aggregator.reach("aggregator-adapter-sent")
        for index, body in enumerate(bodies):
            if output.indices is None or index in output.indices:
                self._publish(ModelSegment(version, index, delta), Segment(body), retain=retain)
        self._aggregator.reach("aggregator-announced")

    def _publish(self, address: Any, message: Any, *, retain: bool) -> None:
        world = self._aggregator.world
        if isinstance(address, RoundNow):
            assert isinstance(message, RoundStatus)
            world.truth.round_status(self._aggregator.name, message, now=world.clock.now)
        elif isinstance(address, Alert):
            world.alert(address.code, message)
        if (
            self._aggregator.line is None
            or self._aggregator.fence is None
            or not self._aggregator.fence.leads
        ):
            return
        self._aggregator.line.publish(address, world.packed(address, message), retain=retain)
        if (
            world.scenario.wire
            and isinstance(message, Message)
            and self._aggregator.coordinator is not None
        ):
            self._aggregator.coordinator.sent(PACKET_BYTES)

"""One client update over one bad link: a real agent, a real broker and a real aggregator in a lab.

The clock runs from the moment at which the update stands in the agent's outbox to the one at which
its receipt has freed it there, so manifest, answers, journal and receipt are all in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.payload import read_header, read_segment
from tools.netem.lab import DEVICE, SERVER, Lab
from tools.netem.namespaces import within
from tools.netem.profile import Direction, Profile
from tools.soak import evidence
from tools.soak.fleet import BROKER, Fleet, FleetSpec
from tools.soak.outcome import Tell
from tools.soak.synthetic_trainer import Behaviour
from transport import frame
from transport.messages import Segment

_NAME: Final = "device-1"
# [s] Long enough to change the link between the fetched adapter and the finished training.
_TRAIN_S: Final = 5.0
# [s] Start of two services and a broker, and a download at full speed, on a busy machine.
_READY_S: Final = 120.0
_POLL_S: Final = 0.05
# [bytes] What fp16 leaves of a coordinate of normal deltas when transport has compressed it.
_BYTES_PER_COORDINATE: Final = 1.84


@dataclass(frozen=True, slots=True)
class UpdateRun:
    """What one update took.

    Attributes:
        update_bytes: Of the frames of all its segments, as they are on the wire, each once.
        seconds: From the outbox to the receipt.
        link_bytes: What the device put on its link for it, headers and repetitions included.
        disconnects: How often the agent's link went down meanwhile.
        broker_complaints: What the broker said about clients that it gave up.
    """

    update_bytes: int
    seconds: float
    link_bytes: int
    disconnects: int
    broker_complaints: tuple[str, ...]

    @property
    def goodput_kbps(self) -> float:
        """Kilobits of the update per second."""
        return 8 * self.update_bytes / self.seconds / 1000


def upload(
    lab: Lab,
    folder: Path,
    link: Profile,
    *,
    update_bytes: int,
    timeout_s: float,
    tell: Tell,
    begun: Callable[[], None] = lambda: None,
) -> UpdateRun:
    """Play one round with one device, whose update goes over this link.

    The adapter comes down a clear link, so that what is measured is the update's way. Its way up
    has the link's rate and delay from the beginning: a connection that had known a faster link
    would have to unlearn it first.

    Args:
        lab: With one device.
        folder: For the fleet's files; must not exist.
        link: What the update goes over.
        update_bytes: Of the update on the wire, about.
        timeout_s: How long the upload may take.
        tell: Is told of progress.
        begun: Called when the upload begins.

    Raises:
        FleetStuck: It took longer.
    """
    clear = Profile(
        title="clear",
        up=Direction(rate_kbit=link.up.rate_kbit, delay_ms=link.up.delay_ms),
        down=Direction(delay_ms=link.down.delay_ms),
    )
    lab.apply(clear)
    spec = FleetSpec(
        agents=1,
        rounds=1,
        coordinates=round(update_bytes / _BYTES_PER_COORDINATE),
        settings={
            "codec": "fp16",
            "update_bytes": None,
            "segment_bytes": 32_768,
            "deadline_s": timeout_s + 2 * _READY_S,
        },
        behaviour=Behaviour(train_s=_TRAIN_S),
        broker_host=lab.address(SERVER),
        launch=lambda name, command: within(
            lab.namespace(DEVICE if name == _NAME else SERVER), command
        ),
    )
    with Fleet(folder, spec) as fleet:
        fleet.start()
        outbox = fleet.state(_NAME)
        fleet.wait_for(
            (outbox / "adapters" / "0.json").exists,
            "the device has its adapter",
            timeout_s=_READY_S,
        )
        lab.apply(link)
        before = lab.link_bytes(DEVICE).sent
        _poll(fleet, lambda: evidence.waiting_updates(outbox) > 0, timeout_s=_READY_S)
        began_at = time.monotonic()
        downs = fleet.log(_NAME).count(" is down: ")
        begun()
        wire_bytes = _wire_bytes(outbox / "payloads")
        tell(f"{link.title}: {wire_bytes} bytes are on their way")
        _poll(fleet, lambda: evidence.waiting_updates(outbox) == 0, timeout_s=timeout_s)
        ended_at = time.monotonic()
        sent = lab.link_bytes(DEVICE).sent - before
        downs = fleet.log(_NAME).count(" is down: ") - downs
        complaints = tuple(
            line
            for line in fleet.log(BROKER).splitlines()
            if "exceeded timeout" in line or "keepalive" in line
        )
        lab.apply(clear)  # the goodbyes need not fight their way
    return UpdateRun(wire_bytes, ended_at - began_at, sent, downs, complaints)


def _wire_bytes(payloads: Path) -> int:
    """Return what the segments of the only payload in a folder are as frames."""
    (path,) = (path for path in payloads.iterdir() if path.is_file())
    header = read_header(path)
    bodies = (read_segment(path, header, index) for index in range(len(header.lengths)))
    return sum(len(frame.encode(Segment(body))) for body in bodies)


def _poll(fleet: Fleet, done: Callable[[], bool], *, timeout_s: float) -> None:
    """Wait more closely than `Fleet.wait_for` polls."""

    def soon() -> bool:
        # The fleet's own pause follows each of these looks; between two of them are several.
        for _ in range(20):
            if done():
                return True
            time.sleep(_POLL_S)
        return False

    fleet.wait_for(soon, "the update is there and has its receipt", timeout_s=timeout_s)

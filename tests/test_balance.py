"""What devices trained, what receipts accepted and what is left on devices add up, round by round.

The device's outbox and leftovers, the aggregator's admission, rounds' terms and mean are the real
ones; in between, whatever a link may lose is lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from agent.leftovers import add_leftovers
from agent.outbox import Outbox
from agent.payload import PayloadHeader, read_encoded, read_header, read_segment, write_payload
from aggregator.admission import LatePolicy, Terms
from aggregator.fedavg import ClientUpdate, federated_average
from aggregator.outputs import JournalSegment, Publish
from aggregator.quotas import QuotaPolicy, Quotas
from aggregator.uploads import Uploads
from codec.codec import Budget
from codec.layout import Layout
from codec.registry import codec_named
from codec.update import decode
from transport.messages import Receipt, Segment
from transport.topics import Down, UpManifest, UpSegment
from transport.transfer import TransferPolicy

Sums = npt.NDArray[np.float64]

RUN = "a" * 32
DIGEST = bytes(32)
LAYOUT = Layout.from_shapes({"a.lora_A.weight": (4, 40), "a.lora_B.weight": (40, 4), "z": (7,)})
MAX_STALENESS = 2
ROUNDS = 24


@dataclass
class Device:
    """A device that trains by dice, with the real outbox."""

    name: str
    outbox: Outbox
    codec: str
    feeds_back: bool
    trained: Sums = field(default_factory=lambda: np.zeros(LAYOUT.size))
    accepted: Sums = field(default_factory=lambda: np.zeros(LAYOUT.size))

    def train(self, round_id: int, rng: np.random.Generator) -> None:
        """Train, take what earlier updates left, encode, and enter the update."""
        delta = rng.normal(0, 0.01, LAYOUT.size).astype(np.float32)
        path = self.outbox.payload_file(RUN, round_id)
        leftovers = self.outbox.leftovers()
        total = delta.copy()
        add_leftovers(total, leftovers, layout=LAYOUT, decay=1.0)
        bodies = codec_named(self.codec).encode(
            total, None, layout=LAYOUT, budget=Budget(300, 96), seed=round_id
        )
        header = PayloadHeader(
            run=RUN,
            round_id=round_id,
            base_version=round_id - 1,
            base_digest=DIGEST.hex(),
            layout_digest=LAYOUT.digest.hex(),
            codec=self.codec,
            num_examples=10,
            train_loss=1.0,
            steps=1,
            train_s=1.0,
            evaluation=None,
            lengths=tuple(len(body) for body in bodies),
            leftovers_used=tuple(leftover.number for leftover in leftovers),
            coordinates=LAYOUT.size if self.feeds_back else 0,
        )
        write_payload(path, header, bodies, encoded=total if self.feeds_back else None)
        self.outbox.commit(path)
        if self.feeds_back:
            self.trained += delta
        else:  # what the codec dropped is gone; what it wrote is to be accounted for
            self.trained += whole(self.codec, path) - (total.astype(np.float64) - delta)

    def settle(self, uid: str, receipt: Receipt) -> None:
        """Follow the receipt, and count what it accepted as it decodes."""
        (upload,) = (one for one in self.outbox.waiting() if one.uid == uid)
        bodies = {index: self.outbox.segment(uid, index) for index in receipt.accepted}
        total = len(upload.manifest.segments)
        self.accepted += decode(self.codec, bodies, layout=LAYOUT, segment_count=total)
        self.outbox.settle(uid, receipt)

    def left(self) -> Sums:
        """What is still here: in updates that wait, and left behind by receipts."""
        left = np.zeros(LAYOUT.size, dtype=np.float32)
        add_leftovers(left, self.outbox.leftovers(), layout=LAYOUT, decay=1.0)
        here = left.astype(np.float64)
        for upload in self.outbox.waiting():
            path = self.outbox.payload_file(RUN, upload.manifest.round_id)
            header = read_header(path)
            here += read_encoded(path, header) if self.feeds_back else whole(self.codec, path)
        return here


def whole(codec: str, path: Path) -> Sums:
    """Return what all segments of a payload decode to."""
    header = read_header(path)
    count = len(header.lengths)
    bodies = {index: read_segment(path, header, index) for index in range(count)}
    return decode(codec, bodies, layout=LAYOUT, segment_count=count).astype(np.float64)


class Aggregator:
    """Takes what arrives, and closes rounds."""

    def __init__(self, codec: str, late: LatePolicy, devices: dict[str, Device]) -> None:
        self.codec = codec
        self.late = late
        self.devices = devices
        self.round_id = 1
        self.stale = 0
        self.summed = np.zeros(LAYOUT.size)
        quotas = Quotas(QuotaPolicy(1e6, 10_000, 16.0, 1 << 30))
        self.uploads = Uploads(
            round_id=1, epoch=1, policy=TransferPolicy(), late=late, quotas=quotas
        )
        self.journal: dict[str, dict[int, bytes]] = {}

    def terms(self) -> Terms:
        oldest = self.round_id if self.late is not LatePolicy.STALE else self.oldest(self.round_id)
        return self._terms_of(
            self.round_id,
            earlier={n: self._terms_of(n) for n in range(oldest, self.round_id)},
        )

    def oldest(self, round_id: int) -> int:
        return max(1, round_id - MAX_STALENESS)

    def _terms_of(self, round_id: int, **changes: Any) -> Terms:
        return Terms(
            run=RUN,
            round_id=round_id,
            invited=frozenset(self.devices),
            base_digest=DIGEST,
            layout_digest=LAYOUT.digest,
            codec=self.codec,
            update_bytes=300,
            segment_bytes=96,
            max_examples=100,
            max_open=8,
            **changes,
        )

    def receive(self, device: Device, rng: random.Random) -> None:
        """Let a part of what a device has to say come through, some of it twice."""
        for upload in device.outbox.waiting():
            if rng.random() < 0.4:
                continue
            address = UpManifest(device.name, upload.uid)
            self._answer(
                self.uploads.announced(address, upload.manifest, terms=self.terms(), now=0.0)
            )
            total = len(upload.manifest.segments)
            for index in rng.sample(range(total), rng.randint(0, total)) * 2:
                if upload.uid not in {one.uid for one in device.outbox.waiting()}:
                    break
                body = Segment(device.outbox.segment(upload.uid, index))
                segment = UpSegment(device.name, upload.uid, index)
                self._answer(self.uploads.segment(segment, body, now=0.0))

    def close(self) -> None:
        """Freeze, average, and tell."""
        frozen = self.uploads.freeze(self.terms())
        self.stale += sum(not self.uploads.is_fresh(update.uid) for update in frozen)
        updates = [
            ClientUpdate(
                update.uid,
                update.weight,
                update.segment_count,
                {index: self.journal[update.uid][index] for index in update.accepted},
            )
            for update in frozen
        ]
        average = federated_average(
            updates, codec=codec_named(self.codec), layout=LAYOUT, max_delta_abs=100.0
        )
        assert not average.refused
        for update in updates:
            part = decode(
                self.codec, update.segments, layout=LAYOUT, segment_count=update.segment_count
            )
            self.summed += part
        next_round = self.round_id + 1
        oldest = self.oldest(next_round) if self.late is LatePolicy.STALE else next_round
        closing = self.uploads.close(frozen, {}, oldest_taken=oldest)
        self._answer(self.uploads.committed(closing.receipts))
        self.round_id = next_round

    def _answer(self, outputs: Any) -> None:
        for output in outputs:
            match output:
                case JournalSegment(uid, index, body):
                    self.journal.setdefault(uid, {})[index] = body
                    self._answer(self.uploads.stored(uid, {index}, now=0.0))
                case Publish(Down() as address, Receipt() as receipt):
                    device = self.devices[address.client_id]
                    if address.uid in {one.uid for one in device.outbox.waiting()}:
                        device.settle(address.uid, receipt)


@pytest.fixture
def devices(tmp_path: Path, kind: str) -> Iterator[dict[str, Device]]:
    made = {}
    for name in ("a", "b", "c"):
        folder = tmp_path / name
        outbox = Outbox(folder, client_id=name)
        outbox.begin_run(RUN)
        made[name] = Device(name, outbox, kind.split(maxsplit=1)[0], "feedback" in kind)
    yield made
    for device in made.values():
        device.outbox.close()


@pytest.mark.parametrize("late", [LatePolicy.STALE, LatePolicy.MERGE])
@pytest.mark.parametrize("kind", ["fstq", "fstq with error feedback", "fstq+ with error feedback"])
def test_what_was_trained_is_accepted_or_still_on_a_device(
    devices: dict[str, Device], kind: str, late: LatePolicy
) -> None:
    codec = kind.split(maxsplit=1)[0]
    rng, dice = np.random.default_rng(11), random.Random(7)
    aggregator = Aggregator(codec, late, devices)
    for round_id in range(1, ROUNDS + 1):
        for device in devices.values():
            if dice.random() < 0.8:
                device.train(round_id, rng)
        for device in devices.values():
            aggregator.receive(device, dice)
        aggregator.close()
        for device in devices.values():
            difference = device.trained - device.accepted - device.left()
            scale = np.abs(device.trained).max() + 0.05
            # Each round rounds a coordinate a few times to float32.
            np.testing.assert_allclose(difference, 0, atol=8 * round_id * scale * 2**-24)
    accepted = sum((device.accepted for device in devices.values()), np.zeros(LAYOUT.size))
    np.testing.assert_allclose(aggregator.summed, accepted, rtol=0, atol=1e-9)
    assert np.abs(accepted).max() > 0
    assert (aggregator.stale > 0) == (late is LatePolicy.STALE)

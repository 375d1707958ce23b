"""A model of a device's disk: what each transaction of `agent.outbox` makes durable, and its files.

Rows change in transactions; files are written before them and deleted after them, so that a crash
leaves at most a file that no row names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.outputs import Upload
from codec.codec import Order
from codec.registry import codec_named
from tools.simulate.payloads import Payload, Unit
from transport.messages import Manifest, Receipt, ReceiptState

# What a receipt says of a late update that nothing is kept of.
DROPPED = "dropped"


class Unusable(Exception):
    """A payload cannot become an update; `reason` is typed, `retryable` says: train once more."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a receipt left of a payload."""

    number: int
    payload: Payload
    accepted: frozenset[int]

    def units(self) -> list[Unit]:
        """Return the units that it carries to the next update."""
        cargo = self.payload.cargo
        return [
            unit
            for index, units in enumerate(cargo)
            if index not in self.accepted
            for unit in units
        ]


@dataclass(slots=True)
class Outbox:
    """A device's outbox, as a crash leaves it.

    Attributes:
        files: (run, round) → payload, under its final name.
        rows: uid → (manifest, payload), in the order of their sequence numbers.
        settled: Round → how its update ended.
    """

    client_id: str
    codec: str
    run: str | None = None
    epoch: int = 0
    seq: int = 0
    number: int = 0
    files: dict[tuple[str, int], Payload] = field(default_factory=dict)
    rows: dict[str, tuple[Manifest, Payload]] = field(default_factory=dict)
    left: dict[int, Leftover] = field(default_factory=dict)
    settled: dict[int, ReceiptState] = field(default_factory=dict)

    def copy(self) -> Outbox:
        """Return the outbox as a copied disk holds it."""
        return Outbox(
            self.client_id,
            self.codec,
            self.run,
            self.epoch,
            self.seq,
            self.number,
            dict(self.files),
            dict(self.rows),
            dict(self.left),
            dict(self.settled),
        )

    def begin_run(self, run: str) -> None:
        """Clear what belongs to another run."""
        if run == self.run:
            return
        self.run, self.epoch = run, 0
        for kept in (self.files, self.rows, self.left, self.settled):
            kept.clear()

    def waiting(self) -> tuple[Upload, ...]:
        """Return the updates that wait for a receipt, oldest first."""
        return tuple(Upload(uid, manifest) for uid, (manifest, _) in self.rows.items())

    def commit(self, payload: Payload, make: Callable[[int], tuple[str, Manifest]]) -> Upload:
        """Enter a payload, which consumes the leftovers that went into it.

        Args:
            payload: A file that is here under its final name.
            make: Sequence number → uid and manifest.

        Raises:
            Unusable: It is of another run, settled, or rides on leftovers that are gone.
        """
        for uid, (manifest, held) in self.rows.items():
            if held is payload or (held.run, held.round_id) == (payload.run, payload.round_id):
                return Upload(uid, manifest)
        reason, retryable = "", False
        if payload.run != self.run:
            reason = "run"
        elif payload.round_id in self.settled:
            reason = "settled"
        elif not self.left.keys() >= set(payload.leftovers_used):
            reason, retryable = "residual", True
        if reason:
            if payload not in [leftover.payload for leftover in self.left.values()]:
                self.files.pop((payload.run, payload.round_id), None)
            raise Unusable(reason, retryable=retryable)
        self.seq += 1
        uid, manifest = make(self.seq)
        self.rows[uid] = (manifest, payload)
        for number in payload.leftovers_used:
            used = self.left.pop(number)
            self.files.pop((used.payload.run, used.payload.round_id), None)
        return Upload(uid, manifest)

    def settle(self, uid: str, receipt: Receipt) -> None:
        """Free an update as its receipt says, but for what that leaves to the next one."""
        row = self.rows.pop(uid, None)
        if row is None:
            return
        manifest, payload = row
        if self._leaves(receipt, len(manifest.segments)):
            self.number += 1
            self.left[self.number] = Leftover(self.number, payload, receipt.accepted)
        else:
            self.files.pop((payload.run, payload.round_id), None)
        self.settled[manifest.round_id] = receipt.state

    def adopt(self, make: Callable[[Payload, int], tuple[str, Manifest]]) -> list[Upload]:
        """Enter payloads that were durable before a crash, and delete those that are of no use."""
        known = {(payload.run, payload.round_id) for _, payload in self.rows.values()}
        left = {
            (leftover.payload.run, leftover.payload.round_id) for leftover in self.left.values()
        }
        adopted = []
        for name, payload in sorted(self.files.items()):
            if name in known | left:
                continue
            if name[0] == self.run and name[1] in self.settled:
                del self.files[name]
                continue
            try:
                adopted.append(
                    self.commit(payload, lambda seq, payload=payload: make(payload, seq))  # type: ignore[misc]  # mypy takes no default in a lambda
                )
            except Unusable:
                continue
        return adopted

    def _leaves(self, receipt: Receipt, segments: int) -> bool:
        if receipt.state is ReceiptState.REFUSED:
            return False
        if receipt.state is ReceiptState.LATE and receipt.reason == DROPPED:
            return False
        if codec_named(self.codec).order is Order.EXCHANGEABLE and receipt.accepted:
            return False
        return len(receipt.accepted) < segments

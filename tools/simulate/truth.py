"""What really happened, seen from above, and what must hold of it: the invariants.

Devices and aggregator tell each durable change here. Some promises are checked at once, the balance
of all updates at the end:

    every unit of every durable update is in exactly one place: counted in one version, refused with
    a reason, dropped by the run's policy, or still on its device (outbox, payload, leftover)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aggregator.journal import RoundState
from aggregator.outputs import Aggregate, Commit, Freeze
from codec.codec import Order
from codec.registry import codec_named
from tools.simulate.outbox import DROPPED, Outbox
from tools.simulate.payloads import Payload, Unit
from transport.control import RoundPhase, RoundStatus
from transport.messages import Receipt, ReceiptState

# [s] A round with a quorum ends by its deadline and so much more.
GRACE_S = 5.0
# [segments] What may go twice after a cut: two windows of the largest size.
RESENT_PER_CUT = 16

_COUNTS = frozenset({ReceiptState.ACCEPTED, ReceiptState.PARTIAL})


class Violation(Exception):
    """A promise is broken: `name` says which one."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(slots=True)
class Update:
    """One update that a device has entered into its outbox.

    Attributes:
        honest: Made by a device that keeps to the protocol.
        receipt: The device's last word on it.
        counted: The version that it counts in.
        accepted: Its segments that count.
    """

    payload: Payload
    honest: bool = True
    receipt: Receipt | None = None
    counted: int | None = None
    accepted: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Open:
    """The round that is on, as its aggregator says."""

    deadline: float
    frozen: bool = False


@dataclass(slots=True)
class Truth:
    """Everything that was promised, and a check of each promise.

    Attributes:
        codec: The run's codec.
        quorum: The run's quorum.
        updates: uid → update, of all devices.
        digests: (run, version) → the content of that adapter version.
        rounds: Rounds that were committed.
        tally: What happened how often, for the report.
    """

    codec: str
    quorum: int
    max_staleness: int
    updates: dict[str, Update] = field(default_factory=dict)
    digests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    rounds: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    _by_training: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    _units: int = 0
    _durable: set[Unit] = field(default_factory=set)
    _discarded: Counter[Unit] = field(default_factory=Counter)
    _counted: Counter[Unit] = field(default_factory=Counter)
    _forbidden: set[str] = field(default_factory=set)
    _frozen: dict[tuple[str, int], dict[str, frozenset[int]]] = field(default_factory=dict)
    _makers: dict[tuple[str, int], str] = field(default_factory=dict)
    _heard: set[tuple[str, int]] = field(default_factory=set)
    _outcasts: set[str] = field(default_factory=set)
    _open: dict[str, _Open] = field(default_factory=dict)
    _versions: dict[str, int] = field(default_factory=dict)

    # What devices tell ----------------------------------------------------------------------------

    def new_units(self, count: int) -> tuple[Unit, ...]:
        """Return units that no other update has."""
        first = self._units
        self._units += count
        return tuple(range(first, first + count))

    def stored(self, payload: Payload) -> None:
        """Note that a payload stands under its final name: it may not get lost any more."""
        self._durable.update(payload.own)

    def discarded(self, payload: Payload, reason: str) -> None:
        """Note that a device gave a payload up before it became an update, for a typed reason."""
        self.tally[f"discarded {reason}"] += 1
        self._discarded.update(payload.own)

    def cleared(self, outbox: Outbox) -> None:
        """Note that a device clears what belongs to another run."""
        for unit, _ in self._held(outbox):
            self._discarded[unit] += 1
        self.tally["cleared for another run"] += 1

    def entered(self, uid: str, payload: Payload, *, honest: bool = True) -> None:
        """Note that a device has entered an update into its outbox."""
        known = self.updates.get(uid)
        if known is None:
            self.updates[uid] = Update(payload, honest)
            self.tally["updates"] += 1

    def forbid(self, uid: str) -> None:
        """Note that an update does not belong, and may not count."""
        self._forbidden.add(uid)

    def settled(self, uid: str, receipt: Receipt) -> None:
        """Note that a device has freed an update as this receipt says."""
        update = self.updates[uid]
        self.tally[f"receipt {receipt.state.value} {receipt.reason}".rstrip()] += 1
        before = update.receipt
        if before is not None and _word(before) != _word(receipt):
            raise Violation("one-word", f"update {uid} had {_word(before)}, now {_word(receipt)}")
        update.receipt = receipt
        counts = receipt.state in _COUNTS
        if counts and update.counted is None:
            raise Violation("receipt", f"{uid} is {receipt.state.value} and counts nowhere")
        if not counts and update.counted is not None:
            text = f"{uid} is {receipt.state.value} ({receipt.reason}) and counts in"
            raise Violation("receipt", f"{text} version {update.counted}")
        if receipt.accepted != update.accepted:
            named, real = sorted(receipt.accepted), sorted(update.accepted)
            raise Violation("receipt", f"{uid}: the receipt names {named}, {real} count")

    def adapter(self, run: str, version: int, content: bytes) -> None:
        """Note that a device holds an adapter version."""
        if self.digests.get((run, version)) != content:
            raise Violation("digest", f"a device holds a version {version} that was never made")

    # What the aggregator tells --------------------------------------------------------------------

    def round_status(self, who: str, status: RoundStatus, *, now: float) -> None:
        """Follow when the open round must be over."""
        if status.phase is RoundPhase.OPEN:
            deadline = now + status.deadline_s
            known = self._open.get(who)
            if known is None or known.frozen:
                self._open[who] = _Open(deadline)
            else:
                known.deadline = min(known.deadline, deadline)
        else:
            self._open.pop(who, None)

    def left(self, who: str) -> None:
        """Note that an aggregator's process has ended."""
        self._open.pop(who, None)

    def check_deadline(self, who: str, *, now: float) -> None:
        """Check that no round is still open though its deadline is past."""
        known = self._open.get(who)
        if known is not None and not known.frozen and now > known.deadline + GRACE_S:
            raise Violation("deadline", f"a round is open {now - known.deadline:.1f} s after it")

    def froze(self, who: str, freeze: Freeze, *, now: float) -> None:
        """Note that it is decided what counts."""
        self.check_deadline(who, now=now)
        if who in self._open:
            self._open[who].frozen = True
        frozen = {update.uid: update.accepted for update in freeze.updates}
        for uid, accepted in frozen.items():
            if not accepted:
                raise Violation("frozen-set", f"{uid} counts with nothing")
        self._frozen[who, freeze.record.round_id] = frozen

    def copied(self, who: str, *, to: str) -> None:
        """Note that a state folder was copied: what is frozen in it is frozen in the copy."""
        for (name, round_id), frozen in list(self._frozen.items()):
            if name == who:
                self._frozen[to, round_id] = frozen

    def aggregates(self, who: str, aggregate: Aggregate) -> None:
        """Check that what is averaged is what was frozen, also after a restart."""
        frozen = self._frozen.get((who, aggregate.base_version + 1))
        now = {update.uid: update.accepted for update in aggregate.updates}
        if now != frozen:
            raise Violation("frozen-set", f"averaging {_brief(now)}, frozen was {_brief(frozen)}")
        uids = [update.uid for update in aggregate.updates]
        if uids != sorted(uids):
            raise Violation("frozen-set", "the updates are not in the order of their uids")

    def body(self, uid: str, index: int, body: bytes) -> None:
        """Check that a segment which counts is the one that its device made."""
        update = self.updates.get(uid)
        if update is None or uid in self._forbidden:
            raise Violation("foreign", f"{uid} counts, and belongs to no device's outbox")
        if update.payload.bodies[index] != body:
            raise Violation("foreign", f"segment {index} of {uid} is {body!r}")

    def made(self, who: str, run: str, version: int, content: bytes) -> None:
        """Check that a version is made once, or made again with the same content."""
        known = self.digests.setdefault((run, version), content)
        maker = self._makers.setdefault((run, version), who)
        if known == content or who in self._outcasts:
            return
        if maker != who and (run, version) in self._heard:
            # It worked on while it was cut off; it must be fenced off when it comes back.
            self._outcasts.add(who)
            self.tally["versions that nobody heard of"] += 1
            return
        if maker == who:
            raise Violation("digest", f"version {version} was made twice, and differs")
        self._undo(run, version)
        self.digests[run, version], self._makers[run, version] = content, who

    def heard(self, run: str, version: int, sha256: str) -> None:
        """Note that a version was announced: the broker has it, and may have one of it only."""
        self._heard.add((run, version))
        if self.digests[run, version].hex() != sha256:
            raise Violation("lineage", f"there are two versions {version}")

    def _undo(self, run: str, version: int) -> None:
        """Take back what another aggregator has made and told nobody of; it will be fenced off."""
        self.tally["versions that nobody heard of"] += 1
        self._versions[run] = version - 1
        for update in self.updates.values():
            if update.counted is not None and update.counted >= version:
                for index in update.accepted:
                    for unit in update.payload.cargo[index]:
                        self._counted[unit] -= 1
                payload = update.payload
                self._by_training[payload.client_id, payload.round_id].clear()
                update.counted, update.accepted = None, frozenset()

    def committed(self, who: str, run: str, commit: Commit, included: Iterable[str]) -> None:
        """Note that a version stands, and check its receipts against the frozen set."""
        if who in self._outcasts:
            return
        version, summary = commit.version, commit.summary
        included = set(included)
        if self._makers[run, version] != who and version == self._versions.get(run, 0):
            # The same version, made from the same frozen set by the owner of a copied folder.
            self._check_receipts(commit, included, self._frozen[who, commit.record.round_id])
            return
        if version != self._versions.get(run, 0) + 1 or summary.version != version:
            raise Violation("versions", f"version {version} after {self._versions.get(run, 0)}")
        if commit.record.state is not RoundState.COMMITTED:
            raise Violation("versions", f"version {version} stands, its round does not")
        self._versions[run] = version
        self.rounds += 1
        frozen = self._frozen[who, commit.record.round_id]
        if not included <= frozen.keys():
            raise Violation("frozen-set", f"{sorted(included - frozen.keys())} was not frozen")
        fresh = sum(self.updates[uid].payload.round_id == version for uid in included)
        if fresh < self.quorum:
            raise Violation("quorum", f"version {version} has {fresh} updates of its round")
        self.tally["partial"] += summary.partial
        self.tally["stale"] += len(included) - fresh
        for uid in sorted(included):
            self._count(uid, frozen[uid], version)
        self._check_receipts(commit, included, frozen)

    def _count(self, uid: str, accepted: frozenset[int], version: int) -> None:
        update = self.updates[uid]
        payload = update.payload
        if update.counted is not None:
            raise Violation("twice", f"{uid} counts in versions {update.counted} and {version}")
        if not 0 <= version - payload.round_id <= self.max_staleness:
            raise Violation("foreign", f"{uid} of round {payload.round_id} counts in {version}")
        others = self._by_training.setdefault((payload.client_id, payload.round_id), [])
        others.append(uid)
        if len(others) > 1:
            raise Violation("twice", f"{payload.client_id} counts as {others}")
        update.counted, update.accepted = version, accepted
        for index in accepted:
            for unit in payload.cargo[index]:
                self._counted[unit] += 1
                if self._counted[unit] > 1:
                    raise Violation("twice", f"segment {index} of {uid} counted before")

    def _check_receipts(
        self, commit: Commit, included: set[str], frozen: dict[str, frozenset[int]]
    ) -> None:
        for uid in included - commit.receipts.keys():
            raise Violation("receipt", f"{uid} counts and has no receipt")
        for uid, receipt in commit.receipts.items():
            counts = receipt.state in _COUNTS
            if counts != (uid in included):
                raise Violation("receipt", f"{uid} is {receipt.state.value}")
            if counts and receipt.accepted != frozen[uid]:
                raise Violation("receipt", f"{uid} names {sorted(receipt.accepted)}")
            if not counts and receipt.accepted:
                raise Violation("receipt", f"{uid} is {receipt.state.value} and names segments")
            if counts:
                whole = len(receipt.accepted) == len(self.updates[uid].payload.bodies)
                if whole != (receipt.state is ReceiptState.ACCEPTED):
                    raise Violation("receipt", f"{uid} is {receipt.state.value}")

    # The balance ----------------------------------------------------------------------------------

    def balance(self, outboxes: Iterable[Outbox]) -> None:
        """Check that every unit is in exactly one place.

        Args:
            outboxes: The disks of all honest devices, one per device.
        """
        places: dict[Unit, list[str]] = {unit: [] for unit in self._durable}
        for unit, times in self._discarded.items():
            places.setdefault(unit, []).extend(["discarded"] * times)
        for unit, times in self._counted.items():
            places.setdefault(unit, []).extend(["counted"] * times)
        for outbox in outboxes:
            for unit, place in self._held(outbox):
                places.setdefault(unit, []).append(place)
        for unit, place in self._freed():
            places.setdefault(unit, []).append(place)
        for unit, found in places.items():
            if unit in self._durable and len(found) != 1:
                name = "lost" if not found else "twice"
                raise Violation(name, f"{self._describe(unit)} is in {found or 'no place'}")
            if found:
                self.tally[f"units {found[0]}"] += 1

    def _held(self, outbox: Outbox) -> Iterable[tuple[Unit, str]]:
        """Yield what is on a device, but for what counts already and waits for its receipt."""
        for uid, (_, payload) in outbox.rows.items():
            update = self.updates[uid]
            if update.counted is not None:
                yield from self._uncounted(update, "waiting")
                continue
            for units in payload.cargo:
                for unit in units:
                    yield unit, "waiting"
        for leftover in outbox.left.values():
            for unit in leftover.units():
                yield unit, "left"
        rows = [payload for _, payload in outbox.rows.values()]
        left = [leftover.payload for leftover in outbox.left.values()]
        for payload in outbox.files.values():
            if payload not in rows and payload not in left:
                for unit in payload.own:
                    yield unit, "file"

    def _freed(self) -> Iterable[tuple[Unit, str]]:
        """Yield what receipts freed without its being counted: refused, or dropped by policy."""
        for update in self.updates.values():
            receipt = update.receipt
            if not update.honest or receipt is None:
                continue
            if receipt.state is ReceiptState.REFUSED:
                yield from self._all(update, f"refused {receipt.reason}")
            elif receipt.state is ReceiptState.LATE and receipt.reason == DROPPED:
                yield from self._all(update, "dropped by policy")
            elif receipt.accepted and self._is_exchangeable():
                yield from self._uncounted(update, "stood for")

    def _uncounted(self, update: Update, place: str) -> Iterable[tuple[Unit, str]]:
        place = "stood for" if self._is_exchangeable() else place
        for index, units in enumerate(update.payload.cargo):
            if index not in update.accepted:
                for unit in units:
                    yield unit, place

    def _is_exchangeable(self) -> bool:
        return codec_named(self.codec).order is Order.EXCHANGEABLE

    @staticmethod
    def _all(update: Update, place: str) -> Iterable[tuple[Unit, str]]:
        for units in update.payload.cargo:
            for unit in units:
                yield unit, place

    def _describe(self, unit: Unit) -> str:
        for uid, update in self.updates.items():
            payload = update.payload
            if unit in payload.own:
                index = payload.own.index(unit)
                return f"segment {index} of {uid} ({payload.client_id}, round {payload.round_id})"
        return f"unit {unit}"


def check_resent(resent: int, *, cuts: int, describe: Callable[[], str]) -> None:
    """Check that no more than two windows went twice for each cut."""
    if resent > RESENT_PER_CUT * cuts:
        raise Violation("resent", f"{describe()}: {resent} segments again after {cuts} cuts")


def _word(receipt: Receipt) -> tuple[str, str, frozenset[int]]:
    return receipt.state.value, receipt.reason, receipt.accepted


def _brief(frozen: dict[str, frozenset[int]] | None) -> dict[str, int] | None:
    if frozen is None:
        return None
    return {uid: len(accepted) for uid, accepted in frozen.items()}

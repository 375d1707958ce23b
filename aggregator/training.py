"""The rounds of a run, one after the other: cohorts, uploads, closing, and the next version.

    state    event                                             next
    WAITING  enough devices are online, or a quorum is held    OPEN
    OPEN     goal, nobody awaited, or deadline with quorum     CLOSING
    OPEN     deadline without quorum (abandoned)               WAITING, the same round
    CLOSING  aggregated, fewer than a quorum decode            WAITING, the same round
    CLOSING  aggregated and committed                          WAITING, the next round
    CLOSING  the same after the last round                     DONE
    DONE     anything                                          DONE

Pure. A monotonic clock does not survive a restart: how long an attempt has run is in its record,
and its deadline goes on with what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum

from aggregator.accounting import account_of
from aggregator.admission import Terms
from aggregator.announcements import AdapterFacts, Announcer
from aggregator.bulletin import Bulletin
from aggregator.closing import ABANDONED, Aggregated, abandoned, conclude
from aggregator.cohort import Presence, cohort_size
from aggregator.energy import EnergyClaims
from aggregator.history import History
from aggregator.invitations import Invitations
from aggregator.journal import RoundRecord, RoundState, Snapshot
from aggregator.ledger import Ledger
from aggregator.outputs import (
    Aggregate,
    Freeze,
    FrozenUpdate,
    JournalManifest,
    JournalSegment,
    Output,
    Publish,
    Reopen,
    SaveRound,
)
from aggregator.quotas import Quotas
from aggregator.refusals import Refusals
from aggregator.round import (
    Abandoned,
    Accepted,
    Arrived,
    Closed,
    Declined,
    Joined,
    Round,
    RoundEvent,
    RoundOutput,
    Silent,
)
from aggregator.traffic import Traffic, UploadSize
from aggregator.uploads import (
    UploadLate,
    UploadOutput,
    UploadProgress,
    UploadRefused,
    Uploads,
    UploadTwin,
)
from transport.control import EnergyReport, ServiceState, TrainResponse
from transport.messages import Manifest, Segment
from transport.topics import Down, RoundLast, UpManifest, UpSegment
from transport.transfer import TransferPolicy

logger = logging.getLogger(__name__)


class TrainingState(Enum):
    """What the rounds wait for."""

    WAITING = "waiting"  # for devices
    OPEN = "open"  # for updates
    CLOSING = "closing"  # for the shell to make the next adapter
    DONE = "done"  # all adapter versions are made


class Training:
    """Runs round after round until the run has all its adapter versions.

    Args:
        announcer: Writes the run's messages, and knows its configuration.
        presence: Who is online, kept by the caller.
        adapter: The newest adapter version.
        snapshot: What the journal holds.
        policy: How acknowledgements of segments are gathered.

    Attributes:
        state: What the rounds wait for.
        adapter: The newest adapter version that is durable.
        last_summary: Of the last committed round.
        quotas: What devices may cost, for who meets their messages first.
    """

    def __init__(
        self,
        announcer: Announcer,
        *,
        presence: Presence,
        adapter: AdapterFacts,
        snapshot: Snapshot,
        policy: TransferPolicy,
    ) -> None:
        self.state = TrainingState.WAITING
        self.adapter = adapter
        self.last_summary = snapshot.summaries[-1] if snapshot.summaries else None
        self._announcer = announcer
        self._config = config = announcer.config
        self._presence = presence
        self._invitations = Invitations(announcer, presence)
        self._history = History(announcer, snapshot.earlier)
        self.quotas = Quotas(self._config.quotas)
        self._refusals = Refusals()
        self._bulletin = Bulletin()
        self._traffic = Traffic(snapshot.traffic)
        self._energy = EnergyClaims(announcer.facts.run, max_device_w=config.max_device_w)
        self._cohort_size = cohort_size(config.goal, over_selection=config.over_selection)
        self._begin(snapshot.round or RoundRecord(round_id=adapter.version + 1))
        self._round: Round | None = None
        self._frozen: tuple[FrozenUpdate, ...] = ()
        self._uploads = Uploads(
            round_id=self._record.round_id,
            epoch=announcer.facts.epoch,
            policy=policy,
            late=self._config.late,
            quotas=self.quotas,
            updates=snapshot.updates,
            settled=snapshot.settled,
            frozen=self._record.state is RoundState.FROZEN,
        )

    # What the coordinator calls -----------------------------------------------------------------

    def start(self, *, now: float) -> list[Output]:
        """Go on where the journal ends."""
        record = self._record
        if self.adapter.version >= self._config.rounds:
            self.state = TrainingState.DONE
            return []
        if record.state is RoundState.FROZEN:
            logger.info("round=%d was frozen before the restart", record.round_id)
            self.state = TrainingState.CLOSING
            self._ledger.run(now)
            self._frozen = self._uploads.frozen(self._terms)
            return [self._aggregate()]
        if record.cohort:
            logger.info("round=%d attempt=%d goes on", record.round_id, record.attempt)
            # No commands yet: each of the cohort gets its own when the broker says who is online.
            left_s = self._ledger.left_s(self._config.deadline_s)
            outputs = self._open(record.cohort, left_s=left_s, now=now)
            for client_id in record.declined:
                outputs += self._round_event(Declined(client_id), now=now)
            return outputs
        return self._open_if_possible(now)

    def reconnected(self, now: float) -> list[Output]:
        """Say again what stands: the answers before may have been lost with the connection."""
        outputs: list[Output] = []
        if self.last_summary is not None:
            outputs.append(Publish(RoundLast(), self.last_summary, retain=True))
        if self._round is not None:
            outputs.append(self._round_status(now))
        return outputs + self._translate(self._uploads.reconnected(now), now=now)

    def device(self, client_id: str, *, arrived: bool, now: float) -> list[Output]:
        """Note that `presence` has changed by this device, which has perhaps just arrived."""
        match self.state:
            case TrainingState.WAITING:
                return self._open_if_possible(now)
            case TrainingState.OPEN if arrived:
                assert self._round is not None
                if client_id in self._round.asked:
                    outputs = self._round_event(Joined((client_id,)), now=now)
                    return outputs + self._commands((client_id,), now=now)
                return self._fill_cohort(now)
        return []

    def answered(self, client_id: str, answer: TrainResponse, *, now: float) -> list[Output]:
        """Take a device's word on whether it trains; who declines is replaced."""
        current = (answer.run, answer.round_id) == (
            self._announcer.facts.run,
            self._ledger.round_id,
        )
        if self._round is None or self.state is not TrainingState.OPEN or not current:
            return []
        if client_id not in self._round.asked:
            return []
        if answer.accepted:
            return self._accepted(client_id, now=now)
        if self._ledger.has_declined(client_id):
            return []
        logger.info(
            "declined round=%d client=%s: %.200r", answer.round_id, client_id, answer.reason
        )
        self._ledger.decline(client_id)
        return [
            *self._save(now),
            # Replaced before it is counted out, or the round would close for want of others.
            *self._fill_cohort(now, leaving=client_id),
            *self._round_event(Declined(client_id), now=now),
        ]

    def _accepted(self, client_id: str, *, now: float) -> list[Output]:
        """Count a device in that was silent, or declined an earlier attempt a moment too late."""
        saved: list[Output] = []
        if self._ledger.has_declined(client_id):
            self._ledger.accept(client_id)
            saved = self._save(now)
        return saved + self._round_event(Accepted(client_id), now=now)

    def announced(
        self, address: UpManifest, manifest: Manifest, *, size: UploadSize, now: float
    ) -> list[Output]:
        """Take the manifest of an update, which came in a packet of this size."""
        answers = self._uploads.announced(address, manifest, terms=self._terms, now=now)
        self._traffic.count(address.client_id, size, answers)
        return self._translate_and_save(answers, now=now)

    def segment(
        self, address: UpSegment, segment: Segment, *, size: UploadSize, now: float
    ) -> list[Output]:
        """Take a segment of an update, which came in a packet of this size."""
        answers = self._uploads.segment(address, segment, now=now)
        self._traffic.count(address.client_id, size, answers, body_bytes=len(segment.body))
        return self._translate_and_save(answers, now=now)

    def stored(self, segments: Mapping[str, Collection[int]], *, now: float) -> list[Output]:
        """Take note that these segments (uid → indices) are durable."""
        outputs: list[Output] = []
        for uid, indices in segments.items():
            outputs += self._translate(self._uploads.stored(uid, indices, now=now), now=now)
        return outputs

    def aggregated(self, result: Aggregated, *, now: float) -> list[Output]:
        """Take the next adapter, or open the round again where too few updates were any good."""
        assert self.state is TrainingState.CLOSING
        outputs: list[Output] = []
        for uid, reason in sorted(result.refused.items()):
            client_id = self._uploads.client_of(uid)
            if self._uploads.is_fresh(uid):
                self._ledger.bar((client_id,))
            outputs += self.refuse(client_id, reason, f"update {uid} does not decode", now=now)
        # Late updates have no say in whether a round is over.
        if sum(map(self._uploads.is_fresh, result.included)) < self._config.quorum:
            return outputs + self._reopen(result, now=now)
        return outputs + self._commit(result, now=now)

    def refuse(self, client_id: str, reason: str, text: str, *, now: float) -> list[Output]:
        """Count what was not let in, and tell operators where a notice is due."""
        self._ledger.count_refused(reason)
        return [*self._refusals.record(reason, client_id=client_id, text=text, now=now)]

    @property
    def open_round(self) -> Round | None:
        """The attempt that is on; None while none is open."""
        return self._round if self.state is TrainingState.OPEN else None

    def energy(self, client_id: str, report: EnergyReport, *, now: float) -> None:
        """Take a device's word on what the round has taken of its power."""
        ledger = self._ledger
        if client_id not in ledger.may_deliver:
            return
        fault = self._energy.receive(
            client_id, report, round_id=ledger.round_id, round_s=ledger.seconds(now), now=now
        )
        if fault:
            logger.warning("round=%d client=%s claims %s", report.round_id, client_id, fault)

    def note_stalled(self, count: int) -> None:
        """Note how many devices of the open round make no progress."""
        if self._round is not None and self._round.stalled != count:
            self._round.stalled = count
            self._bulletin.changed()

    def count_up(self, packet_bytes: int) -> None:
        """Count bytes that came as part of an upload, whatever becomes of them."""
        self._ledger.count_up(packet_bytes)
        self._bulletin.changed()

    def count_unread(self, client_id: str, packet_bytes: int) -> None:
        """Count bytes that came as part of an upload, and were no message or too many."""
        if packet_bytes:
            self.count_up(packet_bytes)
            self._traffic.count_unread(client_id, packet_bytes)

    def count_down(self, packet_bytes: int) -> None:
        """Count bytes that were published under `flx/`."""
        self._ledger.count_down(packet_bytes)

    def tick(self, now: float) -> list[Output]:
        """Do what is due; may be called early or late."""
        outputs: list[Output] = [*self._translate(self._uploads.tick(now), now=now)]
        outputs += self._tick_round(now)
        outputs += self._refusals.tick(now)
        # Only while it is open: what is in the journal after that, its own outputs write.
        if self.state is TrainingState.OPEN and self._ledger.is_save_due(now):
            outputs += self._save(now)
        if self._round is not None and self._bulletin.is_due(now):
            outputs.append(self._round_status(now))
        return outputs

    def next_wakeup(self) -> float | None:
        """Return the moment by which `tick` wants to be called."""
        moments = [self._uploads.next_wakeup(), self._refusals.next_wakeup()]
        if self._round is not None:
            moments += [self._round.next_wakeup(), self._bulletin.next_wakeup()]
        if self.state is TrainingState.OPEN:
            moments.append(self._ledger.next_save())
        return min((moment for moment in moments if moment is not None), default=None)

    # Opening ------------------------------------------------------------------------------------

    def _open_if_possible(self, now: float) -> list[Output]:
        """Open the round, for the first time or again, where there is anybody to wait for."""
        arrived = self._uploads.arrived()
        eligible = self._presence.eligible_count
        enough = eligible >= self._config.devices_to_open
        cohort: tuple[str, ...] = ()
        if enough:
            attempt = self._record.attempt + 1
            cohort = self._invitations.sample(
                self._record, attempt=attempt, busy=len(arrived), exclude=arrived
            )
        if not cohort and len(arrived) < self._config.quorum:
            reason = f"{eligible} of {self._config.devices_to_open} devices online"
            reason += ", and none of them may be asked again" if enough else ""
            return [self._announcer.service(ServiceState.WAITING, self.adapter, reason)]
        self._ledger.attempt(cohort)
        # The record before the opening: what arrived may close the round at once, and only its
        # `Freeze` may say so on disk.
        saved = self._save(now)
        outputs = self._open(cohort, left_s=self._config.deadline_s, now=now)
        return [*saved, *self._commands(cohort, now=now), *outputs]

    def _open(self, cohort: tuple[str, ...], *, left_s: float, now: float) -> list[Output]:
        """Begin, or go on with, an attempt whose record is made."""
        self.state = TrainingState.OPEN
        self._ledger.run(now)
        self.quotas.begin_round(self._terms.update_bytes)
        self._round = Round(
            goal=self._config.goal,
            quorum=self._config.quorum,
            deadline=now + left_s,
            answer_timeout_s=self._config.answer_timeout_s,
            arrived=self._uploads.arrived(),
        )
        record = self._record
        names = ",".join(cohort)
        logger.info("round=%d attempt=%d opens cohort=%s", record.round_id, record.attempt, names)
        decided = self._invitations.join(self._round, cohort, now=now)
        word = self._announcer.service(ServiceState.RUNNING, self.adapter)
        return [word, self._round_status(now), *self._after_round(decided, now=now)]

    def _fill_cohort(self, now: float, *, leaving: str | None = None) -> list[Output]:
        """Ask more devices, where fewer are training than the goal needs and others are online."""
        assert self._round is not None
        busy = len(self._round.busy) - (leaving in self._round.busy)
        if busy >= self._cohort_size:
            return []
        record, known = self._record, self._round.busy | self._round.asked
        joining = self._invitations.sample(record, attempt=record.attempt, busy=busy, exclude=known)
        if not joining:
            return []
        self._ledger.ask(joining)
        decided = self._invitations.join(self._round, joining, now=now)
        self._bulletin.changed()
        return [
            *self._save(now),
            *self._commands(joining, now=now),
            *self._after_round(decided, now=now),
        ]

    def _commands(self, client_ids: Collection[str], *, now: float) -> list[Output]:
        """Ask devices of the cohort to train, but for those that have delivered or declined."""
        if self._round is None or self.state is not TrainingState.OPEN:
            return []
        return self._invitations.commands(
            self._record, self._round, client_ids, delivered=self._round.delivered, now=now
        )

    # Closing ------------------------------------------------------------------------------------

    def _round_event(self, event: RoundEvent, *, now: float) -> list[Output]:
        if self._round is None:
            return []
        self._bulletin.changed()
        return self._after_round(self._round.receive(event, now=now), now=now)

    def _tick_round(self, now: float) -> list[Output]:
        if self._round is None or self.state is not TrainingState.OPEN:
            return []
        return self._after_round(self._round.tick(now), now=now)

    def _after_round(self, decided: list[RoundOutput], *, now: float) -> list[Output]:
        outputs: list[Output] = []
        for decision in decided:
            match decision:
                case Closed(reason):
                    outputs += self._close(reason.value, now=now)
                case Abandoned(arrived):
                    outputs += self._abandon(arrived, now=now)
                case Silent(client_ids):
                    outputs += self._replace_silent(client_ids, now=now)
        return outputs

    def _replace_silent(self, client_ids: tuple[str, ...], *, now: float) -> list[Output]:
        """Ask others in place of devices that have not answered, and then wait for none of them.

        Where nobody takes their place they are asked once more: a broker that lost its memory may
        have lost the command, and the same one twice is one.
        """
        logger.warning(
            "silent round=%d clients=%s: no answer within %.0f s",
            self._record.round_id,
            ",".join(client_ids),
            self._config.answer_timeout_s,
        )
        self._presence.fell_silent(client_ids)
        replaced = self._fill_cohort(now)
        outputs = [*replaced, *self._tick_round(now)]
        return outputs if replaced else [*outputs, *self._commands(client_ids, now=now)]

    def _abandon(self, arrived: int, *, now: float) -> list[Output]:
        told = abandoned(self._record, arrived=arrived, quorum=self._config.quorum)
        status = self._round_status(now)
        saved = SaveRound(self._leave_round(now))
        kinds = self._traffic.unsaved(self._ledger.round_id)
        return [saved, *kinds, status, told, *self._open_if_possible(now)]

    def _close(self, reason: str, *, now: float) -> list[Output]:
        self._frozen = self._uploads.freeze(self._terms)
        round_id = self._record.round_id
        logger.info("round=%d closes reason=%s updates=%d", round_id, reason, len(self._frozen))
        self.state = TrainingState.CLOSING
        return [
            self._round_status(now),
            *self._save(now),
            Freeze(self._ledger.mark(RoundState.FROZEN, now=now), self._frozen),
            self._aggregate(),
        ]

    def _aggregate(self) -> Aggregate:
        return Aggregate(self.adapter.version, self._frozen, norm_bound=self._history.norm_bound())

    def _reopen(self, result: Aggregated, *, now: float) -> list[Output]:
        """Go on with the same round, without the updates that do not decode."""
        logger.warning(
            "round=%d is opened again: %d of %d updates decode",
            self._record.round_id,
            len(result.included),
            self._config.quorum,
        )
        clients = {uid: self._uploads.client_of(uid) for uid in result.refused}
        receipts = self._uploads.thaw(result.refused)
        return [
            *self._save(now),
            Reopen(self._leave_round(now), receipts),
            *(Publish(Down(clients[uid], uid), receipts[uid]) for uid in sorted(receipts)),
            *self._open_if_possible(now),
        ]

    def _commit(self, result: Aggregated, *, now: float) -> list[Output]:
        """Let the new adapter version stand, and go on to the next round."""
        commit = conclude(
            self._announcer,
            result,
            frozen=self._frozen,
            uploads=self._uploads,
            ledger=self._ledger,
            oldest_taken=self._history.oldest_taken(self._record.round_id + 1),
            energy=self._energy.total(self._ledger.round_id),
            now=now,
        )
        account = account_of(
            self._announcer,
            commit.record,
            result,
            frozen=self._frozen,
            manifests=self._uploads.manifests(),
            traffic=self._traffic.take(),
            spent=self._energy.spent(self._ledger.round_id),
        )
        commit = replace(commit, account=account)
        record, summary = commit.record, commit.summary
        self.adapter, self.last_summary = result.adapter, summary
        self._leave_round(now)
        self._history.committed(record)
        self._begin(RoundRecord(round_id=summary.version + 1))
        cleared = [Publish(ABANDONED, None, retain=True)] if record.attempt > 1 else []
        return [
            commit,
            *self._translate(self._uploads.committed(commit.receipts), now=now),
            *self._announcer.adapter(self.adapter, None),
            Publish(RoundLast(), summary, retain=True),
            *cleared,
            *self._next(now),
        ]

    def _next(self, now: float) -> list[Output]:
        if self.adapter.version < self._config.rounds:
            return self._open_if_possible(now)
        self.state = TrainingState.DONE
        return []

    # Small things -------------------------------------------------------------------------------

    def _save(self, now: float) -> list[Output]:
        """Return what makes the round durable, with the kinds of its bytes beside their sum."""
        saved = SaveRound(self._ledger.current(now))
        return [saved, *self._traffic.unsaved(self._ledger.round_id)]

    @property
    def _record(self) -> RoundRecord:
        return self._ledger.record

    def _begin(self, record: RoundRecord) -> None:
        """Take up a round; its terms follow by themselves who may deliver, and who is cloned."""
        self._ledger = Ledger(record)
        invited, cloned = self._ledger.may_deliver, self._presence.cloned
        self._terms: Terms = replace(self._history.terms(record), invited=invited, cloned=cloned)

    def _leave_round(self, now: float) -> RoundRecord:
        self.state, self._round, self._frozen = TrainingState.WAITING, None, ()
        return self._ledger.leave(now)

    def _round_status(self, now: float) -> Output:
        assert self._round is not None
        self._bulletin.told(now)
        remaining_s = self._round.deadline - now
        return self._announcer.round(self._record, self._round, remaining_s=remaining_s)

    def _translate_and_save(self, answers: list[UploadOutput], *, now: float) -> list[Output]:
        outputs = self._translate(answers, now=now)
        if any(isinstance(output, JournalManifest | JournalSegment) for output in outputs):
            outputs += self._save(now)
        return outputs

    def _translate(self, answers: list[UploadOutput], *, now: float) -> list[Output]:
        outputs: list[Output] = []
        for answer in answers:
            match answer:
                case UploadProgress(client_id, complete):
                    outputs += self._round_event(Arrived(client_id, complete), now=now)
                    if self.state is TrainingState.WAITING:
                        outputs += self._open_if_possible(now)
                case UploadRefused(client_id, reason, text):
                    outputs += self.refuse(client_id, reason, text, now=now)
                case UploadLate(_, dropped):
                    self._ledger.count_late(dropped=int(dropped))
                case UploadTwin(client_id):
                    self._presence.quarantine(client_id)
                case _:
                    outputs.append(answer)
        return outputs

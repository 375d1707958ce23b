"""What an observer knows of a federation, as a plain JSON-able snapshot and a stream of changes.

Pure: messages and `now` (monotonic seconds) in, plain values out. Bounded whatever comes: at most
`MAX_DEVICES` devices, `MAX_ALERTS` alerts, `MAX_ROUNDS` rounds, and texts are cut and made
printable, so that they may be shown in a terminal. Every key is always there; what is unknown is
null (a text: ""). Units stand in the names; `…_s` that are moments (`now_s`, `since_s`, `heard_s`,
`raised_s`, `cleared_s`, `deadline_at_s`) are on the observer's clock: how long ago one
was is `now_s` less it, and `now_s + unix_offset_s` is Unix time.

    shape            1; another number where keys change their meaning
    federation       its name
    now_s            the moment that this speaks of
    unix_offset_s
    link             {state: "connecting" | "connected" | "disconnected" | "refused", since_s,
                     reason, heard_s}: the observer's own connection. All else is stale while it is
                     not "connected"; heard_s is when anything at all was last heard, or null
    service          {state: "unknown" | ServiceState, reason, since_s, version, session, epoch,
                     adapter_version, words}: the aggregator
    run              {run, codec, downlink_codec, rounds, base_model, segment_bytes, local_steps,
                     batch_size, error_feedback}; run "" and rounds 0 before anything is known
    round            {round_id, phase: "" | RoundPhase, deadline_at_s, cohort, goal, quorum,
                     complete, partial, late, stalled, bytes_up, bytes_down, segments,
                     segments_accepted, segments_resent, words}: the open round, its segments
                     summed over the devices that have told of their uploads for it
    model            {version, bytes, segments, delta_bytes, eval_loss, eval_accuracy}; version -1
                     before one is known
    savings          {rounds, bytes_up, bytes_up_payload, bytes_up_fp32, bytes_down, seconds, times,
                     saved_pct, energy_j, words}: sums over the closed rounds that were seen (who
                     comes late has seen the last one alone); `times` is bytes_up_fp32 / bytes_up
    fleet            {devices, attention: {class: count}, states: {state: count}, power_w,
                     goodput_bps, hottest_c, hottest_id, words}; counts of all six classes
    observer         {malformed, devices_left_out, alerts_left_out}: what was not taken in
    devices.<id>     {id, attention: "refused" | "lost" | "stalled" | "paused" | "slow" | "ok",
                     words, why, state: "unknown" | DeviceState, reason, since_s, heard_s, round_id,
                     train_round, step, steps, train_loss, eta_s, micro_batch, out_of_memory,
                     upload_round, segments, segments_sent, segments_accepted, segments_resent,
                     bytes_sent, stalled_s, update_bytes, declined, declined_round, goodput_bps,
                     power_w, temp_c, cpu_pct, gpu_pct, ram_used_mb, ram_mb, swap_used_mb,
                     disk_free_mb, battery_pct, on_mains, power_mode, energy_j, energy_round,
                     eval_version, eval_loss, sent_total, resent_total, accepted_total,
                     updates_accepted, restarts, board, agent_version, jetpack, examples,
                     heldout_examples, base_precision}.
                     `words` is the whole sentence for people, `why` the part that says what is
                     wrong ("" for ok)
    rounds.<n>       {round_id, version, participants, complete, partial, late, stale, dropped,
                     clipped, seconds, bytes_up, bytes_up_payload, bytes_up_fp32, bytes_down, times,
                     train_loss, eval_version, eval_loss, eval_accuracy, energy_j,
                     energy_above_idle_j, energy_devices, refused: {reason: count}}
    losses.<version> {version, eval_loss, eval_accuracy, train_loss}; train_loss is that of the
                     round that made the version
    alerts.<code>    {code, severity, text, count, client_id, raised_s}: those that stand
    alert_log.<n>    the same and `cleared_s`, null while it stands; the newest `MAX_LOGGED`

`devices`, `rounds`, `losses`, `alerts` and `alert_log` are objects by key in the snapshot. A change
is path → value, where the path is a section (`round`) or a section and a key (`devices.nano-01`),
and the value replaces all that stood there (a whole section `devices`, too, where very much has
changed); null under a key removes it. A change says how things are, not what was done, so whoever
takes a snapshot between two changes may apply the later ones.
"""

from __future__ import annotations

import statistics
from datetime import timezone, tzinfo
from typing import Any, Final, TypeAlias

from tools.monitor import foreign
from tools.monitor.alerts import Alerts
from tools.monitor.attention import Scene, is_there
from tools.monitor.device import Device
from tools.monitor.document import Changes, Document, Snapshot
from tools.monitor.history import Rounds, no_savings
from tools.monitor.rows import device_row, fleet_row
from tools.monitor.service import model_row, no_model, round_row, run_row, service_row
from tools.monitor.words import clock_text
from transport import control, topics
from transport.errors import MessageError

SHAPE: Final = 1
MAX_DEVICES: Final = 2_000
# [s] How often every device is looked at again: time alone makes some of them stall.
REVIEW_S: Final = 1.0
# Devices with a measured upload from which a median says something.
_MEDIAN_OF: Final = 3
_KEYED: Final = ("devices", "rounds", "losses", "alerts", "alert_log")

_LEAVES: Final[dict[str, type[Any]]] = {
    "status": control.DeviceStatus,
    "info": control.DeviceProfile,
    "telemetry": control.Telemetry,
    "progress": control.Progress,
    "energy": control.EnergyReport,
}
_RESPONSES: Final[dict[str, type[Any]]] = {
    "train": control.TrainResponse,
    "eval": control.EvalResponse,
}
_OfRun: TypeAlias = control.RoundStatus | control.RoundSummary | control.ModelStatus


class Monitor:
    """Folds a federation's monitoring messages, and says what has changed.

    Args:
        federation: Whose topics these are; messages of others are counted as malformed.
        unix_offset_s: What Unix time is ahead of `now`, for moments that people read.
        zone: In which such moments are told.
    """

    def __init__(
        self, federation: str, *, unix_offset_s: float = 0.0, zone: tzinfo = timezone.utc
    ) -> None:
        self._topics = topics.Topics(federation)
        self._unix_offset_s = unix_offset_s
        self._zone = zone
        self._now = 0.0
        self._devices: dict[str, Device] = {}
        self._dirty: set[str] = set()
        self._reviewed_s = float("-inf")
        self._linked_s = 0.0
        self._cut_s: float | None = None
        self._link: dict[str, Any] = {
            "state": "connecting", "since_s": 0.0, "reason": "", "heard_s": None,
        }  # fmt: skip
        self._run = ""
        self._is_announced = False
        self._held: dict[type[Any], _OfRun] = {}
        self._round: control.RoundStatus | None = None
        self._deadline_s: float | None = None
        self._observer = {"malformed": 0, "devices_left_out": 0}
        self._document = Document(
            {
                "shape": SHAPE,
                "federation": federation,
                "now_s": 0.0,
                "unix_offset_s": round(unix_offset_s, 3),
                "link": dict(self._link),
                "service": service_row(None, since_s=None),
                "run": run_row(None),
                "round": round_row(None, deadline_at_s=None, segments=(0, 0, 0), rounds=0),
                "model": no_model(),
                "savings": no_savings(),
                "fleet": fleet_row(()),
                "observer": {**self._observer, "alerts_left_out": 0},
            },
            keyed=_KEYED,
        )
        self._alerts = Alerts(self._document)
        self._rounds = Rounds(self._document)

    # What happens ---------------------------------------------------------------------------------

    def receive(self, topic: str, payload: bytes, *, now: float, retained: bool = False) -> None:
        """Fold in one message; what cannot be read is counted and left out.

        Args:
            topic: Where it came.
            payload: JSON; empty where something retained was cleared.
            now: Monotonic seconds.
            retained: The broker had kept it: nobody knows since when it is so.
        """
        self._advance(now)
        self._link["heard_s"] = round(self._now, 1)
        try:
            self._fold(self._topics.parse(topic), payload, is_live=not retained)
        except MessageError:
            self._observer["malformed"] += 1

    def tick(self, now: float) -> None:
        """Let time pass: who is silent for too long is found here. Call it once a second or so."""
        self._advance(now)
        if self._now >= self._reviewed_s + REVIEW_S:
            self._reviewed_s = self._now
            self._dirty.update(self._devices)

    def set_clock(self, unix_offset_s: float) -> None:
        """Take what Unix time is ahead of `now`: after a sleep, or when the clock was set."""
        self._unix_offset_s = unix_offset_s
        self._document.put("unix_offset_s", round(unix_offset_s, 3))

    def linked(self, now: float) -> None:
        """The observer is connected: from now on, who says nothing is silent."""
        self._advance(now)
        self._linked_s, self._cut_s = self._now, None
        self._set_link("connected", "")

    def unlinked(self, reason: str, *, now: float, is_final: bool = False) -> None:
        """The observer's own connection is lost, for good where it `is_final`."""
        self._advance(now)
        if self._cut_s is None:
            self._cut_s = self._now
        self._set_link("refused" if is_final else "disconnected", foreign.text(reason))

    # What is known --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return everything that is known at the last moment that was told of."""
        self._refresh()
        return self._document.snapshot()

    def changes(self) -> Changes:
        """Return what has changed since this was last called: path → value."""
        self._refresh()
        return self._document.take_changes()

    def history(self, client_id: str) -> dict[str, list[list[float]]] | None:
        """Return a device's figures over time as `[moment_s, value]`, None for one unknown.

        The keys are `goodput_bps`, `power_w` and `temp_c`, each with at most 300 points.
        """
        device = self._devices.get(client_id)
        if device is None:
            return None
        return {
            "goodput_bps": device.goodput.points(),
            "power_w": device.power.points(),
            "temp_c": device.temperature.points(),
        }

    # Folding --------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        self._now = max(self._now, now)

    def _set_link(self, state: str, reason: str) -> None:
        if state != self._link["state"]:
            self._link.update(state=state, since_s=round(self._now, 1))
            self._dirty.update(self._devices)
        self._link["reason"] = reason

    def _fold(self, address: topics.Address, payload: bytes, *, is_live: bool) -> None:
        match address:
            case topics.DeviceTopic(client_id, leaf):
                self._fold_device(client_id, leaf, payload, is_live=is_live)
            case topics.Response(client_id, name, _):
                self._fold_response(client_id, name, payload, is_live=is_live)
            case topics.Alert(code) if payload:
                notice = control.decode(control.AlertNotice, payload)
                self._alerts.raised(code, notice, now=self._now, is_live=is_live)
                self._dirty.update(self._devices)
            case topics.Alert(code):
                self._alerts.cleared(code, now=self._now)
                self._dirty.update(self._devices)
            case topics.CoordStatus():
                self._fold_service(payload)
            case topics.CoordRun() if payload:
                self._announced(control.decode(control.RunAnnouncement, payload))
            case topics.RoundNow() if payload:
                self._of_run(control.decode(control.RoundStatus, payload))
            case topics.RoundLast() if payload:
                self._of_run(control.decode(control.RoundSummary, payload))
            case topics.Model() if payload:
                self._of_run(control.decode(control.ModelStatus, payload))
            case _:
                pass

    def _fold_service(self, payload: bytes) -> None:
        status = control.decode(control.ServiceStatus, payload) if payload else None
        before = self._document.value("service")
        row = service_row(status, since_s=round(self._now, 1))
        if row["state"] == before["state"]:
            row["since_s"] = before["since_s"]
        self._document.put("service", row)

    def _announced(self, run: control.RunAnnouncement) -> None:
        self._is_announced = True
        self._enter(run.run)
        self._document.put("run", run_row(run))
        held, self._held = self._held, {}
        for message in held.values():
            self._of_run(message)

    def _enter(self, run: str) -> None:
        if run == self._run:
            return
        self._run = run
        self._round, self._deadline_s = None, None
        self._rounds.forget()
        self._document.put("model", no_model())

    def _of_run(self, message: _OfRun) -> None:
        """Take what belongs to a run: of one that is not announced yet, later."""
        if not self._is_announced:
            self._enter(message.run)
        elif message.run != self._run:
            self._held[type(message)] = message
            return
        match message:
            case control.RoundStatus():
                self._round = message
                self._deadline_s = self._now + (foreign.positive(message.deadline_s) or 0.0)
            case control.RoundSummary():
                self._rounds.closed(message)
            case control.ModelStatus():
                self._document.put("model", model_row(message))
                if message.eval_loss is not None:
                    accuracy = message.eval_accuracy
                    self._rounds.evaluated(message.version, message.eval_loss, accuracy)

    def _device(self, client_id: str) -> Device | None:
        device = self._devices.get(client_id)
        if device is None:
            if len(self._devices) >= MAX_DEVICES:
                self._observer["devices_left_out"] += 1
                return None
            device = self._devices[client_id] = Device(client_id, known_s=self._now)
        self._dirty.add(client_id)
        return device

    def _fold_device(self, client_id: str, leaf: str, payload: bytes, *, is_live: bool) -> None:
        if not payload:
            self._cleared(client_id, leaf)
            return
        message = control.decode(_LEAVES[leaf], payload)
        device = self._device(client_id)
        if device is None:
            return
        match message:
            case control.DeviceStatus():
                device.say(message, now=self._now, is_live=is_live)
                # A last will is the broker's word.
                is_live = is_live and message.state is not control.DeviceState.LOST
            case control.Progress():
                device.progress(message, now=self._now)
            case control.Telemetry():
                device.feel(message, now=self._now)
            case control.EnergyReport():
                device.spend(message)
            case control.DeviceProfile():
                device.describe(message)
        if is_live:
            device.hear(self._now)

    def _cleared(self, client_id: str, leaf: str) -> None:
        if leaf == "status" and client_id in self._devices:
            del self._devices[client_id]
            self._dirty.discard(client_id)
            self._document.remove("devices", client_id)

    def _fold_response(self, client_id: str, name: str, payload: bytes, *, is_live: bool) -> None:
        kind = _RESPONSES.get(name)
        if kind is None or not payload:
            return
        message = control.decode(kind, payload)
        device = self._device(client_id)
        if device is None:
            return
        if isinstance(message, control.TrainResponse):
            device.answer(message)
        else:
            device.evaluate(message)
        if is_live:
            device.hear(self._now)

    # Showing --------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        document = self._document
        scene = self._scene()
        for client_id in self._dirty:
            row = device_row(self._devices[client_id], scene)
            document.put("devices", row, key=client_id)
        rows = document.section("devices")
        if self._dirty or document.value("fleet")["devices"] != len(rows):
            document.put("fleet", fleet_row(rows.values()))
        self._dirty.clear()
        document.put("round", self._round_row())
        document.put("link", dict(self._link))
        document.put("observer", {**self._observer, "alerts_left_out": self._alerts.left_out})
        document.put("now_s", round(self._now, 1))

    def _round_row(self) -> dict[str, Any]:
        segments = accepted = resent = 0
        round_id = self._round.round_id if self._round else 0
        for device in self._devices.values():
            upload = device.upload
            if round_id and upload.round_id == round_id:
                segments += upload.segments
                accepted += min(upload.accepted, upload.segments)
                resent += upload.resent
        rounds = self._document.value("run")["rounds"]
        return round_row(
            self._round,
            deadline_at_s=self._deadline_s,
            segments=(segments, accepted, resent),
            rounds=rounds,
        )

    def _scene(self) -> Scene:
        now = self._now if self._cut_s is None else self._cut_s
        is_open = self._round is not None and self._round.phase is control.RoundPhase.OPEN
        return Scene(
            now=now,
            linked_s=self._linked_s,
            round_id=self._round.round_id if self._round and is_open else 0,
            deadline_s=self._deadline_s if is_open else None,
            median_bps=self._median_bps(now),
            refused=self._alerts.refused(now),
            stalled=self._alerts.stalled(),
            clock=lambda moment_s: self._clock(moment_s + self._unix_offset_s),
            unix_clock=self._clock,
        )

    def _median_bps(self, now: float) -> float | None:
        told = [
            goodput_bps
            for device in self._devices.values()
            if is_there(device) and (goodput_bps := device.goodput_bps(now))
        ]
        return statistics.median(told) if len(told) >= _MEDIAN_OF else None

    def _clock(self, unix_s: float) -> str:
        return clock_text(unix_s, now_s=self._now + self._unix_offset_s, zone=self._zone)

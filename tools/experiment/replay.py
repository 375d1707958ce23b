"""A trial's messages once more, over real links with real processes: does the time model hold?

    fedfstq simulate replay TRIAL.jsonl --link lte-20 --link lte-mixed --out evidence

mosquitto, an aggregator and agents run in network namespaces behind a real `tc netem`
(`tools.netem.lab`), as many agents as `--devices`: those of the trial's first cohort for whom the
model draws the slowest links, which they get. Trainers are synthetic: they sleep for as
long as the client trained in that round, and encode made-up deltas of the adapter's size with the
trial's codec to the bytes that its updates had. Adapters go down whole, in fp32.

The first `CLEAR_ROUNDS` rounds run over links without limits, and show what this machine's
processes and disks take by themselves; then the links are put in place, one round passes, and the
next ones are compared with what `tools.experiment.timing` says of the very bytes they moved.

`replay.json` holds (see `tools.bench.figures_file`) rows of:

    trial, method, link, devices, rounds
    slowest_rate_bps            of the devices' links
    bytes_up_per_client, bytes_down_per_client      whole messages, mean over the rounds
    modelled_s, measured_s      seconds of a round, mean over the rounds
    measured_min_s, measured_max_s
    clear_s                     a round without limits, mean; train_s: what of it is training
    difference_s                measured - modelled
    relative_difference         the same as a share of what was modelled
    unexplained_s               difference less (clear_s - train_s), the machine's own part
    load_average                of the machine, over the last minute at the end
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from agent.adapter import make_initial_adapter
from agent.base import BaseError
from aggregator.adapter_folder import read_adapter
from codec.registry import codec_named
from tools.experiment.methods import parse_method
from tools.experiment.timing import ClientLink, ClientRound, LinkProfile, TimeModel
from tools.netem.lab import SERVER, Lab
from tools.netem.namespaces import within
from tools.netem.profile import Direction, Profile
from tools.soak import evidence
from tools.soak.fleet import Fleet, FleetSpec
from tools.soak.outcome import Tell
from tools.soak.synthetic_trainer import Behaviour
from transport.control import RoundSummary

CLEAR_ROUNDS: Final = 3
# Of the clear rounds, those that show what the machine takes: the first one waits for services.
_CLEAR_FROM: Final = 2
# [s] Start of all processes on a busy machine.
_READY_S: Final = 120.0
# How much longer than modelled a round may take before something hangs.
_PATIENCE: Final = 20.0
_LEAST_S: Final = 15.0


class NotReplayable(Exception):
    """A file is no trial, or one without rounds."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What of a trial is played again.

    Attributes:
        name: The trial's.
        method: Its text.
        codec: The codec's name.
        seed: The trial's.
        clients: Of its first cohort, those that arrived.
        coordinates: Of the adapter.
        segment_bytes: As configured.
    """

    name: str
    method: str
    codec: str
    seed: int
    clients: tuple[ClientRound, ...]
    coordinates: int
    segment_bytes: int

    def slowest(self, devices: int, *, profile: LinkProfile) -> Sent:
        """Return it with the clients whose links are the slowest: they end the round."""
        model = TimeModel(profile, seed=self.seed)
        ordered = sorted(self.clients, key=lambda client: model.rate_bps(client.client_id))
        return replace(self, clients=tuple(ordered[:devices]))


@dataclass(frozen=True, slots=True)
class ReplayRow:
    """One line of the answer; the head of this file tells what its fields are."""

    trial: str
    method: str
    link: str
    devices: int
    rounds: int
    slowest_rate_bps: float
    bytes_up_per_client: float
    bytes_down_per_client: float
    modelled_s: float
    measured_s: float
    measured_min_s: float
    measured_max_s: float
    clear_s: float
    train_s: float
    difference_s: float
    relative_difference: float
    unexplained_s: float
    load_average: float


def read_trial(path: Path) -> Sent:
    """Return what a trial's file says was sent in its first round.

    Raises:
        NotReplayable: It is no trial, nothing arrived in it, or its base model is not here.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise NotReplayable(f"{path} cannot be read as a trial: {error}") from error
    header = next((line for line in lines if line.get("kind") == "trial"), None)
    rounds = [line for line in lines if line.get("kind") == "round" and line.get("clients")]
    if header is None or not rounds:
        raise NotReplayable(
            f"{path} is no trial with a round; give a file of `simulate experiment`"
        )
    trial = header["trial"]
    clients = tuple(map(ClientRound.from_record, rounds[0]["clients"]))
    arrived = tuple(client for client in clients if client.arrived)
    if not arrived:
        raise NotReplayable(f"{path}: nothing arrived in its first round")
    try:
        coordinates = _coordinates(trial)
    except BaseError as error:
        raise NotReplayable(f"{path}: {error}") from error
    return Sent(
        name=path.stem,
        method=trial["method"],
        codec=parse_method(trial["method"]).codec,
        seed=int(trial["seed"]),
        clients=arrived,
        coordinates=coordinates,
        segment_bytes=int(trial["segment_bytes"]),
    )


def replay(sent: Sent, folder: Path, *, profile: LinkProfile, rounds: int, tell: Tell) -> ReplayRow:
    """Play a trial's messages over one kind of links; needs root.

    Args:
        sent: What is played, with as many clients as there are to be devices.
        folder: For the processes' files; must not exist.
        profile: The links.
        rounds: That are measured.
        tell: Is told of progress.

    Raises:
        NetemError: There can be no such links here.
        FleetStuck: A round did not end.
    """
    model = TimeModel(profile, seed=sent.seed)
    expected_s = model.round_time(
        [replace(client, bytes_down=4 * sent.coordinates) for client in sent.clients]
    ).seconds
    total = CLEAR_ROUNDS + 1 + rounds
    with Lab(devices=len(sent.clients)) as lab:
        spec = _spec(sent, lab, rounds=total)
        is_limited = False

        def limit() -> None:
            """Put the links in place once the clear rounds are over."""
            nonlocal is_limited
            state = fleet.state("aggregator")
            if not is_limited and evidence.committed_version(state) >= CLEAR_ROUNDS:
                for device, client in zip(spec.devices, sent.clients, strict=True):
                    lab.apply(_netem(model.link(client.client_id)), device=device)
                is_limited = True

        with Fleet(folder, spec) as fleet:
            fleet.start()
            patience_s = _READY_S + total * (_PATIENCE * expected_s + _LEAST_S)
            fleet.wait_finished(timeout_s=patience_s, tell=tell, step=limit)
            lab.apply(Profile(title="clear"))  # the goodbyes need not fight their way
        summaries = evidence.gather(folder / "state", spec.devices).summaries
    return compared(sent, summaries, model=model)


def compared(sent: Sent, summaries: Sequence[RoundSummary], *, model: TimeModel) -> ReplayRow:
    """Return what was measured beside what is modelled of the same bytes.

    Args:
        sent: What was played.
        summaries: Of all rounds: the clear ones, one of the change, those that count.
        model: Of the links.
    """
    clear = summaries[_CLEAR_FROM - 1 : CLEAR_ROUNDS]
    counted = summaries[CLEAR_ROUNDS + 1 :]
    modelled = [model.round_time(_moved(sent, summary)).seconds for summary in counted]
    measured = [summary.seconds for summary in counted]
    train_s = max(client.train_s for client in sent.clients)
    clear_s, modelled_s = fmean(summary.seconds for summary in clear), fmean(modelled)
    difference_s = fmean(measured) - modelled_s
    return ReplayRow(
        trial=sent.name,
        method=sent.method,
        link=model.profile.value,
        devices=len(sent.clients),
        rounds=len(counted),
        slowest_rate_bps=min(model.link(client.client_id).rate_bps for client in sent.clients),
        bytes_up_per_client=fmean(each.bytes_up / each.participants for each in counted),
        bytes_down_per_client=fmean(each.bytes_down for each in counted),
        modelled_s=modelled_s,
        measured_s=fmean(measured),
        measured_min_s=min(measured),
        measured_max_s=max(measured),
        clear_s=clear_s,
        train_s=train_s,
        difference_s=difference_s,
        relative_difference=difference_s / modelled_s,
        unexplained_s=difference_s - (clear_s - train_s),
        load_average=os.getloadavg()[0],
    )


def _moved(sent: Sent, summary: RoundSummary) -> list[ClientRound]:
    """Return the clients with the bytes that a replayed round has moved."""
    share = round(summary.bytes_up / summary.participants)
    return [
        replace(client, bytes_up=share, bytes_down=summary.bytes_down) for client in sent.clients
    ]


def _spec(sent: Sent, lab: Lab, *, rounds: int) -> FleetSpec:
    sizes = [client.bytes_up for client in sent.clients]
    dense = codec_named(sent.codec).dense
    devices = {f"device-{number}": client for number, client in enumerate(sent.clients, start=1)}
    return FleetSpec(
        agents=len(sent.clients),
        rounds=rounds,
        coordinates=sent.coordinates,
        settings={
            "codec": sent.codec,
            "update_bytes": None if dense else round(fmean(sizes)),
            "segment_bytes": sent.segment_bytes,
        },
        behaviours={name: Behaviour(train_s=client.train_s) for name, client in devices.items()},
        broker_host=lab.address(SERVER),
        launch=lambda name, command: within(
            lab.namespace(name if name in devices else SERVER), command
        ),
    )


def _netem(link: ClientLink) -> Profile:
    direction = Direction(rate_kbit=link.rate_bps / 1000, delay_ms=1000 * link.round_trip_s / 2)
    return Profile(title=f"{link.rate_bps / 1e6:.2f} Mbit/s", up=direction, down=direction)


def _coordinates(trial: Mapping[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as name:
        make_initial_adapter(
            trial["model"],
            Path(name),
            rank=trial["rank"],
            alpha=trial["lora_alpha"],
            target_modules=trial["target_modules"],
            seed=0,
        )
        return read_adapter(Path(name)).layout.size

"""A device that keeps to no protocol: it wants in what does not belong, and wants others out."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tools.simulate import payloads
from tools.simulate.broker import TOPICS, Entry
from tools.simulate.line import Line, Network
from tools.simulate.payloads import Payload
from transport import control, frame
from transport.control import DeviceState, DeviceStatus, TrainCommand, TrainResponse
from transport.errors import MessageError
from transport.messages import AdapterWant, Manifest, Segment
from transport.topics import Command, DeviceTopic, ModelWant, Response, UpManifest, UpSegment

if TYPE_CHECKING:
    from tools.simulate.world import World


class Hostile:
    """One hostile device: its broker login is its own, all else is a lie."""

    def __init__(
        self, world: World, *, client_id: str, network: Network, rng: random.Random
    ) -> None:
        self.client_id = client_id
        self._world = world
        self._network = network
        self._rng = rng
        self._old: list[tuple[str, Manifest, tuple[bytes, ...]]] = []
        self._line: Line | None = None

    def start(self) -> None:
        """Connect."""
        world = self._world
        will = DeviceTopic(self.client_id, "status")
        self._line = Line(
            world.clock,
            world.broker,
            self,
            client_id=self.client_id,
            filters=TOPICS.agent_filters(self.client_id),
            will=(will, world.packed(will, DeviceStatus(DeviceState.LOST, "x"))),
            network=self._network,
            rng=self._rng,
        )
        world.lines[self._line] = None
        self._line.open()

    def line_up(self) -> None:
        """Look like any device."""
        address = DeviceTopic(self.client_id, "status")
        self._send(address, DeviceStatus(DeviceState.IDLE, "x"), retain=True)

    def line_down(self) -> None:
        """Come back."""

    def line_refused(self) -> None:
        """Stay away."""

    def line_delivers(self, entry: Entry) -> None:
        """Answer a command with an attack."""
        assert self._line is not None
        self._line.acknowledge(entry)
        if isinstance(entry.address, Command) and entry.address.name == "train":
            message = entry.message
            if isinstance(message, bytes):
                try:
                    message = control.decode(TrainCommand, message)
                except MessageError:
                    return
            self._attack(message)

    def _attack(self, command: TrainCommand) -> None:
        number = str(command.round_id)
        response = TrainResponse(run=command.run, round_id=command.round_id, accepted=True)
        self._send(Response(self.client_id, "train", number), response)
        manifest, bodies = self._update(command)
        attacks = (
            self._valid,
            self._foreign_identity,
            self._wrong_uid,
            self._wrong_digests,
            self._no_measurement,
            self._replay,
            self._segments_of_others,
            self._undecodable,
            self._second,
            self._beyond,
            self._flood,
            self._far_round,
            self._silent,
        )
        for attack in self._rng.sample(attacks, 3):
            self._world.truth.tally[f"attack {attack.__name__.strip('_')}"] += 1
            attack(manifest, bodies)

    def _update(self, command: TrainCommand) -> tuple[Manifest, tuple[bytes, ...]]:
        segments = self._rng.randint(1, 3)
        bodies = payloads.bodies_of(
            self.client_id, command.round_id, nonce=self._rng.getrandbits(16), segments=segments
        )
        return self._manifest(command.run, command.round_id, bodies), bodies

    def _manifest(self, run: str, round_id: int, bodies: tuple[bytes, ...]) -> Manifest:
        payload = Payload(self.client_id, run, round_id, 0, bodies, (), (), ())
        return payloads.manifest_of(
            payload,
            layout_digest=self._world.layout.digest,
            codec=self._world.config.codec,
            seq=1 + self._rng.getrandbits(29),
            num_examples=self._rng.choice((1, 10, 1_000_000)),
            evaluation=None,
        )

    # Attacks --------------------------------------------------------------------------------------

    def _offer(
        self, uid: str, manifest: Manifest, bodies: tuple[bytes, ...], *, legal: bool = False
    ) -> None:
        truth = self._world.truth
        if legal:
            own = truth.new_units(len(bodies))
            cargo = tuple((unit,) for unit in own)
            payload = Payload(
                self.client_id, manifest.run, manifest.round_id, 0, bodies, (), own, cargo
            )
            truth.entered(uid, payload, honest=False)
        elif uid not in truth.updates:
            truth.forbid(uid)
        self._send(UpManifest(self.client_id, uid), manifest)
        for index, body in enumerate(bodies):
            self._send(UpSegment(self.client_id, uid, index), Segment(body))

    def _valid(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        uid = frame.uid(manifest)
        self._old.append((uid, manifest, bodies))
        self._offer(uid, manifest, bodies, legal=True)

    def _foreign_identity(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        forged = replace(manifest, client_id=self._rng.choice(list(self._world.devices)))
        self._offer(frame.uid(forged), forged, bodies)

    def _wrong_uid(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        self._offer(f"{self._rng.getrandbits(128):032x}", manifest, bodies)

    def _wrong_digests(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        wrong = tuple(body[:-1] + b"?" for body in bodies)
        uid = frame.uid(manifest)
        self._send(UpManifest(self.client_id, uid), manifest)
        for index, body in enumerate(wrong):
            self._send(UpSegment(self.client_id, uid, index), Segment(body))

    def _no_measurement(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        if self._world.scenario.wire:
            lies: dict[str, Any] = {"steps": 5, "train_loss": 1e30}
        else:
            lies = self._rng.choice(
                ({"train_loss": math.nan}, {"train_s": math.inf}, {"num_examples": 0})
            )
        self._offer("f" * 32, replace(manifest, **lies), bodies)

    def _replay(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:  # noqa: ARG002
        if self._old:
            uid, old, old_bodies = self._rng.choice(self._old)
            self._offer(uid, old, old_bodies)

    def _segments_of_others(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:  # noqa: ARG002
        others = list(self._world.truth.updates.items())
        if others:
            uid, update = self._rng.choice(others)
            for index, body in enumerate(update.payload.bodies):
                self._send(UpSegment(self.client_id, uid, index), Segment(body[:-1] + b"?"))

    def _undecodable(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        bad = tuple(payloads.UNDECODABLE + body for body in bodies)
        forged = self._manifest(manifest.run, manifest.round_id, bad)
        self._offer(frame.uid(forged), forged, bad)

    def _second(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        for extra in (b"a", b"b"):
            more = tuple(body + extra for body in bodies)
            self._valid(self._manifest(manifest.run, manifest.round_id, more), more)

    def _beyond(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        uid = frame.uid(manifest)
        self._send(UpManifest(self.client_id, uid), manifest)
        self._send(UpSegment(self.client_id, uid, len(bodies) + 5), Segment(b"beyond"))

    def _flood(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        for _ in range(30):
            uid = f"{self._rng.getrandbits(128):032x}"
            self._send(UpSegment(self.client_id, uid, 0), Segment(bodies[0]))
            self._send(ModelWant(self.client_id, manifest.base_version), AdapterWant(None))

    def _far_round(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        forged = replace(manifest, round_id=manifest.round_id + 3, base_version=manifest.round_id)
        self._offer(frame.uid(forged), forged, bodies)

    def _silent(self, manifest: Manifest, bodies: tuple[bytes, ...]) -> None:
        """Say nothing at all, after having taken the round."""

    def _send(self, address: Any, message: Any, *, retain: bool = False) -> None:
        assert self._line is not None
        self._line.publish(address, self._world.packed(address, message), retain=retain)

"""The scenes of the kill matrix: one fault each, in a run that must end as if nothing had been.

Every scene begins with the same state folder, and so with the same run id: its updates have the
uids of the undisturbed run, and its adapters must have the same digests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.soak import evidence
from tools.soak.fleet import AGGREGATOR, BROKER, Fleet, FleetSpec, FleetStuck
from tools.soak.synthetic_trainer import Behaviour
from transport.crash_points import CRASH_POINTS, FILE_POINTS
from transport.exit_codes import ExitCode

ROUNDS = 3
# Unequal weights: an update that is counted twice or not at all changes every coordinate.
SPEC = FleetSpec(
    agents=2,
    rounds=ROUNDS,
    behaviour=Behaviour(examples=90),
    behaviours={"device-2": Behaviour(examples=41)},
)
# What an update leaves behind goes into the next one, and versions go down as deltas: each update
# and each version depends on all before it.
FEEDBACK = replace(
    SPEC,
    settings={
        "codec": "fstq",
        "error_feedback": True,
        "downlink_codec": "fstq+",
        "downlink_bits_per_coordinate": 4.0,
    },
)
_VICTIM = "device-1"
_TIMEOUT_S = 120.0

# At which reach of its life a process dies, where the first one is not in the middle of a round:
# an adapter of this size is announced in two packets at every start, and a round's opening is
# journaled before any segment.
_REACHES: Mapping[str, tuple[int, ...]] = {
    "agent-segment-sent": (1, 7),
    "agent-answer-in": (1, 2),
    "aggregator-journal-before": (1, 3),
    "aggregator-journal-open": (1, 3),
    "aggregator-journal-committed": (1, 3),
    "aggregator-journal-answered": (1, 6),
    "aggregator-adapter-sent": (1, 4),
    "aggregator-announced": (1, 2),
}

# [bytes] Of the small disk that is filled to its last block.
_DISK_BYTES = 4 << 20
# [s] How long it stays full.
_FULL_S = 4.0


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault, and when it comes.

    Attributes:
        environ: Variables of single services.
        during: Called with every poll: does what no variable can.
        disk: Prepares the fleet's folder before anything is started.
        codes: How processes may end; SIGKILL where the fault is one.
        needs_root: It mounts a disk.
        marks: The fault leaves a mark, which must be there at the end.
        same_digests: False where a device may hear of the next round before it has the receipt of
            the last one, and what that leaves behind goes into a later update.
        spec: The fleet.
    """

    name: str
    environ: Callable[[Path], Mapping[str, Mapping[str, str]]] = lambda _mark: {}
    during: Callable[[Fleet], Callable[[], None]] = lambda _fleet: lambda: None
    disk: Callable[[Fleet], AbstractContextManager[None]] = lambda _fleet: nullcontext()
    codes: frozenset[int] = frozenset({-9})
    needs_root: bool = False
    marks: bool = False
    same_digests: bool = True
    spec: FleetSpec = SPEC


@dataclass(frozen=True, slots=True)
class SceneResult:
    """How a scene ended; nothing in `wrong` is what is wanted."""

    name: str
    seconds: float
    wrong: tuple[str, ...]
    codes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """A run without faults.

    Attributes:
        template: The state folder that it began with, and that its scenes begin with.
        digests: Of its adapter versions; empty while it is played itself.
    """

    template: Path
    digests: Mapping[int, str]


def play(scene: Scene, folder: Path, *, reference: Reference) -> SceneResult:
    """Play a scene, and compare what it left with the undisturbed run.

    Args:
        scene: The fault.
        folder: Empty, for this scene.
        reference: The undisturbed run of the same settings.
    """
    began = time.monotonic()
    mark = folder / "fault"
    fleet = Fleet(folder, scene.spec, template=reference.template)
    wrong: list[str] = []
    with fleet, scene.disk(fleet):
        try:
            fleet.start(environ=scene.environ(mark))
            fleet.wait_finished(timeout_s=_TIMEOUT_S, step=scene.during(fleet))
        except FleetStuck as error:
            wrong.append(str(error))
        codes = {name: tuple(child.codes) for name, child in fleet.supervisor.children.items()}
        last = fleet.supervisor.stop()
        left = evidence.gather(folder / "state", scene.spec.devices)
    if not wrong:
        wrong += evidence.check_exactly_once(left, rounds=scene.spec.rounds)
        if scene.same_digests:
            wrong += _differences(left.digests, reference.digests, "the undisturbed run")
        if scene.spec.settings == FEEDBACK.settings:
            wrong += evidence.check_balance(left, state=folder / "state", config=fleet.config)
        else:
            expected = evidence.recompute(left, state=folder / "state", config=fleet.config)
            wrong += _differences(left.digests, expected, "the sum done anew")
    if scene.marks and not mark.exists():
        wrong.append("the point was never reached")
    for name, ends in codes.items():
        wrong += [f"{name} ended with {code}" for code in ends if code not in scene.codes]
    wrong += [f"{name} stopped with {code}" for name, code in last.items() if code]
    wrong += [f"{name}: a traceback" for name in codes if "Traceback" in fleet.log(name)]
    return SceneResult(scene.name, time.monotonic() - began, tuple(wrong), codes)


def _differences(found: Mapping[int, str], expected: Mapping[int, str], whose: str) -> list[str]:
    return [
        f"version {version} is not that of {whose}"
        for version, digest in expected.items()
        if found.get(version) != digest
    ]


# Crash points and failing disks ---------------------------------------------------------------


def _service_of(point: str) -> str:
    return AGGREGATOR if point.startswith("aggregator-") else _VICTIM


def _crash_scenes() -> Iterator[Scene]:
    for point in sorted(CRASH_POINTS):
        for count in _REACHES.get(point, (1,)):
            name = point if count == 1 else f"{point}:{count}"
            yield Scene(name, environ=_fault("FEDFSTQ_CRASH_AT", point, str(count)), marks=True)


def _feedback_scenes() -> Iterator[Scene]:
    for point in sorted(CRASH_POINTS):
        if point in FILE_POINTS or point.startswith(("agent-row", "agent-receipt", "trainer")):
            # The first life's second reach of these is in the second round, where leftovers are.
            count = 1 if point.startswith("trainer") else 2
            environ = _fault("FEDFSTQ_CRASH_AT", point, str(count))
            yield Scene(
                f"feedback {point}",
                environ=environ,
                marks=True,
                same_digests=point != "aggregator-committed",
                spec=FEEDBACK,
            )


def _failure_scenes() -> Iterator[Scene]:
    for point in sorted(FILE_POINTS):
        for error in ("EIO", "ENOSPC"):
            yield Scene(
                f"{point} {error}",
                environ=_fault("FEDFSTQ_FAIL_AT", point, error),
                # A trainer lives on and tries again; a service ends, saying that it may be tried.
                codes=frozenset({int(ExitCode.TRY_AGAIN)}),
                marks=True,
            )


def _fault(
    variable: str, point: str, detail: str
) -> Callable[[Path], Mapping[str, Mapping[str, str]]]:
    def environ(mark: Path) -> Mapping[str, Mapping[str, str]]:
        faults = {variable: f"{point}:{detail}", "FEDFSTQ_FAULT_ONCE": str(mark)}
        return {_service_of(point): faults}

    return environ


# The broker -------------------------------------------------------------------------------------

# A training takes a moment, so that faults at fixed times meet every part of a round.
_SLOWER = replace(
    SPEC,
    behaviour=Behaviour(examples=90, train_s=1.0),
    behaviours={"device-2": Behaviour(examples=41, train_s=1.3)},
)


def _every(
    interval_s: float, act: Callable[[Fleet], None], *, times: int
) -> Callable[[Fleet], Callable[[], None]]:
    """Return a step that acts so often, with this interval; the first time one interval in."""

    def during(fleet: Fleet) -> Callable[[], None]:
        began, acted = time.monotonic(), 0

        def step() -> None:
            nonlocal acted
            if acted < times and time.monotonic() >= began + interval_s * (acted + 1):
                acted += 1
                act(fleet)

        return step

    return during


def _restore_old(fleet: Fleet) -> Callable[[], None]:
    """Return a step that saves the broker's database once, and later puts it back."""
    began = time.monotonic()
    saved: list[bytes] = []
    restored: list[float] = []

    def step() -> None:
        elapsed_s = time.monotonic() - began
        if not saved and evidence.committed_version(fleet.state(AGGREGATOR)) >= 1:
            saved.append(fleet.save_broker())
            restored.append(elapsed_s + 1.5)
        elif saved and restored and elapsed_s >= restored[0]:
            restored.clear()
            fleet.wipe_broker(database=saved[0])

    return step


def _kill_all(fleet: Fleet) -> None:
    for name in (AGGREGATOR, *fleet.spec.devices):
        if fleet.supervisor.alive(name):
            fleet.kill(name)
    fleet.wipe_broker()


def _broker_scenes() -> Iterator[Scene]:
    yield Scene(
        "broker killed", during=_every(1.6, lambda fleet: fleet.kill(BROKER), times=4), spec=_SLOWER
    )
    yield Scene("broker wiped", during=_every(1.6, Fleet.wipe_broker, times=4), spec=_SLOWER)
    yield Scene("broker's old database restored", during=_restore_old, spec=_SLOWER)
    yield Scene(
        "everything killed, broker wiped", during=_every(2.5, _kill_all, times=2), spec=_SLOWER
    )


# Full disks -------------------------------------------------------------------------------------


def _disk_of(service: str) -> Callable[[Fleet], AbstractContextManager[None]]:
    @contextmanager
    def disk(fleet: Fleet) -> Iterator[None]:
        path = fleet.state(service)
        before = path.with_name(path.name + ".before")
        path.rename(before)
        path.mkdir()
        options = ("-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(path))
        subprocess.run(("mount", *options), check=True)  # noqa: S603, S607  # the system's own
        try:
            shutil.copytree(before, path, dirs_exist_ok=True)
            yield
            fleet.supervisor.stop()
        finally:
            kept = path.with_name(path.name + ".kept")
            shutil.copytree(path, kept, ignore=shutil.ignore_patterns("trainer.sock"))
            subprocess.run(("umount", str(path)), check=True)  # noqa: S603, S607  # the same
            path.rmdir()
            kept.rename(path)

    return disk


def _fill(service: str) -> Callable[[Fleet], Callable[[], None]]:
    """Return a step that fills a service's disk once a round is over, and empties it again."""

    def during(fleet: Fleet) -> Callable[[], None]:
        ballast = fleet.state(service) / "ballast"
        filled: list[float] = []
        done: list[bool] = []

        def step() -> None:
            if done:
                return
            if not filled and evidence.committed_version(fleet.state(AGGREGATOR)) >= 1:
                filled.append(time.monotonic())
            if filled and time.monotonic() < filled[0] + _FULL_S:
                _write_all(ballast)  # again and again: what is freed meanwhile is taken as well
            elif filled:
                ballast.unlink()
                done.append(True)

        return step

    return during


def _write_all(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def _disk_scenes() -> Iterator[Scene]:
    for service in (_VICTIM, AGGREGATOR):
        whose = "the aggregator's" if service == AGGREGATOR else "a device's"
        yield Scene(
            f"{whose} disk full for {_FULL_S:.0f} s",
            during=_fill(service),
            disk=_disk_of(service),
            codes=frozenset({int(ExitCode.TRY_AGAIN)}),
            needs_root=True,
            spec=_SLOWER,
        )


SCENES: tuple[Scene, ...] = (
    *_crash_scenes(),
    *_feedback_scenes(),
    *_failure_scenes(),
    *_broker_scenes(),
    *_disk_scenes(),
)


def playable() -> tuple[Scene, ...]:
    """Return the scenes that this user may play: small disks are root's to mount."""
    return tuple(scene for scene in SCENES if os.geteuid() == 0 or not scene.needs_root)

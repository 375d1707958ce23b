"""Real processes killed where it hurts most: the run ends as if nothing had been.

One scene of each kind here; `fedfstq soak --case kill-matrix` plays all of them.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from tools.soak.kill_matrix import QUICK, references
from tools.soak.scenes import FEEDBACK, SCENES, Reference, play, playable
from transport.crash_points import CRASH_POINTS, FILE_POINTS

ROOT = Path(__file__).parents[1]
PLAYED = {scene.name: scene for scene in playable() if scene.name in QUICK}
# What carries the wall clock's time to people; nothing reads it back.
_FOR_PEOPLE = {"DeviceStatus", "ServiceStatus", "replace", "telemetry", "write_account"}
# Quiet hours are hours of the day: a device whose clock is wrong takes no task at other hours.
_BY_THE_CLOCK = {"agent/conditions.py"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Reference]:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    return references(tmp_path_factory.mktemp("kill-matrix"))


@pytest.mark.processes
@pytest.mark.parametrize("name", PLAYED)
def test_a_run_with_this_fault_ends_as_the_undisturbed_one(
    name: str, found: dict[bool, Reference], tmp_path: Path
) -> None:
    scene = PLAYED[name]
    reference = found[scene.spec.settings == FEEDBACK.settings]
    result = play(scene, tmp_path / "scene", reference=reference)
    assert result.wrong == ()


def test_every_crash_point_has_a_scene_and_every_file_point_fails_twice() -> None:
    names = [scene.name for scene in SCENES]
    assert len(names) == len(set(names))
    assert {name.split(":")[0] for name in names} >= CRASH_POINTS
    assert {f"{point} {error}" for point in FILE_POINTS for error in ("EIO", "ENOSPC")} <= set(
        names
    )


def test_the_quick_scenes_are_scenes() -> None:
    assert set(QUICK) <= {scene.name for scene in SCENES}


def test_no_decision_reads_the_wall_clock() -> None:
    """A clock that is a year off changes nothing but the times that people are shown."""
    readers = []
    for floor in ("agent", "aggregator", "transport", "codec"):
        for path in sorted((ROOT / floor).rglob("*.py")):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(call, ast.Call):
                    continue
                inside = [*call.args, *(keyword.value for keyword in call.keywords)]
                readers += [
                    (f"{path.relative_to(ROOT)}:{one.lineno}", _name(call))
                    for one in inside
                    if isinstance(one, ast.Call) and ast.unparse(one.func) == "time.time"
                ]
            text = path.read_text(encoding="utf-8")
            is_by_the_clock = str(path.relative_to(ROOT)) in _BY_THE_CLOCK
            assert text.count("datetime.now") == int(is_by_the_clock), path
            assert text.count("time.time()") == sum(
                place.startswith(str(path.relative_to(ROOT))) for place, _ in readers
            ), f"{path}: time.time() outside of a call that shows it"
    assert readers, "statuses carry the time"
    assert {name for _, name in readers} <= _FOR_PEOPLE, readers


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rsplit(".", 1)[-1]

"""`fedfstq command` against a real agent process behind a real broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aggregator.cohort import Presence
from transport import control
from transport.control import OperatorCommand
from transport.exit_codes import ExitCode
from transport.messages import ReceiptState
from transport.topics import Command

pytestmark = pytest.mark.broker


class Operator:
    """Somebody at a terminal, while the scripted aggregator goes on listening."""

    def __init__(self, aggregator: Any, folder: Path) -> None:
        self.aggregator = aggregator
        self.config = folder / "operator.yaml"
        broker = aggregator.broker
        address = {"host": broker.host, "port": broker.port, "connect_timeout_s": 5.0}
        self.config.write_text(yaml.safe_dump({"federation": "fed", "broker": address}))

    def types(self, *words: str, code: ExitCode = ExitCode.OK) -> subprocess.Popen[str]:
        """Run a command to its end; the aggregator takes what comes meanwhile."""
        command = [sys.executable, "-m", "tools.cli", "command", *words, "-c", str(self.config)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            self.aggregator.until(lambda: process.poll() is not None, 60.0)
            assert process.stdout
            assert process.stderr
            self.said, self.complained = process.stdout.read(), process.stderr.read()
        assert process.returncode == code, self.said + self.complained
        return process

    def asks(self, *words: str, code: ExitCode = ExitCode.OK) -> dict[str, Any]:
        self.types(*words, "--json", code=code)
        (row,) = json.loads(self.said)
        return dict(row)


@pytest.fixture
def operator(aggregator: Any, tmp_path: Path) -> Operator:
    return Operator(aggregator, tmp_path)


def test_pause_and_resume(aggregator: Any, agent_process: Any, operator: Operator) -> None:
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    row = operator.asks("dev-1", "pause", "--reason", "new fan")
    assert (row["outcome"], row["state"], row["waiting"]) == ("ok", "paused", 0)
    assert 0 < row["rtt_ms"] < 10_000
    aggregator.until(lambda: aggregator.states[-1] == ("paused", 0))
    assert aggregator.statuses[-1].reason == "operator: new fan"

    agent_process.kill()  # what an operator said outlives it
    agent_process.start()
    aggregator.until(lambda: len({status.session for status in aggregator.statuses}) == 2)
    presence = Presence()
    aggregator.until(lambda: aggregator.states[-1][0] == "paused")
    presence.receive("dev-1", aggregator.statuses[-1])
    assert presence.eligible() == ()  # an aggregator asks it no more
    aggregator.until(lambda: len(aggregator.profiles) == 2)
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.trains)
    assert (aggregator.trains[0].accepted, aggregator.trains[0].reason) == (False, "paused")

    operator.types("dev-1", "resume")
    assert operator.said.startswith("ok   dev-1: idle, adapter 0 (round trip ")
    aggregator.until(lambda: aggregator.states[-1] == ("idle", 0))
    assert presence.receive("dev-1", aggregator.statuses[-1])  # it has arrived, and is asked again
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    assert agent_process.stop() == ExitCode.OK


def test_a_drain_ends_when_the_last_receipt_has_come(
    aggregator: Any, agent_process: Any, operator: Operator
) -> None:
    agent_process.script('{"step_s": 0.3}')
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    aggregator.command_train(1)
    aggregator.until(agent_process.trained)
    row = operator.asks("dev-1", "drain", "--timeout", "2", code=ExitCode.FAILED)
    assert (row["outcome"], row["state"], row["waiting"]) == ("ok", "paused", 1)
    aggregator.until(lambda: aggregator.manifests)  # the training was finished
    (uid,) = aggregator.manifests
    aggregator.until(lambda: aggregator.complete(uid))
    aggregator.until(lambda: aggregator.statuses[-1].reason == "drain; 1 update waits")
    aggregator.settle(uid, ReceiptState.ACCEPTED, frozenset(aggregator.segments[uid]))
    assert operator.asks("dev-1", "drain")["waiting"] == 0
    aggregator.until(lambda: aggregator.statuses[-1].reason == "drained")
    assert agent_process.stop() == ExitCode.OK


def test_an_evaluation_comes_back(aggregator: Any, agent_process: Any, operator: Operator) -> None:
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    for _ in range(2):  # the second is answered from memory, at once
        row = operator.asks("dev-1", "evaluate")
        assert (row["version"], row["loss"], row["tokens"], row["correct"]) == (0, 2.5, 100, 40)
    assert len(aggregator.evals) == 2
    assert agent_process.stop() == ExitCode.OK


def test_a_command_that_was_kept_for_an_earlier_start_is_expired(
    aggregator: Any, agent_process: Any, operator: Operator
) -> None:
    agent_process.start()
    aggregator.until(lambda: aggregator.statuses)
    old = OperatorCommand(aggregator.statuses[-1].session, 1e9, "old")
    agent_process.kill()
    # Retained and queued, by an operator with another client and little care.
    aggregator.publish(Command("dev-1", "pause", "77"), control.encode(old), retain=True)
    agent_process.start()
    row = operator.asks("--all", "ping")
    assert (row["device"], row["state"]) == ("dev-1", "idle")
    assert aggregator.states[-1] == ("idle", 0)
    assert agent_process.stop() == ExitCode.OK


def test_devices_that_do_not_answer_make_it_fail(
    aggregator: Any, agent_process: Any, operator: Operator
) -> None:
    agent_process.start()
    aggregator.until(lambda: aggregator.statuses)
    operator.types("dev-1", "dev-9", "ping", "--timeout", "1", code=ExitCode.FAILED)
    lines = sorted(operator.said.splitlines())
    assert lines[0] == "FAIL dev-9: no answer; no status is known"
    assert lines[1].startswith("ok   dev-1: idle (round trip ")
    assert agent_process.stop() == ExitCode.OK
    aggregator.until(lambda: aggregator.states[-1] == ("offline", 0))
    operator.types("--all", "ping", "--timeout", "1", code=ExitCode.FAILED)
    assert operator.said == "FAIL dev-1: no answer; its status says offline\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("dev-1", "dance"), ExitCode.USAGE, "'dance' is no action"),
        (("pause",), ExitCode.USAGE, "name devices"),
        (("--all", "dev-1", "pause"), ExitCode.USAGE, "name devices"),
        (("Dev", "pause"), ExitCode.USAGE, "no identifier"),
        (("dev-1", "pause", "--reason", "x" * 201), ExitCode.USAGE, "200"),
        (("dev-1", "pause", "--fleet", "."), ExitCode.USAGE, "not both"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(
    operator: Operator, words: tuple[str, ...], code: ExitCode, text: str
) -> None:
    operator.types(*words, code=code)
    assert text in operator.complained
    assert operator.complained.count("\n") == 1

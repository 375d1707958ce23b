from __future__ import annotations

import logging
from typing import Any

import pytest

from agent.outputs import AnswerOperator, BeginRun, SettleUpdate, Unsubscribe
from transport import control, frame
from transport.control import (
    DeviceState,
    EvalCommand,
    ModelStatus,
    OperatorAction,
    OperatorCommand,
    Outcome,
    TrainCommand,
)
from transport.messages import Have, Receipt, ReceiptState, Segment, Want
from transport.topics import (
    Address,
    Command,
    CoordRun,
    CoordStatus,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
)
from transport.transfer import SendManifest


@pytest.fixture
def reader(listening: Any) -> Any:
    return listening()


def announce(reader: Any, small: Any) -> None:
    reader.take(CoordRun(), control.encode(small.announcement()))


def test_a_round_comes_in_as_deliveries(reader: Any, small: Any) -> None:
    announce(reader, small)
    train = TrainCommand(small.RUN, 1, 2, 1, 60.0, 7, None)
    reader.take(Command("dev-1", "train", "2"), control.encode(train))
    assert reader.session.state is DeviceState.FETCHING
    manifest, bodies = small.adapter_message(1)
    reader.take(ModelManifest(1), frame.encode(manifest))
    outputs: list[Any] = []
    for index, body in enumerate(bodies):
        outputs += reader.take(ModelSegment(1, index), frame.encode(Segment(body)))
    assert type(outputs[0]).__name__ == "StoreAdapter"


def test_answers_come_in_by_their_kind(reader: Any) -> None:
    uid = reader.upload.uid
    reader.take(Down("dev-1", uid), frame.encode(Have(1, frozenset({0}), 3)))
    assert SendManifest(uid) in reader.take(Down("dev-1", uid), frame.encode(Want(1)))
    receipt = Receipt(1, ReceiptState.LATE, "late", frozenset(), 3)
    assert SettleUpdate(uid, receipt) in reader.take(Down("dev-1", uid), frame.encode(receipt))


def test_evaluations_runs_and_versions_come_in(reader: Any, small: Any) -> None:
    announce(reader, small)
    evaluation = EvalCommand(small.RUN, 1, 1, 60.0)
    reader.take(Command("dev-1", "eval", "1"), control.encode(evaluation))
    status = ModelStatus(small.RUN, 5, "", 0, 0)
    assert Unsubscribe(1) in reader.take(Model(), control.encode(status))
    other = small.announcement(run=small.OTHER_RUN)
    assert BeginRun(small.OTHER_RUN) in reader.take(CoordRun(), control.encode(other))


def test_a_cleared_retained_message_says_nothing(reader: Any) -> None:
    assert reader.take(CoordRun(), b"") == []
    assert not reader.deliveries.refused


def test_what_is_no_message_is_refused_by_reason(reader: Any, small: Any) -> None:
    train = control.encode(TrainCommand(small.RUN, 1, 2, 1, 60.0, 7, None))
    evaluation = control.encode(EvalCommand(small.RUN, 1, 1, 60.0))
    manifest, bodies = small.adapter_message(1)
    uid = reader.upload.uid
    wrong: list[tuple[Address | str, bytes, str]] = [
        ("fl/v1/other/coord/run", b"{}", "topic"),
        (CoordStatus(), b"{}", "topic"),
        (CoordRun(), b"{}", "malformed"),
        (CoordRun(), b" " * 100_000, "oversized"),
        (Command("dev-1", "train", "3"), train, "malformed"),
        (Command("dev-2", "train", "2"), train, "topic"),
        (Command("dev-1", "eval", "2"), evaluation, "malformed"),
        (Command("dev-1", "dance", "2"), b"{}", "topic"),
        (Down("dev-1", uid), b"\x01", "malformed"),
        (Down("dev-1", uid), frame.encode(manifest), "malformed"),
        (Down("dev-2", uid), frame.encode(Want(1)), "topic"),
        (Down("dev-1", uid), b"\x63" + frame.encode(Want(1))[1:], "version"),
        (ModelManifest(2), frame.encode(manifest), "malformed"),
        (ModelSegment(1, 0), bodies[0], "version"),
    ]
    for address, payload, reason in wrong:
        before = reader.deliveries.refused[reason]
        assert reader.take(address, payload) == []
        assert reader.deliveries.refused[reason] == before + 1, address
    assert sum(reader.deliveries.refused.values()) == len(wrong)


def test_a_flood_of_nonsense_is_logged_ever_more_rarely(
    reader: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            reader.take(CoordRun(), b"nonsense")
    assert reader.deliveries.refused["malformed"] == 1000
    assert len(caplog.records) == 10


@pytest.mark.parametrize(
    "run", ["", "../" * 10 + "ab", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n"]
)
def test_a_run_whose_id_is_none_is_refused(reader: Any, small: Any, run: str) -> None:
    assert reader.take(CoordRun(), control.encode(small.announcement(run=run))) == []
    assert reader.deliveries.refused == {"malformed": 1}


@pytest.mark.parametrize(("round_id", "version"), [(0, 0), (1, -1)])
def test_rounds_and_versions_that_cannot_be_are_refused(
    reader: Any, small: Any, round_id: int, version: int
) -> None:
    announce(reader, small)
    train = TrainCommand(small.RUN, 1, round_id, version, 60.0, 7, None)
    reader.take(Command("dev-1", "train", str(round_id)), control.encode(train))
    assert reader.deliveries.refused == {"malformed": 1}
    assert reader.session.state is not DeviceState.FETCHING


@pytest.mark.parametrize("action", OperatorAction)
def test_operators_commands_come_in_by_their_name(
    reader: Any, small: Any, action: OperatorAction
) -> None:
    announce(reader, small)
    reader.take(Model(), control.encode(ModelStatus(small.RUN, 1, "", 900, 3)))
    command = OperatorCommand("b07d", 530.0, "new fan")
    outputs = reader.take(Command("dev-1", action.value, "7f"), control.encode(command))
    (answer,) = [output for output in outputs if isinstance(output, AnswerOperator)]
    assert (answer.action, answer.command_id) == (action, "7f")
    assert (answer.response.outcome, answer.response.clock_s) == (Outcome.OK, 500.0)


def test_a_command_that_is_none_is_refused(reader: Any) -> None:
    assert reader.take(Command("dev-1", "pause", "7f"), b'{"session": 5}') == []
    assert reader.deliveries.refused == {"malformed": 1}

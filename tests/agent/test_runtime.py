"""The whole agent process against a real broker, a scripted aggregator and the trainer's double."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import AgentConfig
from agent.payload import read_header
from agent.runtime import run
from codec.update import decode
from transport.exit_codes import ExitCode
from transport.messages import ReceiptState
from transport.topics import Command, Down

pytestmark = pytest.mark.broker


def test_a_whole_round_and_an_evaluation(aggregator: Any, agent_process: Any, small: Any) -> None:
    agent_process.start()
    aggregator.until(lambda: ("idle", 0) in aggregator.states)
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    (uid,) = aggregator.manifests
    aggregator.until(lambda: aggregator.complete(uid))
    aggregator.until(lambda: ("awaiting-receipt", 1) in aggregator.states)
    aggregator.settle(uid, ReceiptState.ACCEPTED, frozenset(aggregator.segments[uid]))
    aggregator.until(lambda: aggregator.states[-1] == ("idle", 0))

    manifest = aggregator.manifests[uid]
    assert (manifest.client_id, manifest.round_id) == ("dev-1", 1)
    assert [response.accepted for response in aggregator.trains] == [True]
    assert any(progress.step == 4 for progress in aggregator.progress)
    assert list(dict.fromkeys(aggregator.states)) == [
        ("idle", 0),
        ("fetching", 1),
        ("training", 1),
        ("uploading", 1),
        ("awaiting-receipt", 1),
    ]
    delta = decode(
        "fp32",
        aggregator.segments[uid],
        layout=small.LAYOUT,
        segment_count=len(manifest.segments),
    )
    assert np.abs(delta).max() > 0

    aggregator.command_eval(0)
    aggregator.until(lambda: aggregator.evals)
    assert (aggregator.evals[0].loss, aggregator.evals[0].tokens) == (2.5, 100)
    aggregator.until(lambda: aggregator.telemetry)
    assert agent_process.stop() == ExitCode.OK
    aggregator.until(lambda: aggregator.states[-1] == ("offline", 0))
    assert list((agent_process.state_dir / "payloads").iterdir()) == []


def test_a_round_s_energy_is_told_in_joules_before_its_update(
    aggregator: Any, agent_process: Any, make_board: Any
) -> None:
    agent_process.root = make_board("orin_nano")  # takes 4.815 W, whatever it does
    agent_process.script('{"step_s": 0.5}')
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    assert aggregator.profiles[0].l4t == "36.4.3"
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    told = [report for report, updates in aggregator.energy if not updates]
    assert told[-1].training_j > 8.0
    for report, _ in aggregator.energy:
        assert report.energy_j == pytest.approx(4.815 * report.covered_s, abs=0.5)
        assert (report.round_id, report.source) == (1, "ina")
    aggregator.until(lambda: aggregator.telemetry[-1].energy_j)
    assert aggregator.telemetry[-1].rails_w["VDD_IN"] == 4.815
    assert agent_process.stop() == ExitCode.OK


def test_an_agent_killed_in_the_middle_of_an_upload_sends_the_same_update(
    aggregator: Any, agent_process: Any
) -> None:
    aggregator.journals = 1  # of several segments
    agent_process.start()
    aggregator.begin()
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.segments)
    (uid,) = aggregator.manifests
    assert not aggregator.complete(uid)
    agent_process.kill()
    aggregator.until(lambda: aggregator.states[-1] == ("lost", 0))

    aggregator.journals = 10**9
    agent_process.start()
    aggregator.until(lambda: aggregator.complete(uid))
    aggregator.command_train(1)
    aggregator.settle(uid, ReceiptState.ACCEPTED, frozenset(aggregator.segments[uid]))
    aggregator.until(lambda: aggregator.states[-1] == ("idle", 0))
    aggregator.command_train(1)
    aggregator.until(lambda: len(aggregator.trains) >= 2)
    assert list(aggregator.manifests) == [uid]
    assert len(agent_process.trained()) == 1
    assert len({status.session for status in aggregator.statuses}) == 2
    assert agent_process.stop() == ExitCode.OK


def test_a_trainer_killed_in_the_middle_of_a_task_does_it_again(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.script('{"step_s": 30}')
    agent_process.start()
    aggregator.begin()
    aggregator.command_train(1)
    aggregator.until(agent_process.trained)
    agent_process.script("{}")
    os.kill(trainer_of(agent_process.process.pid), signal.SIGKILL)
    aggregator.until(lambda: aggregator.manifests)
    (uid,) = aggregator.manifests
    aggregator.until(lambda: aggregator.complete(uid))
    assert len(agent_process.trained()) == 2
    assert len(set(agent_process.trained())) == 1
    assert agent_process.stop() == ExitCode.OK


def test_an_agent_killed_while_training_trains_again_when_asked_again(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.script('{"step_s": 30}')
    agent_process.start()
    aggregator.begin()
    aggregator.command_train(1)
    aggregator.until(agent_process.trained)
    trainer = trainer_of(agent_process.process.pid)
    agent_process.kill()
    agent_process.script("{}")
    agent_process.start()
    aggregator.until(lambda: len({status.session for status in aggregator.statuses}) == 2)
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    aggregator.until(lambda: not Path(f"/proc/{trainer}").exists())
    assert agent_process.stop() == ExitCode.OK


def test_what_a_deadline_cut_off_goes_into_the_next_update(
    aggregator: Any, agent_process: Any, small: Any
) -> None:
    aggregator.journals = 1
    agent_process.start()
    aggregator.begin()
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.segments)
    (first,) = aggregator.manifests
    aggregator.settle(first, ReceiptState.PARTIAL, frozenset({0}))
    aggregator.until(lambda: aggregator.states[-1] == ("idle", 0))
    (left,) = (agent_process.state_dir / "payloads").iterdir()
    assert left.name == f"{small.RUN}-1.upd"

    aggregator.journals = 10**9
    aggregator.publish_model(1)
    aggregator.command_train(2)
    aggregator.until(lambda: len(aggregator.manifests) == 2)
    second = next(uid for uid in aggregator.manifests if uid != first)
    aggregator.until(lambda: aggregator.complete(second))
    assert aggregator.manifests[second].seq == aggregator.manifests[first].seq + 1
    (waiting,) = (agent_process.state_dir / "payloads").iterdir()
    assert waiting.name == f"{small.RUN}-2.upd"
    assert read_header(waiting).leftovers_used == (1,)
    assert agent_process.stop() == ExitCode.OK


def test_segments_that_were_not_retained_are_asked_for(aggregator: Any, agent_process: Any) -> None:
    agent_process.start()
    aggregator.begin()
    aggregator.publish_model(1, frames=False)
    aggregator.until(lambda: aggregator.profiles)
    aggregator.command_train(2)
    aggregator.until(lambda: aggregator.wants)
    assert aggregator.wants[0].missing is None
    aggregator.publish_model(1)
    aggregator.until(lambda: aggregator.manifests)
    assert agent_process.stop() == ExitCode.OK


def test_a_task_that_can_never_work_is_declined(aggregator: Any, agent_process: Any) -> None:
    agent_process.script('{"fail": "layout"}')
    agent_process.start()
    aggregator.begin()
    aggregator.command_train(1)
    aggregator.until(lambda: len(aggregator.trains) == 2)
    assert [response.accepted for response in aggregator.trains] == [True, False]
    assert aggregator.trains[1].reason == "layout"
    aggregator.until(lambda: aggregator.statuses[-1].reason == "layout")
    assert agent_process.stop() == ExitCode.OK


def test_a_trainer_with_a_bad_configuration_ends_the_agent(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.script('{"exit_code": 78}')
    agent_process.start()
    aggregator.begin()
    assert agent_process.process.wait(20) == ExitCode.CONFIG
    assert "trainer: the model folder is not there" in agent_process.log()
    assert "Traceback" not in agent_process.log()


def test_a_message_that_is_none_is_refused_and_disturbs_nothing(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    aggregator.publish(Command("dev-1", "train", "1"), b"\xff not json")
    aggregator.publish(Command("dev-1", "dance", "1"), b"{}")
    aggregator.publish(Down("dev-1", "0" * 32), b"\x01")
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    assert agent_process.log().count("refused message") == 3
    assert agent_process.stop() == ExitCode.OK


def test_a_second_agent_in_the_same_folder_ends_at_once(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.start()
    aggregator.until(lambda: ("idle", 0) in aggregator.states)
    assert run(config_of(agent_process)) == ExitCode.TRY_AGAIN
    assert agent_process.stop() == ExitCode.OK


def test_a_second_signal_breaks_no_farewell_off(aggregator: Any, agent_process: Any) -> None:
    agent_process.script('{"deaf": true}')
    agent_process.start()
    aggregator.until(lambda: ("idle", 0) in aggregator.states)
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    process = agent_process.process
    process.send_signal(signal.SIGINT)
    aggregator.until(lambda: aggregator.states[-1] == ("offline", 0))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == ExitCode.OK
    assert "Traceback" not in agent_process.log()


def test_a_trainer_that_hangs_is_killed_and_its_task_done_again(
    aggregator: Any, agent_process: Any
) -> None:
    agent_process.silence_s = 1.0
    agent_process.start()
    aggregator.begin()
    aggregator.until(lambda: aggregator.profiles)
    trainer = trainer_of(agent_process.process.pid)
    os.kill(trainer, signal.SIGSTOP)
    aggregator.command_train(1)
    aggregator.until(lambda: aggregator.manifests)
    assert not Path(f"/proc/{trainer}").exists()
    assert agent_process.stop() == ExitCode.OK


def test_a_refused_login_ends_the_agent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x20\x03\x00\x86\x00")  # CONNACK: bad user name or password
                connection.recv(4096)

        thread = threading.Thread(target=refuse)
        thread.start()
        assert run(unconnected(tmp_path, server.getsockname()[1])) == ExitCode.REFUSED
        thread.join()


def test_a_broker_that_is_not_there_ends_the_agent(tmp_path: Path) -> None:
    assert run(unconnected(tmp_path, 1, 0.3)) == ExitCode.UNREACHABLE


def test_a_password_file_that_is_not_there_ends_the_agent(tmp_path: Path) -> None:
    config = unconnected(tmp_path, 1)
    broker = config.broker.model_copy(
        update={"username": "dev-1", "password_file": tmp_path / "missing"}
    )
    assert run(config.model_copy(update={"broker": broker})) == ExitCode.CONFIG


def test_a_state_folder_that_cannot_be_used_ends_the_agent(
    tmp_path: Path, agent_process: Any
) -> None:
    agent_process.state_dir.mkdir()
    (agent_process.state_dir / "outbox.sqlite3").write_bytes(b"no database" * 100)
    assert run(config_of(agent_process)) == ExitCode.CONFIG
    (tmp_path / "file").write_text("")
    config = config_of(agent_process).model_copy(update={"state_dir": tmp_path / "file"})
    assert run(config) == ExitCode.TRY_AGAIN


def test_the_network_process_never_imports_torch() -> None:
    program = (
        "import sys, agent.runtime;"
        "heavy = {'torch', 'transformers', 'peft'} & sys.modules.keys();"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def unconnected(folder: Path, port: int, timeout_s: float = 15.0) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "federation": "fed",
            "client_id": "dev-1",
            "broker": {"host": "127.0.0.1", "port": port, "connect_timeout_s": timeout_s},
            "state_dir": folder / "s",
            "data": {"train": "/nowhere"},
        }
    )


def config_of(agent_process: Any) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "federation": "fed",
            "client_id": "dev-1",
            "broker": agent_process.broker,
            "state_dir": agent_process.state_dir,
            "data": {"train": "/nowhere"},
        }
    )


def trainer_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    everyone = {child for path in threads for child in path.read_text().split()} | set(children)
    (child,) = everyone
    return int(child)

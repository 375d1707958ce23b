import socket
import subprocess
import time
from pathlib import Path

import pytest

from tools.demo.broker import BrokerChoice, choose
from tools.demo.errors import BadOptions, NoBroker


def answers(choice: BrokerChoice) -> bool:
    """Whether the broker opens its port within some seconds of its start."""
    assert choice.command is not None
    with subprocess.Popen(choice.command, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection((choice.host, choice.port), timeout=1.0).close()
                except OSError:
                    time.sleep(0.05)
                else:
                    return True
            return False
        finally:
            process.terminate()


@pytest.mark.broker
@pytest.mark.parametrize("wanted", ["mosquitto", "embedded"])
def test_the_chosen_broker_starts_and_listens_where_it_was_said(
    wanted: str, tmp_path: Path
) -> None:
    assert answers(choose(wanted, tmp_path / "broker"))


def test_without_mosquitto_the_embedded_broker_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.demo.broker.mosquitto_daemon", lambda: None)
    assert choose("auto", tmp_path).mqtt_version == "3.1.1"
    with pytest.raises(NoBroker, match="--broker embedded"):
        choose("mosquitto", tmp_path)


def test_without_any_broker_it_is_said_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.demo.broker.mosquitto_daemon", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NoBroker, match="apt install mosquitto"):
        choose("auto", tmp_path)


def test_an_address_is_used_as_it_is(tmp_path: Path) -> None:
    choice = choose("broker.example:1884", tmp_path)
    assert (choice.host, choice.port, choice.command) == ("broker.example", 1884, None)
    assert choose("broker.example", tmp_path).port == 1883


@pytest.mark.parametrize("wanted", ["", ":1883", "host:port", "host:0", "host:65536", "host:-1"])
def test_what_is_no_address_is_refused(wanted: str, tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match="use auto, mosquitto, embedded, or HOST"):
        choose(wanted, tmp_path)

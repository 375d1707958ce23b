"""An observer on a real broker, with somebody who speaks for a fleet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.monitor.document import apply
from tools.monitor.observer import COALESCE_S, Observer
from tools.operate.login import OperatorConfig
from tools.soak.fleet import BROKER, Fleet, FleetSpec, NoMosquitto
from transport import control, topics
from transport.broker import BrokerConfig
from transport.control import DeviceState
from transport.errors import BrokerUnreachable, LoginRefused, SessionTakenOver
from transport.link import Link, Publication

pytestmark = pytest.mark.broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", FleetSpec(agents=1, rounds=1)) as fleet:
        try:
            fleet.start_broker()
        except NoMosquitto as error:
            pytest.skip(str(error))
        yield fleet


@pytest.fixture
def config(broker: Fleet) -> OperatorConfig:
    address = BrokerConfig(host="127.0.0.1", port=broker.port, connect_timeout_s=20.0)
    return OperatorConfig(federation="soak", login="viewer", broker=address)


@pytest.fixture
def say(config: OperatorConfig) -> Iterator[Callable[..., None]]:
    names = topics.Topics("soak")
    link = Link(config.broker, client_id="speaker", subscriptions=())
    link.open()
    link.wait_connected(20.0)

    def publish(address: topics.Address, message: object, *, retain: bool = False) -> None:
        payload = control.encode(message)
        link.publish(Publication(names.topic(address), payload, retain=retain))

    yield publish
    link.close()


def until(done: Callable[[], bool], what: str, *, timeout_s: float = 30.0) -> None:
    limit = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < limit, f"not in {timeout_s} s: {what}"
        time.sleep(0.05)


def status(state: DeviceState) -> control.DeviceStatus:
    return control.DeviceStatus(state, "b07d", 7)


def _step(snapshot: dict[str, Any]) -> int:
    step: int = snapshot["devices"].get("a", {"step": -1})["step"]
    return step


def test_what_the_broker_keeps_is_there_once_it_has_settled(
    config: OperatorConfig, say: Callable[..., None]
) -> None:
    for number in range(20):
        say(topics.DeviceTopic(f"d{number}", "status"), status(DeviceState.IDLE), retain=True)
    with Observer(config, purpose="test") as observer:
        observer.wait_settled()
        snapshot = observer.snapshot()
        assert snapshot["link"]["state"] == "connected"
        assert len(snapshot["devices"]) == 20
        assert snapshot["devices"]["d0"]["heard_s"] is None


def test_changes_are_told_together_and_make_up_the_snapshot(
    config: OperatorConfig, say: Callable[..., None]
) -> None:
    told: list[dict[str, Any]] = []
    with Observer(config, purpose="test", tell=told.append) as observer:
        observer.wait_settled()
        seen = observer.snapshot()
        told.clear()
        began = time.monotonic()
        for step in range(200):
            say(topics.DeviceTopic("a", "progress"), control.Progress(7, step=step, steps=200))
        until(lambda: _step(observer.snapshot()) == 199, "the last step")
        assert len(told) <= (time.monotonic() - began) / COALESCE_S + 1
        until(
            lambda: any("devices.a" in one and one["devices.a"]["step"] == 199 for one in told),
            "it is told",
        )
        for changes in told:
            apply(seen, changes)
        assert seen["devices"]["a"]["step"] == 199
        assert observer.history("a") == {"goodput_bps": [], "power_w": [], "temp_c": []}
        assert observer.history("b") is None


def test_a_broker_that_goes_and_comes_is_told_of(
    broker: Fleet, config: OperatorConfig, say: Callable[..., None]
) -> None:
    say(topics.DeviceTopic("a", "status"), status(DeviceState.IDLE), retain=True)
    with Observer(config, purpose="test") as observer:
        observer.wait_settled()
        broker.kill(BROKER, stays_dead=True)
        until(lambda: observer.snapshot()["link"]["state"] == "disconnected", "it is cut off")
        assert observer.snapshot()["link"]["reason"]
        assert "a" in observer.snapshot()["devices"]
        broker.start_broker()
        until(lambda: observer.snapshot()["link"]["state"] == "connected", "it is back")


def test_no_broker_is_said_to_those_who_look_and_to_those_who_wait() -> None:
    nowhere = BrokerConfig(host="127.0.0.1", port=1, connect_timeout_s=0.5)
    config = OperatorConfig(federation="soak", broker=nowhere)
    with Observer(config, purpose="test") as observer:
        with pytest.raises(BrokerUnreachable):
            observer.wait_settled()
        until(lambda: "no MQTT broker" in observer.snapshot()["link"]["reason"], "it is said")
        assert observer.snapshot()["link"]["state"] == "disconnected"
        assert observer.refusal is None


def test_a_refused_login_ends_it(tmp_path: Path) -> None:
    with Fleet(tmp_path / "closed", FleetSpec(agents=1, rounds=1)) as fleet:
        try:
            fleet.start_broker()
        except NoMosquitto as error:
            pytest.skip(str(error))
        file = fleet.folder / "broker" / "mosquitto.conf"
        file.write_text(file.read_text().replace("allow_anonymous true", "allow_anonymous false"))
        command = fleet.supervisor.children[BROKER].command
        fleet.kill(BROKER, stays_dead=True)
        fleet.supervisor.start(BROKER, command)
        broker = BrokerConfig(host="127.0.0.1", port=fleet.port, connect_timeout_s=20.0)
        with Observer(OperatorConfig(federation="soak", broker=broker), purpose="test") as observer:
            with pytest.raises(LoginRefused):
                observer.wait_settled()
            until(lambda: observer.snapshot()["link"]["state"] == "refused", "it is told")
            assert isinstance(observer.refusal, LoginRefused)


def test_two_programs_of_one_login_do_not_cut_each_other_off(config: OperatorConfig) -> None:
    with Observer(config, purpose="test") as one, Observer(config, purpose="test") as other:
        one.wait_settled()
        other.wait_settled()
        assert one.snapshot()["link"]["state"] == other.snapshot()["link"]["state"] == "connected"


def test_a_login_that_is_taken_over_is_told_in_words(config: OperatorConfig) -> None:
    observer = Observer(config, purpose="test")
    assert "another program is logged in as 'viewer'" in str(
        observer._in_words(SessionTakenOver("x"))
    )
    observer._slot.release()

"""A real lab: namespaces, a router whose kernel has netem, and what its links do to real sockets.

Needs root, QEMU (where this machine's kernel has no netem) and, once, a network for the kernel.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.netem import commands
from tools.netem.command import netem
from tools.netem.commands import Command
from tools.netem.errors import LabBroken, Refused, Unavailable
from tools.netem.lab import DEVICE, SERVER, Lab, sweep_labs
from tools.netem.namespaces import make_namespace, within
from tools.netem.profile import Direction, Phase, Profile, load_profile, profile_names
from tools.netem.programs import kernel_has_netem, output_of
from tools.netem.state import LabState, Owner, StateFiles, state_folder, this_process
from tools.soak.raw_stream import stream
from transport.broker import BrokerConfig
from transport.link import Delivery, Link, LinkUp, Publication

pytestmark = pytest.mark.processes

ONE_PERCENT_OF_A_MEGABIT = 10_000
CLEAR = Profile(title="clear")
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")


@contextlib.contextmanager
def entered(**options: object) -> Iterator[Lab]:
    """A lab, or a skipped test where this machine cannot have one."""
    lab = Lab(**options)  # type: ignore[arg-type]
    try:
        lab.__enter__()
    except Unavailable as error:
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        stack.push(lab.__exit__)
        yield lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with entered(devices=2) as made:
        yield made


def wait_until(done: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.02)


class Datagrams:
    """Sends datagrams from one side, and counts what arrives at the other."""

    def __init__(self, lab: Lab, source: str, target: str) -> None:
        with lab.inside(target):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.inside(source):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((lab.address(target), 0))
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.receiver.settimeout(0.0)
        self.sender.connect(self.receiver.getsockname())

    def send(self, count: int) -> None:
        for number in range(count):
            self.sender.send(b"x" * 64)
            if number % 50 == 49:
                time.sleep(0.005)  # queues in between are shorter than this is fast

    def arrived(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while self.receiver.recv(2048):
                count += 1
        return count

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@contextlib.contextmanager
def datagrams(lab: Lab, source: str = DEVICE, target: str = SERVER) -> Iterator[Datagrams]:
    made = Datagrams(lab, source, target)
    try:
        yield made
    finally:
        made.close()


def test_programs_find_the_other_side_by_the_environment(lab: Lab) -> None:
    lab.apply(CLEAR)
    answer = lab.run("device-2", ["sh", "-c", "echo $LAB_SIDE $LAB_ADDRESS $LAB_SERVER"])
    assert answer.split() == ["device-2", "10.77.0.2", "10.78.0.1"]
    with pytest.raises(LabBroken, match="exit status 3"):
        lab.run(SERVER, ["sh", "-c", "exit 3"])
    with pytest.raises(Refused, match="device-1, device-2"):
        lab.address("device-3")


def test_a_kernel_takes_the_commands_of_every_profile(lab: Lab) -> None:
    """The router's own loopback stands for a user's interface."""
    run, ifb = lab._router.run, "ifb-lo"
    show = [("tc", "qdisc", "show", "dev", device) for device in ("lo", ifb)]
    profiles = [load_profile(name) for name in profile_names()]
    links = [link for each in profiles for link in (each.link, *map(each.phase_link, each.phases))]
    shown = run([*commands.set_up("lo", links[0], ifb=ifb), *show])
    assert shown.count(f"qdisc netem {commands.HANDLE} root") == 2
    assert "rate 512Kbit" in shown
    assert "rate 20Mbit" in shown
    run([line for link in links for line in commands.change("lo", link, ifb=ifb)])
    left = run([*commands.take_down("lo", ifb=ifb), *show[:1]])
    assert "netem" not in left


@pytest.mark.parametrize(("source", "target", "way"), [(DEVICE, SERVER, 0), (SERVER, DEVICE, 1)])
def test_each_direction_loses_what_its_profile_says(
    lab: Lab, source: str, target: str, way: int
) -> None:
    """Of 4,000 packets at 20 %, outside of 17 to 23 % are lost once in 400,000 runs."""
    lossy, clear = Direction(loss_percent=20), Direction()
    up, down = (lossy, clear) if way == 0 else (clear, lossy)
    lab.apply(Profile(title="lossy one way", up=up, down=down))
    with datagrams(lab, source, target) as line:
        arrived = 0

        def seen() -> int:
            nonlocal arrived
            line.send(500)  # a busy machine may drop some before the router
            arrived += line.arrived()
            counts = lab.queues()[way]
            return counts.passed_packets + counts.lost_packets

        wait_until(lambda: seen() >= 4000, "the router has seen as many")
        time.sleep(0.2)
        counts = lab.queues()
        arrived += line.arrived()
    lost = counts[way].lost_packets
    assert 0.17 <= lost / (lost + counts[way].passed_packets) <= 0.23
    assert 0 < arrived <= counts[way].passed_packets
    assert counts[1 - way].lost_packets == 0


def test_a_rate_is_never_exceeded_and_packets_stay_single(lab: Lab) -> None:
    lab.apply(Profile(title="1 Mbit/s", up=Direction(rate_kbit=1000, delay_ms=5)))
    before = lab.link_bytes(DEVICE)
    seconds, _ = stream(lab, length=250_000)
    assert 8 * 250_000 / seconds <= 1e6 + ONE_PERCENT_OF_A_MEGABIT
    up, _ = lab.queues()
    assert up.passed_bytes / up.passed_packets <= 1514, "joined packets are lost together"
    assert lab.link_bytes(DEVICE).sent - before.sent >= 250_000


def test_a_cut_of_one_device_is_none_of_the_others(lab: Lab) -> None:
    lab.apply(CLEAR)
    lab.cut("device-2")
    with datagrams(lab, "device-1") as first, datagrams(lab, "device-2") as second:
        got = 0

        def first_passes_and_second_is_lost() -> bool:
            nonlocal got
            first.send(10)
            second.send(10)
            got += first.arrived()
            return got >= 50 and lab.queues("device-2")[0].lost_packets >= 50

        wait_until(first_passes_and_second_is_lost, "one passes, the other does not")
        assert second.arrived() == 0
        lab.restore("device-2")

        def is_back() -> bool:
            second.send(1)
            return second.arrived() > 0

        wait_until(is_back, "the second device is back")


def test_phases_change_by_themselves(lab: Lab) -> None:
    phases = (Phase(for_s=0.5), Phase(for_s=0.5, cut=True))
    lab.apply(Profile(title="blinking", phases=phases))
    with datagrams(lab) as line:
        seen: list[bool] = []

        def passes() -> bool:
            line.send(5)
            time.sleep(0.05)
            seen.append(line.arrived() > 0)
            return seen[-1]

        for wanted in (True, False, True, False):
            wait_until(lambda wanted=wanted: passes() is wanted, f"open is {wanted}")  # type: ignore[misc]
    lab.apply(CLEAR)


@pytest.fixture
def broker(lab: Lab, tmp_path: Path) -> Iterator[BrokerConfig]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"user {getpass.getuser()}\nlistener 1883 {lab.address(SERVER)}\nallow_anonymous true\n"
    )
    process = lab.popen(SERVER, [MOSQUITTO, "-c", str(config)], output=subprocess.DEVNULL)
    yield BrokerConfig(host=lab.address(SERVER), port=1883, connect_timeout_s=5.0)
    process.terminate()
    process.wait()


def test_a_link_brings_everything_over_a_lossy_line_that_is_cut(
    lab: Lab, broker: BrokerConfig
) -> None:
    lab.apply(load_profile("lossy-5"))
    with lab.inside(SERVER):
        server = Link(broker, client_id="server", subscriptions=("t/#",), rng=random.Random(1))
        server.open()
    with lab.inside(DEVICE):
        device = Link(broker, client_id="device", subscriptions=(), rng=random.Random(2))
        device.open()
    try:
        server.wait_connected(30.0)
        device.wait_connected(30.0)
        bodies = [bytes([number]) * 8000 for number in range(20)]
        for number, body in enumerate(bodies):
            if number == 5:
                lab.cut()
            device.publish(Publication(f"t/{number}", body, qos=1))
        time.sleep(1.0)  # the cut lasts: nothing to be polled may come of it
        early = lab.queues()[0].passed_packets
        time.sleep(0.5)
        assert lab.queues()[0].passed_packets == early
        lab.restore()
        came: dict[str, bytes] = {}
        while len(came) < len(bodies):
            event = server.events.get(timeout=60.0)
            if isinstance(event, Delivery):
                came[event.topic] = event.payload
                server.acknowledge(event)
            else:
                assert isinstance(event, LinkUp)
        assert came == {f"t/{number}": body for number, body in enumerate(bodies)}
    finally:
        lab.apply(CLEAR)
        device.close()
        server.close()


def test_a_lab_that_was_killed_is_swept_away(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a lab needs root: it makes network namespaces")
    name = f"fqtest{os.getpid()}"
    make_namespace(name)
    left = subprocess.Popen(within(name, ("sleep", "600")))
    files = StateFiles(LabState, tmp_path)
    wait_until(lambda: bool(output_of("ip", "netns", "pids", name)), "it runs")
    files.write("dead", LabState(namespaces=(name,), owner=Owner(pid=1, started_ticks=-1)))
    sweep_labs(files)
    assert left.wait(10) == -9
    assert name not in output_of("ip", "netns", "list")
    assert files.names() == ()


def test_a_router_that_is_a_namespace_joins_the_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this kernel has no netem, plain queues stand for it: the way is the same."""
    leaf = commands.router_leaf

    def plain(interface: str, number: int, direction: Direction, **how: bool) -> Command:
        line = leaf(interface, number, direction, **how)
        return (*line[: line.index("netem")], "pfifo", "limit", "1000")

    if not kernel_has_netem():
        monkeypatch.setattr(commands, "router_leaf", plain)
    with entered(devices=2, router="kernel") as made:
        assert made.kind == "kernel"
        with datagrams(made, "device-2") as line:
            line.send(10)
            wait_until(lambda: line.arrived() > 0, "a datagram")
        assert made.queues("device-2")[0].passed_packets >= 10
        assert made.queues("device-1")[0].passed_packets <= 2
        namespace = made.namespace(DEVICE)
    assert namespace not in output_of("ip", "netns", "list", missing="")


def test_the_command_runs_a_program_on_every_device_and_cleans_up(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    call = ["lab", "-p", "lossy-20", "--devices", "2", "--router", lab.kind, "--server", "sleep 60"]
    result = CliRunner().invoke(netem, [*call, "--", "sh", "-c", "echo $LAB_SIDE; exit 3"])
    assert result.exit_code == 3, result.stderr
    assert sorted(capfd.readouterr().out.split()) == ["device-1", "device-2"]
    files = StateFiles(LabState, state_folder())
    states = [state for name in files.names() if (state := files.read(name)) is not None]
    (own,) = (state for state in states if state.owner == this_process())
    assert lab.namespace(SERVER) in own.namespaces


def test_a_lab_of_no_devices_or_too_many_is_refused() -> None:
    for devices in (0, 251):
        with pytest.raises(Refused, match="1 to 250"):
            Lab(devices=devices)

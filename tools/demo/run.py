"""The demo from its first file to its last line: prepare, start a fleet, watch it, evaluate."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from queue import Empty

from rich.console import Console

from codec.errors import UnknownCodec
from codec.registry import codec_named
from tools.demo.broker import BrokerChoice, choose
from tools.demo.display import Display, LiveDisplay, PlainDisplay
from tools.demo.errors import BadOptions, FleetFailed, NoBroker
from tools.demo.model import make_adapter
from tools.demo.options import FEDERATION, DemoOptions
from tools.demo.outcome import report_of
from tools.demo.processes import Processes
from tools.demo.report import Report, print_summary
from tools.demo.workspace import Device, Workspace, lay_out_data, prepare_folder, write_configs
from tools.fleet_view import FleetView
from tools.units import count_text
from transport.broker import BrokerConfig
from transport.control import ServiceState
from transport.errors import LinkError
from transport.exit_codes import ExitCode
from transport.link import Delivery, Link
from transport.topics import Topics

BROKER_TIMEOUT_S = 15.0
# No wait without an end: a fleet that has said nothing new for this long will say nothing more.
# Two deadlines of the demo's rounds (60 s) and a restart lie below it.
SILENCE_TIMEOUT_S = 180.0
_TICK_S = 0.2


def run_demo(options: DemoOptions) -> ExitCode:
    """Play the demo and return its exit code: FAILED where the held-out loss did not fall.

    Raises:
        DemoError: It could not start, or a process ended for good.
        KeyboardInterrupt: Ctrl-C, after every process has ended.
    """
    started = time.monotonic()
    # With --json, standard output holds nothing but the report.
    console = Console(stderr=options.as_json)
    _check_codec(options.codec)
    workspace = prepare_folder(options.out)
    devices = lay_out_data(workspace, options)
    broker = choose(options.broker, workspace.broker)
    display: Display = LiveDisplay(console) if console.is_terminal else PlainDisplay(console)
    display.note(
        f"{count_text(len(devices), 'device')}, {count_text(options.rounds, 'round')};"
        f" logs in {workspace.logs}"
    )
    for device in devices:
        display.note(f"  {device.client_id}: {device.about}")
    make_adapter(options.base_model, workspace.initial_adapter)
    write_configs(workspace, options, devices=devices, broker=broker)
    processes = Processes(workspace.logs)
    try:
        _play(workspace, devices, broker=broker, processes=processes, display=display)
        restarts = processes.restarts()
    finally:
        processes.stop()
    report = report_of(
        workspace,
        options,
        devices=devices,
        broker_name=broker.name,
        restarts=restarts,
        started_s=started,
    )
    workspace.report.write_text(report.to_json() + "\n", encoding="utf-8")
    return conclude(report, console, as_json=options.as_json)


def conclude(report: Report, console: Console, *, as_json: bool) -> ExitCode:
    """Print the report, and return the exit code that it deserves."""
    if as_json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        print_summary(report, console)
    if report.improved:
        return ExitCode.OK
    console.print("the held-out loss did not fall", style="bold red")
    return ExitCode.FAILED


def _check_codec(name: str) -> None:
    try:
        codec_named(name)
    except UnknownCodec as error:
        raise BadOptions(f"--codec {name}: {error}") from error


def _play(
    workspace: Workspace,
    devices: Sequence[Device],
    *,
    broker: BrokerChoice,
    processes: Processes,
    display: Display,
) -> None:
    """Start everything, and follow the fleet until the aggregator has finished."""
    if broker.command:
        processes.start("broker", broker.command)
    _await_broker(broker, processes)
    names = Topics(FEDERATION)
    link = Link(
        BrokerConfig(host=broker.host, port=broker.port, mqtt_version=broker.mqtt_version),
        client_id=f"demo-viewer-{random.randrange(1 << 32):08x}",
        subscriptions=(f"{names.monitoring}/#",),
    )
    link.open()
    with closing(link), display:
        try:
            link.wait_connected(BROKER_TIMEOUT_S)
        except LinkError as error:
            raise NoBroker(str(error)) from error
        _start_fleet(workspace, devices, processes)
        _follow(link, FleetView(names), processes=processes, display=display)


def _start_fleet(workspace: Workspace, devices: Sequence[Device], processes: Processes) -> None:
    command = (sys.executable, "-m", "tools.cli")
    config = str(workspace.config("aggregator"))
    processes.start("aggregator", (*command, "aggregator", "--config", config))
    for device in devices:
        config = str(workspace.config(device.client_id))
        processes.start(device.client_id, (*command, "agent", "--config", config))


def _await_broker(broker: BrokerChoice, processes: Processes) -> None:
    until = time.monotonic() + BROKER_TIMEOUT_S
    while time.monotonic() < until:
        try:
            socket.create_connection((broker.host, broker.port), timeout=1.0).close()
        except OSError:
            for ended in processes.watch():
                raise NoBroker(f"the broker ended at once: {ended.words}") from None
            if broker.command is None:
                raise NoBroker(
                    f"no broker answers at {broker.host}:{broker.port}: check the address, or leave"
                    " --broker out"
                ) from None
            time.sleep(_TICK_S)
        else:
            return
    raise NoBroker(f"the broker did not open port {broker.port} within {BROKER_TIMEOUT_S:.0f} s")


def _follow(link: Link, view: FleetView, *, processes: Processes, display: Display) -> None:
    heard = time.monotonic()
    finished = False
    while not (finished and not processes.running("aggregator")):
        try:
            event = link.events.get(timeout=_TICK_S)
        except Empty:
            event = None
        if isinstance(event, Delivery):
            view.receive(event.topic, event.payload)
            if event.qos:
                link.acknowledge(event)
            heard = time.monotonic()
        display.show(view)
        finished = view.service is not None and view.service.state is ServiceState.FINISHED
        for ended in processes.watch():
            if not (ended.name == "aggregator" and ended.code == ExitCode.OK):
                raise FleetFailed(f"{ended.name} ended with exit code {ended.code}: {ended.words}")
            finished = True
        if time.monotonic() - heard > SILENCE_TIMEOUT_S:
            raise FleetFailed(
                f"the fleet has been silent for {SILENCE_TIMEOUT_S:.0f} s; see the logs"
            )

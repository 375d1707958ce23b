"""The demo from its first file to its last line: prepare, start a fleet, watch it, evaluate."""

from __future__ import annotations

import random
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from queue import Empty

from rich.console import Console

from aggregator.budget import BitsSchedule
from aggregator.config import check_downlink
from codec.errors import UnknownCodec
from codec.registry import codec_named
from tools.demo import page
from tools.demo.broker import BrokerChoice, choose
from tools.demo.comparison import compare
from tools.demo.display import Display, LiveDisplay, PlainDisplay
from tools.demo.errors import BadOptions, FleetFailed, NoBroker
from tools.demo.model import make_adapter
from tools.demo.options import FEDERATION, WHOLE, DemoOptions
from tools.demo.outcome import report_of
from tools.demo.processes import Processes
from tools.demo.report import Report, print_summary
from tools.demo.slow_link import SlowLink
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
_LEAST_ROUNDS = 2


def run_demo(options: DemoOptions) -> ExitCode:
    """Play the demo and return its exit code: FAILED where the held-out loss did not fall.

    Raises:
        DemoError: It could not start, or a process ended for good.
        KeyboardInterrupt: Ctrl-C, after every process has ended.
    """
    # With --json, standard output holds nothing but the report.
    console = Console(stderr=options.as_json)
    twin = _twin(options)
    for each in (options, twin):
        if each is not None:
            _check(each)
    workspace = prepare_folder(options.out)
    report = _run(workspace, options, console)
    if twin is not None:
        console.print(f"the same again with codec {twin.codec}, to compare", highlight=False)
        other = _run(prepare_folder(twin.out), twin, console)
        report = replace(report, comparison=compare(report, other))
    workspace.report.write_text(report.to_json() + "\n", encoding="utf-8")
    return conclude(report, console, as_json=options.as_json)


def _run(workspace: Workspace, options: DemoOptions, console: Console) -> Report:
    """Play one run in its folder, and return what it gave and cost."""
    started = time.monotonic()
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
    processes = Processes(workspace.logs)
    try:
        with ExitStack() as stack:
            port = None
            if options.slow_kbit_s is not None:
                link = SlowLink(broker.host, broker.port, kbit_s=options.slow_kbit_s)
                port = stack.enter_context(link).port
                name = devices[-1].client_id
                display.note(f"  {name} sends at {options.slow_kbit_s:g} kbit/s at the most")
            write_configs(workspace, options, devices=devices, broker=broker, slow_port=port)
            if options.dashboard:
                stack.enter_context(page.dashboard(workspace, broker, tell=display.note))
            _play(workspace, devices, broker=broker, processes=processes, display=display)
        restarts = processes.restarts()
    finally:
        processes.stop()
    return report_of(
        workspace,
        options,
        devices=devices,
        broker_name=broker.name,
        restarts=restarts,
        started_s=started,
    )


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


def _twin(options: DemoOptions) -> DemoOptions | None:
    """Return the options of the run to compare with: all the same but for the codec."""
    if options.compare is None:
        return None
    if options.rounds < _LEAST_ROUNDS:
        raise BadOptions(f"--compare {options.compare}: losses are compared between rounds; play 2")
    out = options.out / "compare"
    return replace(options, codec=options.compare, bits=None, downlink=WHOLE, compare=None, out=out)


def _check(options: DemoOptions) -> None:
    """Find out at once what the aggregator would refuse."""
    try:
        dense = codec_named(options.codec).dense
        bits = options.bits_per_coordinate
        if bits is not None:
            ends = bits if isinstance(bits, dict) else {"first": bits, "last": bits}
            BitsSchedule(**ends)
    except UnknownCodec as error:
        raise BadOptions(f"--codec {options.codec}: {error}") from error
    except ValueError as error:
        raise BadOptions(
            f"--bits {options.bits}: give bits per coordinate, as 0.25, or those of the first and"
            " the last round, as 0.1:0.5"
        ) from error
    _check_downlink(options)
    if dense and bits is not None:
        raise BadOptions(f"--bits {options.bits}: codec {options.codec} is dense and takes none")


def _check_downlink(options: DemoOptions) -> None:
    try:
        check_downlink(**options.downlink_settings)
    except ValueError as error:
        raise BadOptions(f"--downlink {options.downlink}: {error}") from error


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

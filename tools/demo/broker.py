"""The demo's broker: mosquitto where it is installed, else amqtt in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.demo.errors import BadOptions, NoBroker

# Debian puts the daemon where only root's PATH looks.
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"

_LAST_PORT = 65_535

_MOSQUITTO_CONF = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
max_inflight_messages 64
max_queued_messages 20000
set_tcp_nodelay true
log_type error
log_type warning
log_type notice
"""


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """A broker to start (`command`) or to use as it is (no command).

    Attributes:
        name: What the summary calls it.
        mqtt_version: The newest version of MQTT that it speaks.
        command: Its argv; None for a broker that is running already.
    """

    name: str
    host: str
    port: int
    mqtt_version: Literal["3.1.1", "5"]
    command: tuple[str, ...] | None


def choose(wanted: str, folder: Path) -> BrokerChoice:
    """Return the broker for `--broker wanted`; its files go below `folder`.

    Raises:
        BadOptions: `wanted` is neither a kind nor an address.
        NoBroker: mosquitto was asked for and is not installed.
    """
    match wanted:
        case "auto":
            return _mosquitto(folder) if mosquitto_daemon() else _embedded(folder)
        case "mosquitto":
            if not mosquitto_daemon():
                raise NoBroker(
                    "mosquitto is not installed: install it (Debian: apt install mosquitto),"
                    " or use --broker embedded"
                )
            return _mosquitto(folder)
        case "embedded":
            return _embedded(folder)
    host, _, port = wanted.partition(":")
    if not host or (port and not (port.isdigit() and 0 < int(port) <= _LAST_PORT)):
        raise BadOptions(f"--broker {wanted}: use auto, mosquitto, embedded, or HOST[:PORT]")
    return BrokerChoice(f"{host}:{port or 1883}", host, int(port or 1883), "5", None)


def mosquitto_daemon() -> str | None:
    """Return where mosquitto is, None where it is not installed."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + _SBIN)


def _mosquitto(folder: Path) -> BrokerChoice:
    daemon = mosquitto_daemon()
    assert daemon is not None
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config = _MOSQUITTO_CONF.format(port=port, folder=folder)
    if os.geteuid() == 0:
        # Started by root it would change to a user of its own, who could not write here, and whom
        # the kernel would not end together with the demo.
        config += "user root\n"
    file = folder / "mosquitto.conf"
    file.write_text(config, encoding="utf-8")
    return BrokerChoice("mosquitto", "127.0.0.1", port, "5", (daemon, "-c", str(file)))


def _embedded(folder: Path) -> BrokerChoice:
    if importlib.util.find_spec("amqtt") is None:
        raise NoBroker(
            "there is no broker: install mosquitto (Debian: apt install mosquitto), or the embedded"
            " one (pip install 'fedfstq[demo]')"
        )
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    command = (sys.executable, "-m", "tools.demo.embedded_broker", str(port))
    return BrokerChoice("amqtt (embedded)", "127.0.0.1", port, "3.1.1", command)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

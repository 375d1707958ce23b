"""A real fleet, a real dashboard, and a real Chromium that looks at it.

Pictures go to the folder that FEDFSTQ_PICTURES names, else to the test's own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

CLI = (sys.executable, "-m", "tools.cli")
PATIENCE_S = 60.0
# [bytes] What a slow link takes at once: the less, the smoother.
_SIP_BYTES = 512
# [s] How long a link takes what it loses before it is reset.
_FADING_S = 1.0
DESKTOP = (1440, 900)
PHONE = (390, 844)


def until(done: Callable[[], Any], what: Callable[[], str] | str, *, patience_s: float = 0) -> Any:
    """Poll until something is so, and return it."""
    limit = time.monotonic() + (patience_s or PATIENCE_S)
    while not (found := done()):
        told = what if isinstance(what, str) else what()
        assert time.monotonic() < limit, f"it did not come: {told}"
        time.sleep(0.1)
    return found


class Wire:
    """A TCP link to a port of this machine that can get slow towards it, and break.

    Attributes:
        up_bytes_per_s: What it takes in the direction of the broker; None for all.
        breaks_after_bytes: So many bytes upwards pass on each connection. What comes within the
            next second is taken and never arrives, as on a radio that fades, and then it is reset.
            None for never.
        broken: How many connections it has broken.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up_bytes_per_s: float | None = None
        self.breaks_after_bytes: int | None = None
        self.broken = 0
        self._resetting: set[socket.socket] = set()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Take no device any more, and let go of those that there are."""
        self.up_bytes_per_s = self.breaks_after_bytes = None
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()

    def cut(self) -> None:
        """Break every connection."""
        for end in tuple(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                device.close()
                continue
            # What waits on a link waits in the device, not in this process.
            device.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._ends += [device, broker]
            pump = threading.Thread(target=self._both_ways, args=(device, broker), daemon=True)
            self._threads.append(pump)
            pump.start()

    def _both_ways(self, device: socket.socket, broker: socket.socket) -> None:
        down = threading.Thread(target=self._carry, args=(broker, device), daemon=True)
        down.start()
        self._carry(device, broker, is_up=True)
        down.join()
        for end in (device, broker):
            self._ends.remove(end)
            self._resetting.discard(end)
            end.close()

    def _carry(self, source: socket.socket, target: socket.socket, *, is_up: bool = False) -> None:
        taken, reset_at = 0, float("inf")
        with suppress(OSError):
            while True:
                speed = self.up_bytes_per_s if is_up else None
                limit = self.breaks_after_bytes if is_up else None
                if limit and taken > limit:
                    reset_at = min(reset_at, time.monotonic() + _FADING_S)
                left_s = reset_at - time.monotonic()
                if left_s <= 0:
                    self._reset(source)
                    break
                if not select.select([source], [], [], min(left_s, _FADING_S))[0]:
                    continue
                part = source.recv(_SIP_BYTES if speed or limit else 65_536)
                if not part:
                    break
                if speed:
                    time.sleep(len(part) / speed)
                taken += len(part)
                if reset_at == float("inf"):
                    target.sendall(part)
        for end in {source, target} - self._resetting:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _reset(self, device: socket.socket) -> None:
        """Have its end say reset, as networks do; a link that ends in good order means a taker."""
        self.broken += 1
        self._resetting.add(device)
        device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Dashboard:
    """`fedfstq dashboard` as a process of its own.

    Attributes:
        cli: What runs the program's commands.
        url: Where it serves.
    """

    cli = CLI

    def __init__(self, folder: Path, broker_port: int) -> None:
        self._config = folder / "viewer.yaml"
        broker = {"host": "127.0.0.1", "port": broker_port}
        told = {"federation": "soak", "login": "viewer", "broker": broker}
        self._config.write_text(yaml.safe_dump(told), encoding="utf-8")
        self._log = folder / "dashboard.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = self.start("127.0.0.1:0")

    def start(self, listen: str) -> str:
        """Start it, and return where it serves."""
        command = [*CLI, "dashboard", "--config", str(self._config), "--listen", listen]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        found = until(
            lambda: re.search(r"dashboard: (\S+)\n", self._log.read_text()),
            lambda: f"the dashboard serves: {self._log.read_text()}",
        )
        return str(found[1])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            self._process = None


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, driver: webdriver.Chrome, pictures: Path) -> None:
        self.driver = driver
        self.pictures = pictures

    def open(self, url: str) -> None:
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(url)
        self.wait(lambda: self.level != "connecting", "the page is live")

    def resize(self, size: tuple[int, int]) -> None:
        """Take another size; headless windows are no narrower than 500 px, screens are."""
        width, height = size
        self._cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def prefer(self, scheme: str) -> None:
        """Take `light` or `dark` as what the system prefers."""
        self._cdp(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def do(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def find(self, test_id: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, f"[data-testid='{test_id}']")

    def text(self, test_id: str) -> str:
        """Return what a person reads there; a gap that does not break is a gap."""
        return str(self.find(test_id).text).replace("\u00a0", " ")

    def row(self, device: str) -> dict[str, str]:
        """Return what the grid says of a device, in one look, on the screen or off it."""
        return dict(
            self.do(
                f"""(() => {{
                const row = document.querySelector("[data-testid='device-{device}']");
                const text = (name) => row.querySelector(name).textContent;
                const told = (name) => text(name).replaceAll("\\u00a0", " ");
                return {{ attention: told(".mark"), words: told(".what"), state: row.dataset.state,
                          progress: told(".progress"), goodput: told("[data-field=goodput]") }};
                }})()"""
            )
        )

    @property
    def level(self) -> str:
        return str(self.do("document.body.dataset.page"))

    @property
    def banner(self) -> str:
        """Return the banner's words, "" where none is seen."""
        element = self.find("banner")
        return self.text("banner") if element.is_displayed() else ""

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, done: Callable[[], Any], what: str, *, patience_s: float = 0) -> Any:
        return until(done, lambda: f"{what}\n{self.shown()}", patience_s=patience_s)

    def shown(self) -> str:
        return str(self.do("document.body.innerText"))

    def shoot(self, name: str) -> Path:
        """Take a picture of what is seen."""
        taken = self._cdp("Page.captureScreenshot", format="png")
        path = self.pictures / f"{name}.png"
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the console since the last time."""
        told = self.driver.get_log("browser")
        return [one["message"] for one in told if one["level"] in {"SEVERE", "WARNING"}]

    def requests(self) -> set[str]:
        """Return the URLs that were asked for since the last time."""
        messages = [json.loads(one["message"]) for one in self.driver.get_log("performance")]
        return {
            told["params"]["request"]["url"]
            for message in messages
            if (told := message["message"])["method"] == "Network.requestWillBeSent"
        }

    def _cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu",
                   "disable-background-networking", "window-size=1440,900"):  # fmt: skip
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("FEDFSTQ_PICTURES")
    folder = Path(named) if named else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def browser(chromium: webdriver.Chrome, pictures: Path) -> Browser:
    one = Browser(chromium, pictures)
    one.resize(DESKTOP)
    one.prefer("light")
    return one


@pytest.fixture(scope="module")
def wire() -> Iterator[Callable[[int], Wire]]:
    """Makes links to ports."""
    made: list[Wire] = []

    def make(port: int) -> Wire:
        made.append(Wire(port))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Path, int], Dashboard]]:
    """Starts dashboards of fleets."""
    made: list[Dashboard] = []

    def start(folder: Path, broker_port: int) -> Dashboard:
        made.append(Dashboard(folder, broker_port))
        return made[-1]

    yield start
    for one in made:
        one.stop()

"""The fleet's page for a browser while the demo runs: `fedfstq dashboard`, its own process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import yaml

from tools.demo.broker import BrokerChoice
from tools.demo.options import FEDERATION
from tools.demo.processes import die_with_parent
from tools.demo.workspace import Workspace

LOGIN = "demo-watcher"
_NEEDS = ("starlette", "uvicorn")
_GOODBYE_S = 5.0


@contextmanager
def dashboard(
    workspace: Workspace, broker: BrokerChoice, *, tell: Callable[[str], None]
) -> Iterator[None]:
    """Serve the fleet's page for as long as the block runs, and tell its address.

    The demo does not depend on it: where it cannot be served, that is told, and all goes on.

    Args:
        workspace: Gets the page's login and log.
        broker: The demo's.
        tell: Called with one line, once it is known.
    """
    if any(find_spec(name) is None for name in _NEEDS):
        tell("to watch it in a browser: pip install 'fedfstq[dashboard]'")
        yield
        return
    config = workspace.config("dashboard")
    config.write_text(_login(broker), encoding="utf-8")
    command = (sys.executable, "-m", "tools.cli", "dashboard", "--config", str(config))
    with (workspace.logs / "dashboard.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # this program
            [*command, "--listen", "127.0.0.1:0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # one libc call, no locks
        )
        assert process.stdout is not None
        # The fleet does not wait for a page that is slow to start.
        reader = threading.Thread(
            target=_pass_on, args=(process.stdout, tell, Path(log.name)), daemon=True
        )
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join()
            process.stdout.close()


def _login(broker: BrokerChoice) -> str:
    where = {"host": broker.host, "port": broker.port, "mqtt_version": broker.mqtt_version}
    return yaml.safe_dump({"federation": FEDERATION, "login": LOGIN, "broker": where})


def _pass_on(said: IO[str], tell: Callable[[str], None], log: Path) -> None:
    line = said.readline().strip()
    tell(f"  {line}" if line else f"  no dashboard: see {log}")

"""docs/monitoring.md and the Grafana dashboard, against a real Prometheus and a real aggregator.

They need Debian's `prometheus` (which brings `promtool`), and are skipped without it.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.soak.fleet import Fleet, FleetSpec, NoMosquitto
from tools.soak.synthetic_trainer import Behaviour

pytestmark = [pytest.mark.broker, pytest.mark.processes]

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "tools" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PATIENCE_S = 90.0
# What has no value in a short run of well devices without power sensors; {} is what is shown then.
EMPTY = {
    "fedfstq_alert": "no alert stands",
    "fedfstq_adapter_delta_bytes": "versions go down whole",
    "fedfstq_adapter_chain_bytes": "the same",
    "fedfstq_round_energy_joules": "nothing measures power",
    "fedfstq_energy_joules_total": "the same",
    "fedfstq_energy_above_idle_joules_total": "the same",
    "fedfstq_device_round_energy_joules": "the same",
    "fedfstq_device_idle_watts": "the same",
    "fedfstq_refused_total": "nothing was refused",
}


def block(name: str) -> str:
    """Return the page's code block that begins with the name of this file."""
    found = re.search(rf"```yaml\n# {re.escape(name)}\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def promtool(*arguments: str, stdin: str = "") -> str:
    """Run a check, and return what it says; it must have nothing to complain of."""
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@dataclass(frozen=True, slots=True)
class Watched:
    """A Prometheus that scrapes an aggregator, and both their addresses."""

    prometheus: str
    aggregator: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({"query": expression})
        answer = json.loads(fetch(f"{self.prometheus}/api/v1/query?{asked}"))
        assert answer["status"] == "success", (expression, answer)
        assert not answer.get("warnings"), (expression, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def wait(self, done: Callable[[], Any], what: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError):
                if done():
                    return
            assert time.monotonic() < limit, f"it did not come: {what}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's two files as they stand there, beside one another."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("no Prometheus: apt-get install prometheus")
    place = tmp_path_factory.mktemp("prometheus")
    for name in ("prometheus.yml", "fedfstq-alerts.yml"):
        (place / name).write_text(block(f"/etc/prometheus/{name}"), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def watched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Only the port and the pace are other than on the page."""
    metrics, own = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    told = (folder / "prometheus.yml").read_text(encoding="utf-8")
    config = folder / "quick.yml"
    quick = told.replace("127.0.0.1:9464", metrics).replace(
        "scrape_interval: 15s", "scrape_interval: 1s"
    )
    assert quick != told
    config.write_text(quick, encoding="utf-8")
    spec = FleetSpec(
        agents=3,
        rounds=500,
        settings={"goal": 2, "quorum": 2, "min_devices": 2, "metrics": {"listen": metrics}},
        behaviour=Behaviour(train_s=0.5),
    )
    command = (
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={own}",
    )  # fmt: skip
    with Fleet(tmp_path_factory.mktemp("fleet"), spec) as fleet:
        try:
            fleet.start()
        except NoMosquitto as error:
            pytest.skip(str(error))
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            both = Watched(f"http://{own}", f"http://{metrics}")
            rounds = 'increase(fedfstq_rounds_total{outcome="committed"}[1m]) > 1'
            both.wait(lambda: both.query(rounds), "a few rounds are scraped")
            sent = "rate(fedfstq_device_bytes_up_total[1m]) > 0"
            both.wait(lambda: len(both.query(sent)) > 1, "what devices have sent is, too")
            yield both
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def test_the_pages_configuration_and_alerts_are_what_prometheus_takes(folder: Path) -> None:
    told = promtool("check", "config", str(folder / "prometheus.yml"))
    assert "1 rule files found" in told
    rules = promtool("check", "rules", str(folder / "fedfstq-alerts.yml"))
    assert f"SUCCESS: {block('/etc/prometheus/fedfstq-alerts.yml').count('alert:')} rules" in rules


def test_prometheus_has_nothing_to_complain_of_in_the_metrics(watched: Watched) -> None:
    assert promtool("check", "metrics", stdin=fetch(f"{watched.aggregator}/metrics")) == ""
    assert watched.query('up{job="fedfstq"} == 1')


def expressions() -> list[str]:
    def of(panels: list[dict[str, Any]]) -> Iterator[str]:
        for panel in panels:
            yield from (target["expr"] for target in panel.get("targets", ()))
            yield from of(panel.get("panels", []))

    return sorted({*of(DASHBOARD["panels"])})


def filled(expression: str) -> str:
    """Return an expression as Grafana asks it, with `All` chosen and a scrape every 15 s."""
    for name, value in (("$job", ".*"), ("$device", ".*"), ("$__rate_interval", "1m")):
        expression = expression.replace(name, value)
    return expression


def test_every_expression_of_the_dashboard_has_an_answer(watched: Watched) -> None:
    assert len(expressions()) > 40
    silent = {
        name
        for expression in expressions()
        if not watched.query(filled(expression))
        for name in re.findall(r"fedfstq_\w+", expression)
    }
    assert silent <= EMPTY.keys()


def test_every_variable_of_the_dashboard_has_values(watched: Watched) -> None:
    for one in DASHBOARD["templating"]["list"]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", one.get("definition", ""))
        if one["type"] == "query":
            assert found, one["name"]
            assert {row["metric"][found[2]] for row in watched.query(filled(found[1]))}


def test_the_pages_alerts_are_evaluated_and_none_fires_in_a_fleet_that_is_well(
    watched: Watched,
) -> None:
    def rules() -> list[dict[str, Any]]:
        answer = json.loads(fetch(f"{watched.prometheus}/api/v1/rules"))
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    for rule in rules():
        watched.query(rule["query"])
    assert {rule["state"] for rule in rules()} <= {"inactive", "pending"}
    assert all(not rule.get("lastError") for rule in rules())

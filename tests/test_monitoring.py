"""What real services publish in a real run is what docs/topics.md and docs/monitoring.md say."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from aggregator.metrics_config import MetricsConfig
from aggregator.metrics_families import BY_NAME
from tools.soak.fleet import AGGREGATOR, FEDERATION, Fleet, FleetSpec
from tools.soak.listener import Listener
from tools.soak.synthetic_trainer import Behaviour
from transport import control
from transport.errors import MessageError
from transport.link import Delivery
from transport.topics import Address, Alert, Command, DeviceTopic, Response, Topics

# pytest brings the second one to older Pythons.
tomllib: Any = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

DOCS = Path(__file__).parents[1] / "docs"
TOPICS_PAGE = (DOCS / "topics.md").read_text(encoding="utf-8")
RECIPES_PAGE = (DOCS / "monitoring.md").read_text(encoding="utf-8")
BOARDS = Path(__file__).parent / "agent" / "boards"
TOPICS = Topics(FEDERATION)
BULK = ("up/", "down/", "model/", "want/")

# What docs/topics.md has and this run never publishes.
NEVER_PUBLISHED = {
    "want/<dev>/<version>": "a device asks only for what it misses, and here nothing is lost",
    "want/<dev>/<version>/d": "the same of a delta",
}
# Keys that hold nothing but null, "" or {} in this run, where the page shows a value.
NEVER_FILLED = {
    ("DeviceProfile", "base_precision"): "the synthetic trainer holds no base model",
    ("DeviceProfile", "base_precision_reason"): "the same",
    ("DeviceProfile", "cuda"): "there is no GPU",
}
# The same, where it depends on how fast this machine is.
SELDOM_FILLED = {
    ("TrainResponse", "goodput_bps"): "a link that is done at once is not measured",
    ("TrainResponse", "upload_s"): "the same",
    ("Telemetry", "goodput_bps"): "the same",
}
# What stands under `fl/` in a unit of its own, or in none: counts, numbers of things, and shares.
UNITLESS = {
    "accumulation_steps", "adapter_version", "base_version", "batch_size", "chain_from", "clipped",
    "clip_norm", "cohort", "complete", "correct", "count", "delta_segments", "dropped",
    "energy_devices", "epoch", "eval_accuracy", "eval_examples", "eval_loss", "eval_tokens",
    "eval_version", "examples", "goal", "heldout_examples", "late", "learning_rate", "local_steps",
    "loss", "mask_interval", "max_tokens", "micro_batch", "out_of_memory", "partial",
    "participants", "quorum", "residual_decay", "round_id", "rounds", "score_decay", "seed",
    "segments", "segments_accepted", "segments_resent", "segments_sent", "stale", "stalled", "step",
    "steps", "token_ratio", "tokens", "train_loss", "version", "waiting", "weight_decay",
}  # fmt: skip
UNITS = ("_s", "_bytes", "_bps", "_pct", "_c", "_w", "_j", "_mb")
# Older than that rule, and said in words on the page.
IN_WORDS = {"ts", "since", "seconds", "bytes", "bytes_up", "bytes_up_payload", "bytes_up_fp32",
            "bytes_down", "bytes_sent"}  # fmt: skip

AGENT = (
    "import sys; from pathlib import Path; from agent.config import AgentConfig;"
    "from agent.runtime import run; from tools.soak.agent_process import TRAINER_COMMAND;"
    "config = AgentConfig.model_validate_json(Path(sys.argv[1]).read_text());"
    "sys.exit(run(config, trainer_command=TRAINER_COMMAND, root=Path(sys.argv[2])))"
)


class Observer(Listener):
    """Hears everything of a federation, and keeps it."""

    def __init__(self, port: int, name: str = "observer") -> None:
        super().__init__(port, client_id=name)
        self.heard: list[tuple[str, bytes, bool]] = []

    def hear(self, delivery: Delivery) -> None:
        self.heard.append((delivery.topic, delivery.payload, delivery.retain))

    def last(self, address: Address) -> dict[str, Any]:
        topic = TOPICS.topic(address)
        said = [payload for name, payload, _ in self.heard if name == topic and payload]
        return dict(json.loads(said[-1])) if said else {}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is over, whose broker and aggregator are still there."""

    fleet: Fleet
    observer: Observer
    retained: list[tuple[str, bytes]]
    exposition: str
    health: str

    @property
    def said(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Topic, message's name and JSON of all that was said under `fl/`."""
        names = {place: name for name, place in table().items()}
        return [
            (topic, names[place_of(topic)], json.loads(payload))
            for topic, payload, _ in self.observer.heard
            if topic.startswith("fl/") and payload and payload not in NOT_OURS
        ]


NOT_OURS = (b"this is no status",)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lay_out_board(root: Path) -> Path:
    for place, content in json.loads((BOARDS / "orin_nano.json").read_text()).items():
        file = root / place
        (file if content is None else file.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            file.write_text(content)
    return root


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Three rounds of two devices, one of them on a Jetson's files, and all that may go wrong."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path_factory.mktemp("monitoring")
    board = lay_out_board(folder / "board")
    port = free_port()

    def launch(name: str, command: tuple[str, ...]) -> tuple[str, ...]:
        if name == "device-1":
            return (sys.executable, "-c", AGENT, command[-1], str(board))
        return command

    spec = FleetSpec(
        agents=2,
        rounds=3,
        settings={
            "metrics": {"listen": f"127.0.0.1:{port}"},
            "downlink_codec": "fstq+",
            "plan": {"eval_examples": 8},
        },
        agent_settings={"telemetry_interval_s": 0.3},
        behaviour=Behaviour(train_s=1.5),
        launch=launch,
    )
    fleet = Fleet(folder / "fleet", spec)
    with fleet:
        fleet.start_broker()
        with Observer(fleet.port) as observer:
            fleet.start_service(AGGREGATOR)
            fleet.wait_for(lambda: service_state(observer) == "waiting", "it leads", timeout_s=60)
            observer.say(f"{TOPICS.monitoring}/d/device-9/status", NOT_OURS[0])
            for name in spec.devices:
                fleet.start_service(name)
            fleet.wait_finished(timeout_s=180)
            fleet.wait_for(
                lambda: service_state(observer) == "finished", "it says so", timeout_s=60
            )
            ask(fleet, "device-1", "pause")
            ask(fleet, "device-1", "resume")
            run = Run(
                fleet,
                observer,
                retained_at(fleet.port),
                fetch(port, "/metrics"),
                fetch(port, "/healthz"),
            )
            disturb(fleet, observer)
            yield run


def service_state(observer: Observer) -> object:
    names = {place: name for name, place in table().items()}
    said = [
        json.loads(payload)["state"]
        for topic, payload, _ in list(observer.heard)
        if payload and topic.startswith("fl/") and names[place_of(topic)] == "ServiceStatus"
    ]
    return said[-1] if said else None


def ask(fleet: Fleet, device: str, action: str) -> None:
    file = fleet.folder / "operator.yaml"
    broker = {"host": "127.0.0.1", "port": fleet.port}
    file.write_text(json.dumps({"federation": FEDERATION, "broker": broker}))
    command = [sys.executable, "-m", "tools.cli", "command", device, action, "-c", str(file)]
    command += ["--reason", "new fan"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def retained_at(port: int) -> list[tuple[str, bytes]]:
    with Observer(port, "latecomer") as latecomer:

        def retained() -> list[tuple[str, bytes]]:
            heard = list(latecomer.heard)
            return [(topic, payload) for topic, payload, is_retained in heard if is_retained]

        # The broker sends all of it at once; nothing says that it was the last.
        before = -1
        while len(retained()) != before:
            before = len(retained())
            time.sleep(1.0)
        return retained()


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def disturb(fleet: Fleet, observer: Observer) -> None:
    """Let last wills and farewells be said, and have one device come back."""
    fleet.kill("device-2", stays_dead=True)
    fleet.kill(AGGREGATOR, stays_dead=True)
    device = fleet.supervisor.children["device-1"]
    device.supervised = False
    device.process.send_signal(signal.SIGTERM)

    def state(name: str) -> object:
        return observer.last(DeviceTopic(name, "status")).get("state")

    fleet.wait_for(
        lambda: (
            (state("device-1"), state("device-2"), service_state(observer))
            == ("offline", "lost", "lost")
        ),
        "all are gone",
        timeout_s=60,
    )
    device.process.wait(20)
    fleet.start_service("device-1")
    fleet.wait_for(lambda: state("device-1") == "idle", "it is back", timeout_s=60)


# What the page says -----------------------------------------------------------------------------


def shown() -> dict[str, dict[str, Any]]:
    """Message name → its example, as docs/topics.md shows it."""
    pattern = r"^#### (\w+)\n.*?```json\n(.*?)```"
    found = re.findall(pattern, TOPICS_PAGE, flags=re.MULTILINE | re.DOTALL)
    return {name: json.loads(example) for name, example in found}


def rows() -> list[tuple[str, str, str]]:
    """Topic, whether it is retained and the message, of each row of both tables."""
    pattern = r"^\| `([^`]+)` \|[^|]+\|[^|]+\| ([^|]+) \| ([^|]+) \|$"
    return re.findall(pattern, TOPICS_PAGE, flags=re.MULTILINE)


def place_of(topic: str) -> tuple[str, str]:
    address = TOPICS.parse(topic)
    detail = str(getattr(address, "leaf", getattr(address, "name", "")))
    if isinstance(address, Command | Response) and detail not in {"train", "eval"}:
        detail = "pause"  # the row that stands for all an operator asks
    detail += " delta" if getattr(address, "delta", False) else ""
    return type(address).__name__, detail


def place_of_row(row: str) -> tuple[str, str]:
    root = TOPICS.bulk if row.startswith(BULK) else TOPICS.monitoring
    return place_of(f"{root}/{re.sub('<[a-z]+>', '1', row.replace('<uid>', '0' * 32))}")


def table() -> dict[str, tuple[str, str]]:
    return {message: place_of_row(row) for row, _, message in rows()}


def kind_of(value: object) -> str:
    return type(value).__name__


def declared(name: str, key: str) -> set[str]:
    """Return the JSON kinds that a message's field may have, as the code declares it."""
    hint = get_type_hints(getattr(control, name))[key]
    kinds = (
        {one.__name__ for one in get_args(hint) if isinstance(one, type)}
        if get_args(hint)
        else set()
    )
    return {"null" if one == NoneType.__name__ else one for one in kinds}


# Both ways --------------------------------------------------------------------------------------


@pytest.mark.processes
def test_every_topic_that_is_used_is_documented_and_the_other_way_round(played: Run) -> None:
    documented = {row: place_of_row(row) for row, _, _ in rows()}
    used: set[tuple[str, str]] = set()
    for topic, _, _ in played.observer.heard:
        try:
            used.add(place_of(topic))
        except MessageError:
            pytest.fail(f"{topic} is no documented topic")
    assert used <= set(documented.values())
    unused = {row for row, place in documented.items() if place not in used}
    assert unused <= set(NEVER_PUBLISHED), "documented, and never published"


@pytest.mark.processes
def test_every_message_has_the_documented_keys_and_kinds(played: Run) -> None:
    examples = shown()
    wrong: Counter[str] = Counter()
    seen: set[str] = set()
    for _, name, message in played.said:
        seen.add(name)
        wrong.update(differences(name, examples[name], message))
    assert wrong == Counter()
    assert seen == set(examples), "documented, and never published"


def differences(name: str, example: dict[str, Any], message: dict[str, Any]) -> Iterator[str]:
    """Yield how a message is unlike its example."""
    for key in example.keys() ^ message.keys():
        yield f"{name}.{key}: {'is not documented' if key in message else 'is missing'}"
    for key in example.keys() & message.keys():
        told, value = example[key], message[key]
        if told is None or value is None:
            may_be = declared(name, key) - {"None"} if hasattr(control, name) else set()
            if not ({kind_of(told), kind_of(value)} - {"NoneType"}) <= may_be | {"NoneType"}:
                yield f"{name}.{key}: {kind_of(value)} where the page shows {kind_of(told)}"
            if "null" not in may_be:
                yield f"{name}.{key}: null, and the code does not declare it"
        elif kind_of(told) != kind_of(value):
            yield f"{name}.{key}: {kind_of(value)} where the page shows {kind_of(told)}"
        elif key == "plan":
            yield from differences("TrainingPlan", told, value)
        elif isinstance(value, dict):
            kinds = {kind_of(one) for one in told.values()}
            if not {kind_of(one) for one in value.values()} <= kinds:
                yield f"{name}.{key}: values of another kind"


@pytest.mark.processes
def test_what_the_page_shows_filled_is_filled_at_some_time(played: Run) -> None:
    empty: tuple[Any, ...] = (None, "", {}, [])
    filled: dict[str, set[str]] = defaultdict(set)
    for _, name, message in played.said:
        filled[name] |= {key for key, value in message.items() if value not in empty}
    missing = {
        (name, key)
        for name, example in shown().items()
        for key, value in example.items()
        if value not in empty and key not in filled[name]
    }
    assert missing - set(SELDOM_FILLED) == set(NEVER_FILLED)


@pytest.mark.processes
def test_what_is_retained_is_what_the_page_calls_retained(played: Run) -> None:
    retained = {place_of(topic) for topic, payload in played.retained if payload}
    allowed = {place_of_row(row) for row, word, _ in rows() if word.startswith("yes")}
    assert retained <= allowed
    # The whole adapter's frames are cleared once its delta is out.
    missing = {row for row, word, _ in rows() if word.startswith("yes")
               if place_of_row(row) not in retained}  # fmt: skip
    assert missing <= {"model/<version>/m", "model/<version>/s/<i>"}


@pytest.mark.processes
def test_every_alert_is_explained(played: Run) -> None:
    explained = set(re.findall(r"^- `([a-z-]+)(?:<reason>)?`:", TOPICS_PAGE, flags=re.MULTILINE))
    codes = {
        address.code
        for topic, _, _ in played.observer.heard
        if topic.startswith("fl/") and isinstance(address := TOPICS.parse(topic), Alert)
    }
    assert "refused-malformed" in codes
    assert {"refused-" if code.startswith("refused-") else code for code in codes} <= explained


def test_units_stand_in_the_names() -> None:
    wrong = []
    for name, example in shown().items():
        for key, value in [*example.items(), *example.get("plan", {}).items()]:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not key.endswith(UNITS) and key not in UNITLESS | IN_WORDS:
                wrong.append(f"{name}.{key}")
    assert wrong == []
    for unit in UNITS:
        assert f"`{unit}`" in TOPICS_PAGE.split("## The JSON messages")[1].split("###")[0], unit


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ({"state": "idle", "session": "s", "round_id": 0, "reason": "", "ts": 0.0}, 0),
        ({"state": "idle", "session": "s", "round_id": 0, "reason": "", "ts": 0}, 1),
        ({"state": "idle", "session": "s", "round_id": None, "reason": "", "ts": 0.0}, 2),
        ({"state": "idle", "session": "s", "round_id": 0, "reason": ""}, 1),
        ({"state": "idle", "session": "s", "round_id": 0, "reason": "", "ts": 0.0, "x": 1}, 1),
    ],
)
def test_a_difference_is_found(message: dict[str, Any], wrong: int) -> None:
    assert len(list(differences("DeviceStatus", shown()["DeviceStatus"], message))) == wrong


# The same run in numbers ------------------------------------------------------------------------


def scraped(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


@pytest.mark.processes
def test_metrics_of_a_run_are_those_of_its_summaries(played: Run) -> None:
    found = scraped(played.exposition)
    summaries = {
        message["round_id"]: message for _, name, message in played.said if name == "RoundSummary"
    }
    assert sorted(summaries) == [1, 2, 3]
    assert found["fedfstq_adapter_version"] == found["fedfstq_run_rounds"] == 3
    assert found['fedfstq_rounds_total{outcome="committed"}'] == 3
    assert found['fedfstq_updates_total{state="complete"}'] == 6
    assert found["fedfstq_round_seconds"] == summaries[3]["seconds"]
    assert found["fedfstq_train_loss"] == summaries[3]["train_loss"] == 1.5
    assert found["fedfstq_eval_version"] == 3
    # What comes after the last commit is in no summary.
    assert found["fedfstq_bytes_up_total"] >= sum(one["bytes_up"] for one in summaries.values())
    for name in ("bytes_up_payload", "bytes_up_fp32"):
        assert found[f"fedfstq_{name}_total"] == sum(one[name] for one in summaries.values())
    assert found["fedfstq_segments_accepted_total"] > 0
    assert found['fedfstq_refused_total{reason="malformed"}'] == 1
    assert found['fedfstq_state{state="finished"}'] == 1
    assert found['fedfstq_devices{state="idle"}'] == 2
    assert found['fedfstq_device_up{device="device-1"}'] == 1
    assert found['fedfstq_device_round_energy_joules{device="device-1"}'] > 0
    assert played.health == "finished with adapter version 3\n"


# The recipes ------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """Return each line of docs/monitoring.md that begins with `sub `."""
    return re.findall(r"^sub .*$", RECIPES_PAGE, flags=re.MULTILINE)


@pytest.mark.processes
@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_shows_something(played: Run, recipe: str) -> None:
    """Each is run as it stands, with this run's federation, broker and end after a second."""
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("mosquitto_sub is not installed")
    line = recipe.replace("/clinics/", f"/{FEDERATION}/").replace("nano-01", "device-1")
    line = re.sub(r"-W \d+", "", line)
    sub = f'sub() {{ mosquitto_sub -h 127.0.0.1 -p {played.fleet.port} -W 1 "$@"; }}; '
    done = subprocess.run(
        ["/bin/sh", "-c", sub + line], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr in {"", "Timed out\n"}
    assert done.returncode in {0, 27}  # 27: the second is over
    # Nobody is asked anything in that second.
    assert done.stdout or "/cmd/" in line


# What other programs are told ---------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", RECIPES_PAGE, flags=re.MULTILINE | re.DOTALL)


def telegraf() -> list[dict[str, Any]]:
    (text,) = blocks("toml")
    inputs: list[dict[str, Any]] = tomllib.loads(text)["inputs"]["mqtt_consumer"]
    return inputs


def messages_on(pattern: str) -> dict[str, dict[str, Any]]:
    """Return the examples of what is published where a filter of Telegraf's looks."""
    topic = pattern.replace("+", "1").replace("/clinics/", f"/{FEDERATION}/")
    place = place_of(topic)
    return {name: shown()[name] for name, other in table().items() if other == place}


def test_telegraf_is_told_topics_and_keys_that_there_are() -> None:
    assert len(telegraf()) == 3
    for one in telegraf():
        examples = {
            name: keys for topic in one["topics"] for name, keys in messages_on(topic).items()
        }
        assert examples
        known = {key for keys in examples.values() for key in keys}
        assert set(one.get("tag_keys", [])) | set(one.get("json_string_fields", [])) <= known
        for excluded in one.get("fieldexclude", []):
            assert excluded.removesuffix("_*") in known
        # Every number that the page shows comes through, and no text but what is named.
        texts = {key for keys in examples.values() for key, value in keys.items()
                 if isinstance(value, str)}  # fmt: skip
        named = {*one["tag_keys"], *one.get("json_string_fields", [])}
        assert texts - named <= {"run", "session"}


def test_telegraf_reads_the_device_from_the_right_level() -> None:
    for one in telegraf():
        for parsing in one["topic_parsing"]:
            levels = parsing["topic"].split("/")
            tags = dict(zip(parsing["tags"].split("/"), levels, strict=True))
            assert tags["federation"] == "clinics"
            assert tags.get("device", "+") == "+"
            assert all(_matches(parsing["topic"], topic) for topic in one["topics"])
            measurement = parsing.get("measurement")
            if measurement is not None:
                assert len(measurement.split("/")) == len(levels)


def _matches(pattern: str, topic: str) -> bool:
    pairs = zip(pattern.split("/"), topic.split("/"), strict=True)
    return all(one in {"+", other} for one, other in pairs)


def test_telegraf_s_clients_have_names_of_their_own() -> None:
    names = [one["client_id"] for one in telegraf()]
    assert len(set(names)) == len(names)


def test_the_configuration_on_the_page_is_one() -> None:
    (text,) = [block for block in blocks("yaml") if block.startswith("metrics:")]
    MetricsConfig.model_validate(yaml.safe_load(text)["metrics"])


def test_every_metric_in_a_rule_or_in_words_exists() -> None:
    found = set(re.findall(r"\bfedfstq_[a-z0-9_]+", RECIPES_PAGE))
    assert found <= set(BY_NAME)
    (text,) = [block for block in blocks("yaml") if "groups:" in block]
    (group,) = yaml.safe_load(text)["groups"]
    assert len(group["rules"]) == 10
    for rule in group["rules"]:
        assert rule["annotations"]["summary"]
        assert wrong_labels(rule["expr"]) == []


def wrong_labels(expression: str) -> list[str]:
    """Return what an expression of PromQL asks of metrics that have no such label."""
    return [
        f"{name}.{label}"
        for name, selector in re.findall(r"\b(fedfstq_\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
        if name not in BY_NAME or label not in {*BY_NAME[name].labels, "job", "instance"}
    ]


DASHBOARD = json.loads(
    (Path(__file__).parents[1] / "tools" / "grafana" / "dashboard.json").read_text("utf-8")
)


def test_the_grafana_dashboard_shows_every_metric_and_no_other() -> None:
    expressions = [
        target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    ]
    found = {name for one in expressions for name in re.findall(r"\bfedfstq_\w+", one)}
    assert found == set(BY_NAME)
    assert [wrong for one in expressions for wrong in wrong_labels(one)] == []
    for name, label in re.findall(
        r"label_values\((fedfstq_\w+)[^)]*, (\w+)\)", json.dumps(DASHBOARD["templating"])
    ):
        assert label in {*BY_NAME[name].labels, "job"}


def test_the_grafana_dashboard_asks_whoever_imports_it_for_the_source() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == source
            assert {json.dumps(one["datasource"]) for one in panel["targets"]} == {
                json.dumps(source)
            }
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD)))
    assert used == variables


def test_the_grafana_dashboard_s_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells

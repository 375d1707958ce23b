"""What hostile messages cost until they are refused: `python tests/fuzz/measure.py [--json]`.

CPU time of this process and the most memory that Python and numpy held, for each message of the
tables in `test_hostile_limits.py` of the aggregator and the agent, the costliest first. The code
is 1 where one is above the limits: 50 ms, or 16 MiB.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from targets import DEVICE, deliveries

from aggregator.inbound import read
from transport.topics import Topics

TESTS = Path(__file__).parents[1]
MOST_MS = 50.0
MOST_BYTES = 16 << 20
REPEATS = 9


def main() -> int:
    """Measure all, and print a table or JSON."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = sorted(measured(), key=lambda row: -float(row["ms"]))
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(
            "| ms | MiB held | bytes | who | message |\n| --- | --- | --- | --- | --- |\n"
        )
        for row in rows:
            mib = float(row["held_bytes"]) / (1 << 20)
            sys.stdout.write(
                f"| {row['ms']:.2f} | {mib:.2f} | {row['bytes']} | {row['who']} | {row['name']} |\n"
            )
    above = [row for row in rows if row["ms"] > MOST_MS or row["held_bytes"] > MOST_BYTES]
    return min(1, len(above))


def measured() -> Iterator[dict[str, str | float]]:
    """Yield what each message costs."""
    topics = Topics("lab")
    for name, (topic, payload) in table("aggregator").HELD.items():

        def to_aggregator(topic: str = topic, payload: bytes = payload) -> None:
            read(topics, topic, payload, qos=1, mqtt_version="5")

        yield {"who": "aggregator", "name": name, **cost(to_aggregator), "bytes": len(payload)}
    for name, (topic, payload) in table("agent").HELD.items():
        # The target makes a session anew, which counts with it.
        where = topic.replace("/fed/", "/lab/").replace("dev-1", DEVICE)
        raw = where.encode() + b"\n" + payload

        def to_agent(raw: bytes = raw) -> None:
            deliveries(raw)

        yield {"who": "agent", "name": name, **cost(to_agent), "bytes": len(payload)}


def table(who: str) -> ModuleType:
    """Return the tests' module that has the messages."""
    path = TESTS / who / "test_hostile_limits.py"
    spec = importlib.util.spec_from_file_location(f"{who}_limits", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cost(action: Callable[[], None]) -> dict[str, float]:
    """Return the median CPU time in ms, and the most bytes held."""
    action()
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    tracemalloc.start()
    action()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"ms": 1000 * statistics.median(times), "held_bytes": peak}


if __name__ == "__main__":
    sys.exit(main())

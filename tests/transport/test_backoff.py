from __future__ import annotations

import random
import threading
import time

import pytest

from transport.backoff import Backoff, retrying
from transport.errors import LinkLost


@pytest.mark.parametrize("failures", [1, 2, 5, 10, 100_000])
def test_a_delay_is_between_zero_and_the_doubled_first_up_to_the_cap(failures: int) -> None:
    backoff = Backoff(first_s=1.0, cap_s=60.0)
    rng = random.Random(0)
    delays = [backoff.delay_s(failures, rng) for _ in range(2000)]
    most = min(60.0, 2.0 ** min(failures - 1, 10))
    assert 0 <= min(delays) < most * 0.02
    assert most * 0.98 < max(delays) <= most


def test_the_first_retry_comes_within_a_second() -> None:
    rng = random.Random(1)
    assert all(Backoff().delay_s(1, rng) <= 1.0 for _ in range(100))


def failing(times: int, error: Exception) -> list[Exception]:
    return [error] * times


def test_it_tries_until_it_works() -> None:
    faults = failing(3, LinkLost("no"))

    def call() -> str:
        if faults:
            raise faults.pop()
        return "done"

    quick = Backoff(first_s=0.001, cap_s=0.001)
    assert retrying(quick, retry_on=LinkLost, rng=random.Random(0))(call) == "done"


def test_an_error_of_another_kind_passes_at_once() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise KeyError("ours")

    with pytest.raises(KeyError):
        retrying(Backoff(), retry_on=LinkLost, rng=random.Random(0))(call)
    assert len(calls) == 1


def test_the_last_error_comes_out_when_the_attempts_are_used_up() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        raise LinkLost(f"try {len(calls)}")

    quick = Backoff(first_s=0.001, cap_s=0.001, attempts=3)
    with pytest.raises(LinkLost, match="try 3"):
        retrying(quick, retry_on=LinkLost, rng=random.Random(0))(call)


def test_stopping_ends_a_long_wait_at_once() -> None:
    stopping = threading.Event()

    def call() -> None:
        threading.Timer(0.05, stopping.set).start()
        raise LinkLost("no")

    class Longest(random.Random):
        def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  the base's names
            return b

    began_at = time.monotonic()
    with pytest.raises(LinkLost):
        retrying(
            Backoff(first_s=600.0, cap_s=600.0),
            retry_on=LinkLost,
            rng=Longest(),
            stopping=stopping,
        )(call)
    assert time.monotonic() - began_at < 300


def test_the_caller_may_count_failures_itself() -> None:
    asked = []

    class Recording(random.Random):
        def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  the base's names
            asked.append(b)
            return 0.0

    faults = failing(4, LinkLost("no"))

    def call() -> None:
        if faults:
            raise faults.pop()

    retrying(Backoff(first_s=1.0), retry_on=LinkLost, rng=Recording(), failures=lambda: 1)(call)
    assert asked == [1.0] * 4

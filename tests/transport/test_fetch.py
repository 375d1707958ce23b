from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import limits
from transport.fetch import Fetch, FetchDone, FetchRefused, FetchWant
from transport.messages import AdapterManifest, SegmentEntry
from transport.transfer_policy import TransferPolicy

RUN = "0123456789abcdef" * 2
BODIES = tuple(bytes((index,)) * 10 for index in range(4))
STEADY = TransferPolicy(jitter=0.0)


@pytest.fixture
def adapter(make_adapter_manifest: Callable[..., AdapterManifest]) -> AdapterManifest:
    return make_adapter_manifest(*BODIES)


@pytest.fixture
def fetch() -> Fetch:
    begun = Fetch(RUN, 2, policy=STEADY, rng=random.Random(0))
    assert begun.begin(0.0) == []
    return begun


def reasons(outputs: object) -> list[str]:
    assert isinstance(outputs, list)
    return [output.reason for output in outputs if isinstance(output, FetchRefused)]


def test_manifest_and_segments_give_the_adapter(fetch: Fetch, adapter: AdapterManifest) -> None:
    assert fetch.missing is None
    assert fetch.manifest(adapter, now=1.0) == []
    for index in (3, 1, 0):
        assert fetch.segment(index, BODIES[index], now=1.0) == []
    assert fetch.missing == {2}
    assert fetch.segment(2, BODIES[2], now=1.0) == [FetchDone(2, BODIES, adapter)]
    assert fetch.done


def test_segments_may_come_before_their_manifest(fetch: Fetch, adapter: AdapterManifest) -> None:
    for index, body in enumerate(BODIES):
        assert fetch.segment(index, body, now=1.0) == []
    assert fetch.manifest(adapter, now=2.0) == [FetchDone(2, BODIES, adapter)]


def test_early_segments_that_the_manifest_does_not_promise_are_dropped(
    fetch: Fetch, adapter: AdapterManifest
) -> None:
    fetch.segment(0, BODIES[1], now=1.0)
    fetch.segment(1, b"short", now=1.0)
    fetch.segment(2, BODIES[2], now=1.0)
    fetch.segment(9, BODIES[0], now=1.0)
    assert sorted(reasons(fetch.manifest(adapter, now=2.0))) == ["digest", "index", "length"]
    assert fetch.missing == {0, 1, 3}


def test_early_segments_are_kept_within_limits(fetch: Fetch) -> None:
    large = bytes(limits.MAX_SEGMENT_BYTES)
    fitting = limits.MAX_EARLY_BYTES // len(large)
    for index in range(fitting):
        assert fetch.segment(index, large, now=1.0) == []
    assert reasons(fetch.segment(fitting, large, now=1.0)) == ["oversized"]
    assert fetch.segment(0, large, now=1.0) == []  # again, in the same place
    assert reasons(fetch.segment(limits.MAX_SEGMENTS, b"x", now=1.0)) == ["index"]
    assert reasons(fetch.segment(-1, b"x", now=1.0)) == ["index"]


@pytest.mark.parametrize(
    ("index", "body", "reason"),
    [
        (4, BODIES[0], "index"),
        (-1, BODIES[3], "index"),
        (0, b"", "length"),
        (0, BODIES[1], "digest"),
    ],
)
def test_a_segment_that_the_manifest_does_not_promise_stays_missing(
    index: int, body: bytes, reason: str, fetch: Fetch, adapter: AdapterManifest
) -> None:
    fetch.manifest(adapter, now=1.0)
    assert reasons(fetch.segment(index, body, now=1.0)) == [reason]
    assert fetch.missing == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "reason"), [({"run": "f" * 32}, "run"), ({"version": 3}, "version")]
)
def test_a_manifest_of_another_run_or_version_is_refused(
    change: dict[str, object],
    reason: str,
    fetch: Fetch,
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    assert reasons(fetch.manifest(make_adapter_manifest(*BODIES, **change), now=1.0)) == [reason]
    assert fetch.missing is None


def test_another_manifest_of_the_same_version_keeps_what_it_names_as_well(
    fetch: Fetch,
    adapter: AdapterManifest,
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    fetch.manifest(adapter, now=1.0)
    fetch.segment(0, BODIES[0], now=1.0)
    fetch.segment(1, BODIES[1], now=1.0)
    other = make_adapter_manifest(BODIES[0], BODIES[3], BODIES[2])
    assert reasons(fetch.manifest(other, now=2.0)) == ["digest"]
    assert fetch.missing == {1, 2}
    fetch.segment(1, BODIES[3], now=3.0)
    bodies = (BODIES[0], BODIES[3], BODIES[2])
    assert fetch.segment(2, BODIES[2], now=3.0) == [FetchDone(2, bodies, other)]


def test_silence_is_ended_by_asking_ever_more_rarely(fetch: Fetch) -> None:
    waits, now = [], 0.0
    for _ in range(7):
        wakeup = fetch.next_wakeup()
        assert wakeup is not None
        assert fetch.tick(wakeup - 0.01) == []
        waits.append(wakeup - now)
        now = wakeup
        assert fetch.tick(now) == [FetchWant(2, None)]
        assert fetch.tick(now) == []
    assert waits == [3.0, 6.0, 12.0, 24.0, 48.0, 60.0, 60.0]


def test_it_asks_for_what_is_missing_and_progress_resets_the_wait(
    fetch: Fetch, adapter: AdapterManifest
) -> None:
    fetch.tick(3.0)
    fetch.manifest(adapter, now=4.0)
    fetch.segment(2, BODIES[2], now=5.0)
    assert fetch.next_wakeup() == 8.0
    assert fetch.tick(8.0) == [FetchWant(2, frozenset({0, 1, 3}))]


def test_what_comes_again_is_no_progress(fetch: Fetch, adapter: AdapterManifest) -> None:
    fetch.manifest(adapter, now=0.0)
    fetch.segment(0, BODIES[0], now=0.0)
    assert fetch.segment(0, BODIES[0], now=2.0) == []
    assert fetch.manifest(adapter, now=2.0) == []
    assert fetch.next_wakeup() == 3.0


def test_a_link_that_takes_longer_per_segment_than_the_silence_is_not_asked_again_and_again(
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    """Every answer would go to the whole fleet, and stand in line behind what is on its way."""
    bodies = tuple(bytes((index,)) * 10 for index in range(20))
    fetch = Fetch(RUN, 2, policy=STEADY, rng=random.Random(0))
    fetch.begin(0.0)
    fetch.manifest(make_adapter_manifest(*bodies), now=1.0)
    wants = 0
    for index, body in enumerate(bodies):
        now = 5.0 * (index + 1)
        wants += len(fetch.tick(now - 0.1))
        fetch.segment(index, body, now=now)
    assert fetch.done
    assert wants == 1


def test_a_reconnection_is_no_sign_of_a_slow_link(fetch: Fetch, adapter: AdapterManifest) -> None:
    fetch.manifest(adapter, now=0.0)
    fetch.connected(50.0)
    fetch.segment(0, BODIES[0], now=51.0)
    assert fetch.next_wakeup() == 54.0


def test_a_reconnection_gives_the_subscription_its_time(fetch: Fetch) -> None:
    fetch.tick(3.0)
    assert fetch.connected(8.9) == []
    assert fetch.next_wakeup() == 8.9 + 3.0


def test_nothing_happens_after_the_end(fetch: Fetch, adapter: AdapterManifest) -> None:
    fetch.manifest(adapter, now=0.0)
    for index, body in enumerate(BODIES):
        fetch.segment(index, body, now=0.0)
    assert fetch.next_wakeup() is None
    assert fetch.segment(0, b"other", now=1.0) == []
    assert fetch.manifest(adapter, now=1.0) == []
    assert fetch.connected(2.0) == []
    assert fetch.tick(1e6) == []


def test_devices_do_not_ask_in_step() -> None:
    fetches = [Fetch(RUN, 2, rng=random.Random(seed)) for seed in range(5)]
    for one in fetches:
        one.begin(0.0)
    assert len({one.next_wakeup() for one in fetches}) == 5


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_order_with_repetitions_ends_with_the_adapter(data: st.DataObject) -> None:
    parts: list[int | None] = [None, *range(4)]
    order = data.draw(st.permutations(parts)) + data.draw(st.lists(st.sampled_from(parts)))
    order = data.draw(st.permutations(order))
    fetch = Fetch(RUN, 2, rng=random.Random(0))
    fetch.begin(0.0)
    adapter = _adapter()
    outputs = []
    for now, part in enumerate(order):
        if part is None:
            outputs += fetch.manifest(adapter, now=float(now))
        else:
            outputs += fetch.segment(part, BODIES[part], now=float(now))
    assert outputs == [FetchDone(2, BODIES, adapter)]


def _adapter() -> AdapterManifest:
    entries = tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in BODIES)
    return AdapterManifest(RUN, 2, bytes(32), (("w", (4,)),), "fp32", entries, bytes(32), "{}")

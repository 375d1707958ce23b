from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from aggregator.adapter_folder import Adapter
from aggregator.config import AggregatorConfig
from aggregator.downlink import next_version
from codec.codec import FloatArray
from codec.layout import Layout
from tools.bench.methods import Method as CodecMethod
from tools.bench.methods import Rate
from tools.experiment.downlink import Downlink
from tools.experiment.fleet import TrialFailed
from tools.experiment.wire import delta_bytes, snapshot_bytes

LAYOUT = Layout.from_shapes({"m.lora_A.weight": (16, 200), "m.lora_B.weight": (400, 8)})
SEGMENT_BYTES = 4096
SEED = 7


def masters(count: int) -> list[FloatArray]:
    """Versions 0 to count of a server, each a step from the one before."""
    generator = np.random.default_rng(0)
    steps = generator.normal(scale=0.01, size=(count + 1, LAYOUT.size))
    return [flat.astype(np.float32) for flat in np.cumsum(steps, axis=0)]


def downlink(method: CodecMethod | None, adapter: FloatArray) -> Downlink:
    return Downlink(method, layout=LAYOUT, segment_bytes=SEGMENT_BYTES, seed=SEED, adapter=adapter)


def version_of(flat: FloatArray) -> Adapter:
    return Adapter(flat, LAYOUT, config="{}", base_model="base", base_digest=bytes(32))


def at(bits: float) -> CodecMethod:
    return CodecMethod("fstq+", Rate(bits, bits))


def test_without_deltas_clients_have_the_servers_adapter_and_fetch_all_of_it() -> None:
    versions = masters(2)
    plain = downlink(None, versions[0])
    for flat in versions[1:]:
        plain.publish(flat)
        assert np.array_equal(plain.adapter, flat)
        whole = snapshot_bytes(flat, layout=LAYOUT, segment_bytes=SEGMENT_BYTES)
        assert plain.fetch("a") == plain.fetch("b") == whole


@pytest.mark.parametrize("bits", [1.0, 4.0])
def test_versions_are_bit_for_bit_those_that_an_aggregator_would_publish(
    tmp_path: Any, bits: float
) -> None:
    config = AggregatorConfig(
        federation="lab",
        state_dir=tmp_path,
        initial_adapter=tmp_path,
        seed=SEED,
        segment_bytes=SEGMENT_BYTES,
        downlink_codec="fstq+",
        downlink_bits_per_coordinate=bits,
    )
    versions = masters(5)
    deltas = downlink(at(bits), versions[0])
    published = version_of(versions[0])
    for number, master in enumerate(versions[1:], start=1):
        deltas.publish(master)
        flat, delta = next_version(published, master, config=config, version=number)
        published = version_of(flat)
        assert np.array_equal(deltas.adapter, flat)
        assert not np.array_equal(flat, master)
        if number > 1:
            assert deltas.fetch("follower") == delta_bytes(
                delta.segments, layout=LAYOUT, codec="fstq+", version=number
            )
        else:
            deltas.fetch("follower")


def test_what_a_delta_drops_is_in_the_next() -> None:
    versions = masters(1)
    deltas = downlink(at(2), versions[0])
    rest = []
    for _ in range(6):
        deltas.publish(versions[1])  # the server stands still
        rest.append(float(np.linalg.norm(deltas.adapter - versions[1])))
    assert all(after < before for before, after in pairwise(rest))
    assert rest[-1] < rest[0] / 10


def test_a_client_follows_the_chain_and_takes_the_whole_where_it_does_not_reach() -> None:
    versions = masters(12)
    deltas = downlink(at(4), versions[0])
    deltas.publish(versions[1])
    newcomer = deltas.fetch("often")
    assert newcomer == deltas.fetch("seldom"), "whoever holds nothing takes the whole"
    deltas.publish(versions[2])
    one = deltas.fetch("often")
    assert one < newcomer / 5
    assert deltas.fetch("often") == 0, "it holds the newest"
    for flat in versions[3:5]:
        deltas.publish(flat)
    three = deltas.fetch("seldom")
    assert 2.5 * one < three < 3.5 * one, "three deltas, one after the other"
    for flat in versions[5:]:
        deltas.publish(flat)
    # Eight deltas of an eighth of the adapter each would take as much as the adapter itself.
    assert deltas.fetch("seldom") > 0.8 * newcomer


def test_an_adapter_beyond_float32_fails_the_trial() -> None:
    start = np.full(LAYOUT.size, -3e38, dtype=np.float32)
    deltas = downlink(at(4), start)
    with pytest.raises(TrialFailed, match="diverged"):
        deltas.publish(-start)

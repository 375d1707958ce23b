from __future__ import annotations

from dataclasses import replace

import numpy as np

from codec.layout import Layout
from tools.experiment.wire import Update, snapshot_bytes, update_bytes

NOISE = np.random.default_rng(0).bytes(5000)
UPDATE = Update(
    client_id="c01",
    round_id=3,
    codec="fstq-r",
    num_examples=400,
    steps=4,
    segments=(NOISE[:3000], NOISE[3000:]),
)
LAYOUT = Layout.from_shapes({"a": (64, 64)})


def test_messages_take_what_segments_have_and_a_little_more() -> None:
    more = update_bytes(UPDATE) - 5000
    assert 200 < more < 600


def test_each_further_segment_costs_its_entry_its_topic_and_its_head() -> None:
    thirds = replace(UPDATE, segments=(NOISE[:2000], NOISE[2000:3000], NOISE[3000:]))
    more = update_bytes(thirds) - update_bytes(UPDATE)
    assert 36 + 60 < more < 36 + 120


def test_a_longer_name_is_in_every_messages_topic() -> None:
    longer = replace(UPDATE, client_id="c01-at-the-far-end")
    grown = len(longer.client_id) - len(UPDATE.client_id)
    assert update_bytes(longer) - update_bytes(UPDATE) >= 3 * grown


def test_a_snapshot_is_as_long_as_its_numbers_and_zeros_are_shorter() -> None:
    adapter = np.random.default_rng(1).normal(size=LAYOUT.size).astype(np.float32)
    full = snapshot_bytes(adapter, layout=LAYOUT, segment_bytes=4096)
    assert 0.85 * 4 * LAYOUT.size < full < 1.1 * 4 * LAYOUT.size
    assert snapshot_bytes(0 * adapter, layout=LAYOUT, segment_bytes=4096) < full / 4

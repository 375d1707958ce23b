from __future__ import annotations

import numpy as np
import pytest

from codec.layout import Layout
from tools.experiment.sent import Sent

LAYOUT = Layout.from_shapes(
    {
        "m.lora_A.weight": (2, 3),
        "m.lora_B.weight": (3, 2),
        "n.lora_A.weight": (2, 2),
        "n.lora_B.weight": (2, 2),
    }
)
FLAT = np.arange(1, LAYOUT.size + 1, dtype=np.float32)


def test_all_is_sent_as_it_is() -> None:
    sent = Sent(LAYOUT, freeze_a=False)
    assert sent.layout is LAYOUT
    np.testing.assert_array_equal(sent.of(FLAT), FLAT)
    np.testing.assert_array_equal(sent.spread(FLAT), FLAT)


def test_with_a_frozen_only_b_is_sent_and_a_does_not_move() -> None:
    sent = Sent(LAYOUT, freeze_a=True)
    assert [tensor.name for tensor in sent.layout.tensors] == ["m.lora_B.weight", "n.lora_B.weight"]
    tensors = LAYOUT.unflatten(sent.spread(sent.of(FLAT)).astype(np.float32))
    whole = LAYOUT.unflatten(FLAT)
    for name, tensor in tensors.items():
        expected = whole[name] if "lora_B" in name else np.zeros_like(whole[name])
        np.testing.assert_array_equal(tensor, expected)


def test_the_sent_layout_orders_its_coordinates_as_they_are_taken() -> None:
    sent = Sent(LAYOUT, freeze_a=True)
    part = sent.layout.unflatten(sent.of(FLAT))
    whole = LAYOUT.unflatten(FLAT)
    for name, tensor in part.items():
        np.testing.assert_array_equal(tensor, whole[name])


def test_an_adapter_without_b_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="nothing is sent"):
        Sent(Layout.from_shapes({"m.lora_A.weight": (2, 2)}), freeze_a=True)

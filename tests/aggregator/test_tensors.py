from __future__ import annotations

from typing import Any

import numpy as np

from aggregator.tensors import count_moved, tensor_figures


def test_each_tensor_has_its_own_count_and_energy(layout: Any) -> None:
    delta = np.zeros(layout.size)
    first, second, third = layout.tensors
    delta[first.offset : first.offset + 3] = 2.0
    delta[third.end - 1] = -1.0
    moved = count_moved(delta, layout)
    assert moved.tolist() == [3, 0, 1]
    figures = tensor_figures(delta, 2 * moved, layout=layout, server_step=0.5)
    assert figures.moved == (6, 0, 2)
    assert figures.energy == (3.0, 0.0, 0.25)
    assert second.size > 0

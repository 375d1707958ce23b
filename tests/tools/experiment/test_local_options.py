"""The options of local training: defaults and ranges."""

from typing import Any

import pytest

from tools.experiment.local_options import Importance, LocalOptions, TokenMask
from transport.control import TrainingPlan


def test_the_defaults_change_nothing_about_the_plan() -> None:
    options, plan = LocalOptions(), TrainingPlan()
    assert (options.mask.value, options.importance) == (plan.mask, Importance.FISHER)
    assert (options.ratio, options.interval) == (plan.token_ratio, plan.mask_interval)
    assert (options.merge, options.prox, options.scaffold, options.freeze_a) == (0, 0, False, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 0.0},
        {"ratio": 1.1},
        {"interval": 0},
        {"merge": -0.1},
        {"merge": 0.6},
        {"merge": float("nan")},
        {"prox": -1.0},
        {"prox": float("inf")},
        {"ratio": float("nan")},
    ],
)
def test_a_number_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is "):
        LocalOptions(**wrong)


def test_the_methods_words_are_the_enums_values() -> None:
    assert [each.value for each in TokenMask] == [
        "off", "hard", "soft", "random", "gradient-norm", "attention",
    ]  # fmt: skip
    assert [each.value for each in Importance] == [
        "fisher", "uniform", "magnitude", "gradient-norm", "random", "oracle",
    ]  # fmt: skip

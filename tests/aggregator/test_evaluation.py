from __future__ import annotations

from typing import Any

import pytest

from aggregator.evaluation import FinalEvaluation, weighted_mean
from transport.messages import Evaluation


def stays(_name: Any) -> bool:
    return False


def test_the_mean_is_over_tokens_not_over_devices() -> None:
    result = weighted_mean([Evaluation(1.0, 300, 30), Evaluation(3.0, 100, 90)])
    assert (result.loss, result.accuracy, result.tokens, result.devices) == (1.5, 0.3, 400, 2)


def test_the_order_of_arrival_does_not_show() -> None:
    evaluations = [Evaluation(0.1 * number, 7 + number, 1) for number in range(50)]
    assert weighted_mean(evaluations) == weighted_mean(reversed(evaluations))


def test_nobody_means_nothing() -> None:
    assert weighted_mean([]) is None


def test_it_is_over_when_everybody_asked_has_answered() -> None:
    final = FinalEvaluation(deadline=100.0, held={})
    assert final.ask("a")
    assert final.ask("b")
    assert not final.is_over(1.0, has_left=stays)
    assert final.answered("a", Evaluation(1.0, 1, 1))
    assert not final.is_over(1.0, has_left=stays)
    assert final.answered("b", None)
    assert final.is_over(1.0, has_left=stays)
    assert final.result().devices == 1


def test_answers_count_once_and_only_from_those_asked() -> None:
    final = FinalEvaluation(deadline=100.0, held={})
    final.ask("a")
    assert not final.answered("stranger", Evaluation(9.0, 9, 9))
    assert final.answered("a", Evaluation(1.0, 1, 1))
    assert not final.answered("a", Evaluation(5.0, 1, 1))
    assert not final.ask("a")
    assert final.result().loss == 1.0


def test_who_has_left_is_not_awaited() -> None:
    final = FinalEvaluation(deadline=100.0, held={"a": Evaluation(1.0, 1, 1)})
    final.ask("b")
    assert not final.is_over(1.0, has_left=stays)
    assert final.is_over(1.0, has_left=lambda name: name == "b")


def test_nobody_online_waits_for_the_deadline() -> None:
    final = FinalEvaluation(deadline=100.0, held={})
    assert not final.is_over(99.0, has_left=stays)
    assert final.next_wakeup() == 100.0
    assert final.is_over(100.0, has_left=stays)
    assert final.result() is None


def test_it_is_not_over_before_it_is_known_who_is_online() -> None:
    final = FinalEvaluation(deadline=100.0, held={"a": Evaluation(1.0, 1, 1)})
    final.hold_until(12.0)
    assert final.next_wakeup() == 12.0
    assert not final.is_over(11.9, has_left=stays)
    assert final.is_over(12.0, has_left=stays)


@pytest.mark.parametrize("moment", [50.0, 150.0])
def test_a_moment_that_has_passed_does_not_wake_again(moment: Any) -> None:
    final = FinalEvaluation(deadline=100.0, held={})
    final.hold_until(moment)
    assert final.next_wakeup() == min(moment, 100.0)
    final.is_over(60.0, has_left=stays)
    assert final.next_wakeup() == 100.0

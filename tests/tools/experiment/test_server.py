from __future__ import annotations

import numpy as np
import pytest

from aggregator.server_optimizer import arrivals_factor
from codec.codec import FloatArray, Order
from tools.experiment.fleet import TrialFailed
from tools.experiment.methods import parse_method
from tools.experiment.server import ControlVariates, ServerOptimizer, arrivals_digest

MEANS = np.random.default_rng(0).normal(size=(5, 3))


def moved(
    text: str, means: np.ndarray = MEANS, *, order: Order = Order.ORDERED, goal: int = 4
) -> FloatArray:
    server = ServerOptimizer(
        parse_method(text), order=order, goal=goal, adapter=np.zeros(3, np.float32)
    )
    for mean in means:
        server.move(mean.copy(), bits=0.5, cohort=4)
    return server.adapter


def test_plain_averaging_adds_the_means() -> None:
    np.testing.assert_allclose(moved("fp32"), MEANS.sum(axis=0), rtol=1e-6)


def test_fedavgm_goes_on_in_the_old_direction() -> None:
    velocity, adapter = np.zeros(3), np.zeros(3)
    for mean in MEANS:
        velocity = 0.9 * velocity + mean
        adapter += 0.5 * velocity
    np.testing.assert_allclose(moved("fp32,momentum=0.9,step=0.5"), adapter, rtol=1e-5)


def test_an_unbiased_codec_of_few_bits_moves_less_with_an_automatic_step() -> None:
    whole = moved("fp32,step=auto", order=Order.ORDERED)
    np.testing.assert_allclose(whole, MEANS.sum(axis=0), rtol=1e-6)
    less = moved("fp32,step=auto", order=Order.EXCHANGEABLE)
    assert np.all(np.abs(less) < np.abs(whole))


def test_the_step_is_the_deployed_aggregators_where_few_updates_arrive() -> None:
    whole = moved("eden@0.5", order=Order.EXCHANGEABLE)
    few = moved("eden@0.5", order=Order.EXCHANGEABLE, goal=8)
    factor = arrivals_factor(0.5, arrived=4, goal=8, order=Order.EXCHANGEABLE)
    np.testing.assert_allclose(whole, MEANS.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(few, factor * whole, rtol=1e-6)
    full = moved("eden@0.5,full-step", order=Order.EXCHANGEABLE, goal=8)
    np.testing.assert_allclose(full, whole, rtol=1e-6)


def digest_of(text: str, *, goal: int = 5, order: Order = Order.EXCHANGEABLE) -> str:
    return arrivals_digest(parse_method(text), goal=goal, order=order)


def test_a_method_whose_steps_do_not_go_by_arrivals_has_no_digest() -> None:
    assert digest_of("fp32") == ""
    assert digest_of("fstq-r@0.02:0.1,full-step") == ""
    assert digest_of("fstq+@0.25", order=Order.ORDERED) == ""
    assert digest_of("eden@1.6") == ""


def test_another_rule_of_steps_gives_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ("fstq-r@0.02:0.1", "fstq-r@0.02", "fstq-r@0.1", "fstq-r@0.02:0.1,step=auto")
    found = [digest_of(text) for text in texts] + [digest_of(texts[0], goal=6)]
    assert len({*found, ""}) == len(found) + 1, "rates, rules and goals have digests of their own"
    assert found[0] == digest_of(texts[0])
    monkeypatch.setattr("aggregator.server_optimizer.CURVATURE_RATIO", 3.0)
    assert digest_of(texts[0]) != found[0]
    assert digest_of(texts[3]) == found[3], "which has a rule of its own"


def adaptive(*, yogi: bool, tau: float, eta: float) -> FloatArray:
    """Algorithm 2 of Reddi et al. as it stands there, coordinate by coordinate."""
    adapter = [0.0, 0.0, 0.0]
    for j in range(3):
        m, v = 0.0, tau * tau
        for mean in MEANS[:, j]:
            m = 0.9 * m + 0.1 * mean
            if yogi:
                v = v - 0.01 * mean**2 * np.sign(v - mean**2)
            else:
                v = 0.99 * v + 0.01 * mean**2
            adapter[j] += eta * m / (v**0.5 + tau)
    return np.array(adapter, dtype=np.float32)


@pytest.mark.parametrize("server", ["fedadam", "fedyogi"])
def test_adaptive_servers_do_what_their_paper_says(server: str) -> None:
    found = moved(f"fp32,server={server},tau=0.1,step=0.03")
    expected = adaptive(yogi=server == "fedyogi", tau=0.1, eta=0.03)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_adapter_that_leaves_float32_fails_the_trial() -> None:
    with pytest.raises(TrialFailed, match="diverged"):
        moved("fp32", np.full((1, 3), 1e39))


def test_control_variates_are_zero_at_first() -> None:
    control = ControlVariates(2, clients=4).of("a")
    assert not control.server.any()
    assert not control.client.any()


def test_the_servers_control_stays_the_mean_of_all_clients_controls() -> None:
    controls = ControlVariates(2, clients=4)
    generator = np.random.default_rng(1)
    for cohort in (["a", "b"], ["b", "c"], ["d"]):
        changes = [(name, generator.normal(size=2).astype(np.float32)) for name in cohort]
        before = {name: controls.of(name).client for name in cohort}
        controls.arrived(changes)
        for name, change in changes:
            np.testing.assert_allclose(controls.of(name).client, before[name] + change)
    mean = np.mean([controls.of(name).client for name in "abcd"], axis=0)
    np.testing.assert_allclose(controls.server, mean, rtol=1e-5)

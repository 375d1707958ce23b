from __future__ import annotations

from pathlib import Path
from typing import Any

from aggregator.account import DeviceTraffic, Spent
from aggregator.accounting import account_of
from aggregator.announcements import AdapterFacts, Announcer, RunFacts
from aggregator.closing import Aggregated
from aggregator.config import AggregatorConfig
from aggregator.journal import RoundRecord
from aggregator.outputs import FrozenUpdate
from aggregator.tensors import TensorFigures


def test_an_account_has_each_update_in_the_mean_and_no_other(
    update_maker: Any, layout: Any, base_digest: bytes
) -> None:
    config = AggregatorConfig.model_validate(
        {
            "federation": "lab",
            "state_dir": Path("state"),
            "initial_adapter": Path("initial"),
            "rounds": 5,
            "goal": 2,
            "quorum": 1,
            "codec": "fp32",
            "segment_bytes": 256,
        }
    )
    facts = RunFacts("ab" * 16, 1, "s", "tiny", base_digest, layout)
    good, bad = (update_maker(client_id=name, run=facts.run, round_id=3) for name in "ab")
    frozen = sorted(
        (FrozenUpdate(each.uid, 7.5, len(each.bodies), frozenset({0, 1})) for each in (good, bad)),
        key=lambda update: update.uid,
    )
    figures = TensorFigures((1, 2, 3), (0.0, 0.5, 1.0))
    account = account_of(
        Announcer(config, facts, "1.2"),
        RoundRecord(3, invited=("a", "b", "c")),
        Aggregated(
            AdapterFacts(3, "0" * 64, 1, 1),
            [good.uid],
            {bad.uid: "corrupt"},
            norms={good.uid: 2.0},
            clipped=(good.uid,),
            tensors=figures,
        ),
        frozen=frozen,
        manifests={good.uid: good.manifest, bad.uid: bad.manifest},
        traffic={"a": DeviceTraffic(payload_bytes=5)},
        spent={"a": Spent(1.0, None)},
    )
    (one,) = account.contributions
    assert (one.uid, one.client_id, one.trained_for, one.weight) == (good.uid, "a", 3, 7.5)
    assert (one.examples, one.steps, one.train_s, one.train_loss) == (10, 8, 1.5, 2.0)
    assert (one.eval_loss, one.eval_tokens, one.norm, one.clipped) == (1.0, 100, 2.0, True)
    assert (one.accepted, one.segments) == (2, len(good.bodies))
    assert one.payload_bytes == sum(map(len, good.bodies[:2]))
    assert (account.asked, account.tensors) == (("a", "b", "c"), figures)
    about = account.about
    assert (about["codec"], about["base_model"], about["update_bytes"]) == ("fp32", "tiny", None)
    assert (about["rounds"], about["software"]) == (5, "1.2")

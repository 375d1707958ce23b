from __future__ import annotations

import pytest

from tools.evidence.families import Role, configuration, title


@pytest.mark.parametrize(
    ("text", "family", "role"),
    [
        ("fp32", "fp32", Role.BASELINE),
        ("fp32,server=fedadam,tau=0.01,step=0.1", "fp32", Role.BASELINE),
        ("fp32,merge=0.3", "fp32,merge", Role.BASELINE),
        ("fp32,prox=0.1", "fp32,prox", Role.BASELINE),
        ("eden@0.5", "eden", Role.BASELINE),
        ("top-k@0.5,ef=0.95", "top-k,ef", Role.BASELINE),
        ("fstq@2,mask=hard,ratio=0.5", "fstq,mask=hard", Role.PAPER),
        ("fstq-percentile@2", "fstq-percentile", Role.PAPER),
        ("fstq-paper@4.8,mask=hard", "fstq-paper,mask=hard", Role.PAPER),
        ("fstq-r-plain@0.25", "fstq-r-plain", Role.CONTROL),
        ("fstq-r@0.15:0.8,step=auto", "fstq-r", Role.OWN),
        ("fstq+@0.25,ef,mask=off,importance=fisher", "fstq+,ef", Role.OWN),
        ("fstq+@0.25,ef,mask=soft", "fstq+,ef,mask=soft", Role.OWN),
        ("fstq+@0.25,ef,mask=random", "fstq+,ef,mask=random", Role.CONTROL),
        ("fstq+@0.25,ef,importance=oracle", "fstq+,ef,importance=oracle", Role.CONTROL),
        ("fstq-r@1,freeze=A", "fstq-r,freeze", Role.CONTROL),
        ("fstq-r@0.02:0.1,full-step,momentum=0.5", "fstq-r,full-step", Role.CONTROL),
        ("fstq-random@0.25,ef", "fstq-random,ef", Role.CONTROL),
        ("fstq+-plain@0.25,ef", "fstq+-plain,ef", Role.CONTROL),
    ],
)
def test_configurations_of_one_method_are_one_family_on_one_side(
    text: str, family: str, role: Role
) -> None:
    found = configuration(text)
    assert (found.family, found.role, found.text) == (family, role, text)


def test_what_is_tuned_alike_is_matched_whatever_is_chosen_by() -> None:
    texts = ("fstq+@0.25,ef", "fstq-random@0.25,ef", "fstq+@0.25,ef,importance=random,mask=hard")
    assert {configuration(text).tuning for text in texts} == {"@0.25,ef"}
    assert configuration("fstq+@0.25,ef,step=2").tuning == "@0.25,ef,step=2"
    assert configuration("fstq+@0.5,ef").tuning != "@0.25,ef"


@pytest.mark.parametrize(
    ("text", "is_one_bit"),
    [("eden@1", True), ("eden@1.0", True), ("eden@0.25", False), ("eden@1:0.5", False),
     ("eden", False), ("sign,ef", True), ("sign", False), ("stc@1,ef", False)],
)  # fmt: skip
def test_honest_one_bit_codecs_are_known(*, text: str, is_one_bit: bool) -> None:
    assert configuration(text).is_one_bit is is_one_bit


def test_a_family_has_a_name_people_know_also_where_an_option_is_new() -> None:
    assert title("fp32") == "FedAvg-LoRA fp32"
    assert title("fp32,merge") == "Fed-ToMe"
    assert title("fp32,tuned") == "FedAvg-LoRA fp32, tuned"
    assert title("fstq+,ef,importance=random") == "fstq+, importance=random"
    assert title("unheard-of") == "unheard-of"

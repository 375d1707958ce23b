from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.registry import codec_named
from tools.bench.methods import BadMethod, Rate
from tools.bench.methods import Method as CodecMethod
from tools.experiment.local_options import Importance, LocalOptions, TokenMask
from tools.experiment.methods import Method, Server, check_method, parse_method

POSITIVE = st.floats(1e-6, 64.0)
MASKED = st.builds(
    dict,
    mask=st.sampled_from([mask for mask in TokenMask if mask is not TokenMask.OFF]),
    ratio=st.floats(1e-6, 1.0),
    interval=st.integers(1, 1000),
)
LOCALS = st.builds(
    lambda masked, **others: LocalOptions(**masked, **others),
    st.just({}) | MASKED,
    merge=st.floats(0.0, 0.5),
    importance=st.sampled_from(Importance),
    prox=st.floats(0.0, 1e6),
    scaffold=st.booleans(),
    freeze_a=st.booleans(),
)
MOMENTUM = st.floats(0, 1, exclude_max=True)
SERVERS = st.one_of(
    st.builds(dict, server_step=st.none(), momentum=MOMENTUM),
    st.builds(dict, server_step=st.floats(1e-6, 100.0), full_step=st.booleans(), momentum=MOMENTUM),
) | st.builds(
    dict,
    server=st.sampled_from([Server.FEDADAM, Server.FEDYOGI]),
    server_step=st.floats(1e-6, 100.0),
    tau=st.floats(1e-6, 1.0),
)
METHODS = st.builds(
    lambda server, **others: Method(**server, **others),
    SERVERS,
    codec=st.from_regex(r"[a-z0-9][a-z0-9+-]{0,39}", fullmatch=True),
    rate=st.none() | st.builds(Rate, POSITIVE, POSITIVE),
    feedback=st.none() | st.floats(1e-6, 1.0),
    local=LOCALS,
    down=st.none()
    | st.builds(
        lambda codec, bits: CodecMethod(codec, None if bits is None else Rate(bits, bits)),
        st.from_regex(r"[a-z0-9][a-z0-9+-]{0,39}", fullmatch=True),
        st.none() | POSITIVE,
    ),
)


@given(METHODS)
@settings(deadline=None, max_examples=300)
def test_a_methods_text_gives_the_method_back(method: Method) -> None:
    assert parse_method(str(method)) == method


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("fp32", Method("fp32")),
        (
            "fstq-r@0.15:0.8,mask=hard,ratio=0.4",
            Method("fstq-r", Rate(0.15, 0.8), local=LocalOptions(mask=TokenMask.HARD, ratio=0.4)),
        ),
        (
            "top-k@0.5,ef=0.95,server=fedadam,tau=0.01,step=0.03",
            Method(
                "top-k",
                Rate(0.5, 0.5),
                feedback=0.95,
                server=Server.FEDADAM,
                server_step=0.03,
                tau=0.01,
            ),
        ),
        (
            "fp32,momentum=0.5,down=fstq+@4",
            Method("fp32", momentum=0.5, down=CodecMethod("fstq+", Rate(4, 4))),
        ),
        (
            "fp32,prox=0.1,scaffold,freeze=A,importance=oracle,merge=0.25,momentum=0.9",
            Method(
                "fp32",
                momentum=0.9,
                local=LocalOptions(
                    prox=0.1,
                    scaffold=True,
                    freeze_a=True,
                    importance=Importance.ORACLE,
                    merge=0.25,
                ),
            ),
        ),
    ],
)
def test_a_method_is_read_as_it_is_written(text: str, method: Method) -> None:
    assert parse_method(text) == method


def test_what_is_as_in_plain_averaging_is_not_written() -> None:
    text = "fstq+@0.25:0.25,step=1.0,momentum=0,ef=1,prox=0,merge=0,mask=off,importance=fisher"
    assert str(parse_method(text)) == "fstq+@0.25,ef"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "codec's name"),
        ("FP32", "codec's name"),
        ("fp32,foo", "none of ef, step"),
        ("fp32,scaffold,scaffold", "twice"),
        ("fp32,scaffold=1", "scaffold alone"),
        ("fp32,full-step=1", "full-step alone"),
        ("fp32,full-step,step=auto", "leave full-step out"),
        ("fp32,step", "step=…"),
        ("fp32,ef=", "ef alone"),
        ("fp32@", "no number"),
        ("fp32@65", "at most 64"),
        ("fp32,step=0", "above 0"),
        ("fp32,step=nan", "above 0"),
        ("fp32,momentum=1", "below 1"),
        ("fp32,momentum=x", "no number"),
        ("fp32,prox=-1", "finite"),
        ("fp32,prox=inf", "finite"),
        ("fp32,merge=0.6", "merge"),
        ("fp32,freeze=B", "only A"),
        ("fp32,mask=loud", "none of off, hard"),
        ("fp32,mask=hard,ratio=2", "at most 1"),
        ("fp32,mask=hard,interval=²", "whole number"),
        ("fp32,ratio=0.5", "belong to a mask"),
        ("fp32,tau=0.1", "tau belongs"),
        ("fp32,server=fedadam", "its own step"),
        ("fp32,server=fedyogi,step=auto", "its own step"),
        ("fp32,server=fedyogi,step=0.1,momentum=0.5", "has its own"),
        ("fp32,server=sgd", "none of average"),
        ("fp32,importance=luck", "none of fisher"),
        ("fp32,down", "down=…"),
        ("fp32,down=FSTQ", "write a codec"),
        ("fp32,down=fstq+@1:4", "one rate"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_said(text: str, complaint: str) -> None:
    with pytest.raises(BadMethod, match=complaint):
        parse_method(text)


@pytest.mark.parametrize(
    "text",
    ["fp32@1", "eden", "eden@1,ef", "fp32,down=eden@1", "fp32,down=fstq+", "fp32,down=fp16@1"],
)
def test_a_codec_that_cannot_do_what_is_asked_is_refused(text: str) -> None:
    method = parse_method(text)
    with pytest.raises(BadMethod):
        check_method(method, codec_named(method.codec))


def test_a_codec_that_can_is_not_refused() -> None:
    method = parse_method("fstq+@0.25,ef,mask=random,server=fedadam,step=0.1")
    check_method(method, codec_named(method.codec))

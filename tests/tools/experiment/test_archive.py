from __future__ import annotations

import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tools.experiment import archive
from tools.experiment.archive import pack, unpack

HEADER = json.dumps({"kind": "trial", "seed": 3})
OTHERS = st.sampled_from(['{"kind": "round"}', "[1]", "{", '{"kind": "end", "ok": true}'])
TRIALS = st.lists(st.lists(OTHERS, max_size=4).map(lambda lines: [HEADER, *lines]), max_size=5)


@given(TRIALS)
def test_what_is_packed_is_unpacked_trial_by_trial(trials: list[list[str]]) -> None:
    content = pack(trials)
    assert list(unpack(content)) == trials
    assert pack(trials) == content


def test_every_prefix_of_an_archive_is_refused() -> None:
    content = pack([[HEADER, '{"kind": "round"}']] * 3)
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"it is no archive|it claims"):
            list(unpack(content[:length]))


def test_what_is_too_large_is_refused_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = pack([[HEADER]])
    monkeypatch.setattr(archive, "MAX_BYTES", 8)
    with pytest.raises(ValueError, match="at most 8"):
        list(unpack(content))
    stream = zstandard.ZstdCompressor().compressobj()
    unsaid = stream.compress(b"x" * 100) + stream.flush()
    with pytest.raises(ValueError, match="it claims"):
        list(unpack(unsaid))


def test_no_text_is_no_archive() -> None:
    with pytest.raises(ValueError, match="no archive"):
        list(unpack(zstandard.compress(b"\xff\xfe")))

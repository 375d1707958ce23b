from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aggregator import metrics_config
from aggregator.config import AggregatorConfig
from aggregator.metrics_config import MetricsConfig, parse_listen


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_is_read(text: str, place: tuple[str, int]) -> None:
    assert parse_listen(text) == place
    assert MetricsConfig(listen=text).listen == text


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "localhost", "a:b", "::1:9464", "a:70000", "a:-1", "[::1]"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="no HOST:PORT"):
        MetricsConfig(listen=text)


def test_it_listens_on_loopback_unless_it_is_told_otherwise() -> None:
    assert parse_listen(MetricsConfig().listen)[0] == "127.0.0.1"


def test_without_the_library_the_configuration_is_refused_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {
        "federation": "lab",
        "state_dir": tmp_path,
        "initial_adapter": tmp_path,
    }
    assert AggregatorConfig.model_validate({**values, "metrics": {}}).metrics == MetricsConfig()
    monkeypatch.setattr(metrics_config, "find_spec", lambda _: None)
    with pytest.raises(ValidationError, match=r"pip install 'fedfstq\[metrics\]'"):
        AggregatorConfig.model_validate({**values, "metrics": {}})
    assert AggregatorConfig.model_validate(values).metrics is None

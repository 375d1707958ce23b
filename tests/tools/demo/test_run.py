from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tools.demo.errors import BadOptions
from tools.demo.options import DemoOptions
from tools.demo.report import Report
from tools.demo.run import conclude, run_demo
from transport.exit_codes import ExitCode


@pytest.mark.parametrize(("final_loss", "code"), [(2.5, ExitCode.OK), (3.0, ExitCode.FAILED)])
def test_a_loss_that_did_not_fall_is_said_and_exits_with_1(
    make_report: Callable[..., Report], final_loss: float, code: ExitCode
) -> None:
    output = io.StringIO()
    console = Console(file=output, width=120)
    report = make_report(final_loss=final_loss)
    assert conclude(report, console, as_json=False) is code
    assert ("did not fall" in output.getvalue()) is (code is ExitCode.FAILED)


def test_with_json_standard_output_holds_nothing_but_the_report(
    make_report: Callable[..., Report], capsys: pytest.CaptureFixture[str]
) -> None:
    conclude(make_report(), Console(stderr=True), as_json=True)
    assert json.loads(capsys.readouterr().out)["final_loss"] == 2.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"codec": "zip"}, "--codec zip"),
        ({"bits": "few"}, "--bits few"),
        ({"bits": "0.1:"}, "--bits 0.1:"),
        ({"bits": "0.1:99"}, "--bits 0.1:99"),
        ({"bits": "-1"}, "--bits -1"),
        ({"bits": "2", "codec": "fp16"}, "dense"),
        ({"downlink": "fp16:4"}, "--downlink fp16:4"),
        ({"downlink": "fstq:many"}, "--downlink fstq:many"),
        ({"downlink": "eden:1"}, "exchangeable"),
        ({"compare": "zip"}, "--codec zip"),
        ({"compare": "fp32", "rounds": 1}, "play 2"),
    ],
)
def test_what_the_aggregator_would_refuse_is_said_at_once(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    options = DemoOptions(
        agents=1,
        rounds=2,
        data=None,
        model=None,
        broker="auto",
        codec="fstq",
        bits=None,
        downlink="whole",
        compare=None,
        out=tmp_path / "out",
        as_json=False,
    )
    with pytest.raises(BadOptions, match=re.escape(expected)):
        run_demo(replace(options, **changes))
    assert not options.out.exists()

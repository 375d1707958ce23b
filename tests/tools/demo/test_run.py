from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from tools.demo.report import Report
from tools.demo.run import conclude
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

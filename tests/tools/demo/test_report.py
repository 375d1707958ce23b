import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from tools.demo.report import Report, Score, overall, print_summary


def printed(value: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_summary(value, console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_the_overall_score_weights_devices_by_their_tokens() -> None:
    assert overall([Score(1.0, 1.0, 300), Score(3.0, 0.0, 100)]) == Score(1.5, 0.75, 400)


def test_the_summary_says_what_was_gained_what_was_sent_and_how_to_load_the_adapter(
    make_report: Callable[..., Report],
) -> None:
    text = printed(make_report())
    assert "3.000 → 2.000" in text
    assert "25.0% → 50.0%" in text
    assert "1.00 kB as sent; dense fp32 FedAvg-LoRA would have sent 16.0 kB, 16.0 times" in text
    assert 'PeftModel.from_pretrained(base, "/somewhere/out/adapter")' in text


def test_the_printed_lines_for_loading_the_adapter_are_python(
    make_report: Callable[..., Report],
) -> None:
    shown = printed(make_report()).splitlines()
    lines = [line.strip() for line in shown if line.startswith("    ")]
    compile("\n".join(lines), "summary", "exec")
    assert len(lines) == 3


def test_the_json_holds_what_scripts_rely_on(make_report: Callable[..., Report]) -> None:
    keys = json.loads(make_report().to_json()).keys()
    assert keys >= {
        "rounds", "initial_loss", "final_loss", "uplink_bytes", "uplink_bytes_fp32", "wall_s",
        "adapter_path", "agents",
    }  # fmt: skip


@pytest.mark.parametrize(("final_loss", "improved"), [(2.9, True), (3.0, False), (3.1, False)])
def test_only_a_lower_loss_is_an_improvement(
    make_report: Callable[..., Report], final_loss: float, *, improved: bool
) -> None:
    assert make_report(final_loss=final_loss).improved is improved

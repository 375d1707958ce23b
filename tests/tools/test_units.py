import pytest

from tools.units import bytes_text, count_text, loss_text, ratio_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_340, "12.3 kB"),
        (584_000, "584 kB"),
        (2_500_000, "2.50 MB"),
        (7e12, "7000 GB"),
    ],
)
def test_bytes_have_three_figures_and_a_decimal_unit(count: float, text: str) -> None:
    assert bytes_text(count) == text


def test_a_loss_has_three_decimals_and_an_absent_one_is_blank() -> None:
    assert (loss_text(1.23456), loss_text(None)) == ("1.235", "")


def test_a_ratio_says_how_many_times_and_survives_nothing() -> None:
    assert (ratio_text(46, 4), ratio_text(1, 0)) == ("11.5 times", "without end")


def test_one_thing_is_singular() -> None:
    assert [count_text(count, "round") for count in (0, 1, 2)] == [
        "0 rounds",
        "1 round",
        "2 rounds",
    ]

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.report.axis import in_bytes
from tools.report.plot import Labels, Series, band, bar_plot, bundled, line_plot, path

LABELS = Labels("Loss", "How it falls.", "round", "nats")
VALUE = st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)
POINTS = st.lists(VALUE, max_size=30).map(lambda values: tuple(enumerate(values)))


def drawn(svg: str, kind: str) -> list[ET.Element]:
    root = ET.fromstring(svg)
    return [each for each in root.iter() if each.tag == kind]


def check(svg: str) -> None:
    """It is XML that says what it is, and no coordinate is anything but a number."""
    root = ET.fromstring(svg)
    named = root.attrib["aria-labelledby"].split()
    assert [each.attrib["id"] for each in root[:2]] == named
    for each in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "r", "d"):
            text = each.attrib.get(name, "0")
            assert re.fullmatch(r"[ML0-9. -]+", text), (name, text)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    for bar in (each for each in root.iter() if each.tag == "rect"):
        x, y = float(bar.attrib["x"]), float(bar.attrib["y"])
        assert left <= x <= x + float(bar.attrib["width"]) <= width + 0.02
        assert top <= y <= y + float(bar.attrib["height"]) <= height + 0.02
        assert float(bar.attrib["height"]) >= 0


def test_a_path_goes_through_its_places() -> None:
    assert path([(1.0, 2.0), (3.456, 4.0)]) == "M1 2 L3.46 4"
    assert path([]) == ""


def test_a_line_goes_from_the_left_edge_to_the_right_one_and_up_with_its_values() -> None:
    series = Series("held-out", "payload", ((0, 1.0), (1, 2.0), (2, 3.0)))
    svg = line_plot([series], LABELS, identity="p")
    check(svg)
    (line,) = drawn(svg, "path")
    assert line.attrib == {"class": "line payload", "d": "M68 236 L347 125 L626 14"}
    dots = [(each.attrib["cx"], each.attrib["cy"]) for each in drawn(svg, "circle")]
    assert dots == [("68", "236"), ("347", "125"), ("626", "14")]
    assert "held-out, round 1: 2" in svg


def test_a_bar_is_as_high_as_its_values_on_top_of_one_another() -> None:
    layers = [Series("a", "payload", ((1, 2.0), (2, 4.0))), Series("b", "mqtt", ((1, 2.0), (2, 0)))]
    svg = bar_plot(layers, LABELS, identity="p")
    check(svg)
    bars = [
        (each.attrib["class"], each.attrib["y"], each.attrib["height"])
        for each in drawn(svg, "rect")
    ]
    assert bars == [
        ("bar payload", "125", "111"),
        ("bar mqtt", "14", "111"),
        ("bar payload", "14", "222"),
    ]


def test_a_line_may_lie_over_bars() -> None:
    layers = [Series("a", "payload", ((1, 2.0), (2, 4.0)))]
    over = Series("dense", "dense", ((1, 8.0), (2, 8.0)))
    svg = bar_plot(layers, LABELS, identity="p", line=over)
    check(svg)
    assert drawn(svg, "path")[0].attrib["class"] == "line dense"


def test_a_thousand_rounds_are_drawn_in_bundles_whose_means_are_right() -> None:
    points = tuple((number, float(number)) for number in range(1, 1001))
    together = bundled(len(points))
    assert together > 1
    svg = bar_plot([Series("a", "payload", points)], LABELS, identity="p")
    check(svg)
    assert len(drawn(svg, "rect")) == -(-1000 // together)


def test_a_band_is_cut_by_shares() -> None:
    svg = band([("a", "payload", 3.0), ("b", "mqtt", 1.0), ("c", "refused", 0.0)],
               title="wire", about="shares", identity="w")  # fmt: skip
    check(svg)
    assert [each.attrib["width"] for each in drawn(svg, "rect")] == ["480", "160"]
    assert "a: 75.0%" in svg
    check(band([], title="wire", about="nothing", identity="w"))


@given(series=st.lists(POINTS, max_size=3), from_zero=st.booleans())
@settings(deadline=None, max_examples=60)
def test_whatever_the_values_a_line_plot_is_sound(
    *, series: list[tuple[tuple[int, float | None], ...]], from_zero: bool
) -> None:
    made = [Series(f"s{at}", "payload", points) for at, points in enumerate(series)]
    svg = line_plot(made, LABELS, identity="p", from_zero=from_zero)
    check(svg)
    assert "nan" not in svg.lower()


@given(layers=st.lists(POINTS, max_size=3))
@settings(deadline=None, max_examples=60)
def test_whatever_the_values_a_bar_plot_is_sound(
    layers: list[tuple[tuple[int, float | None], ...]],
) -> None:
    made = [Series(f"s{at}", "payload", points) for at, points in enumerate(layers)]
    labels = Labels("Bytes", "What went up.", "round", "bytes", in_bytes)
    svg = bar_plot(made, labels, identity="p")
    check(svg)
    assert "nan" not in svg.lower()


def test_nothing_to_show_is_said() -> None:
    for svg in (line_plot([], LABELS, identity="p"), bar_plot([], LABELS, identity="p")):
        check(svg)
        assert "nothing to show" in svg


def test_names_are_text_and_never_markup() -> None:
    hostile = '</title><script>alert(1)</script>"&'
    labels = Labels(hostile, hostile, hostile, hostile)
    series = [Series(hostile, "payload", ((1, 1.0), (2, 2.0)))]
    for svg in (
        line_plot(series, labels, identity="p"),
        bar_plot(series, labels, identity="p"),
        band([(hostile, "payload", 1.0)], title=hostile, about=hostile, identity="p"),
    ):
        check(svg)
        assert "<script" not in svg


def test_a_shade_lies_between_its_bounds_and_a_logarithmic_axis_leaves_out_zero() -> None:
    points = ((0.0, 4.0), (10.0, 3.0), (100.0, 2.0), (1000.0, 1.0))
    spread = ((0.0, 4.0, 4.0), (10.0, 2.0, 4.0), (100.0, 2.0, float("inf")), (1000.0, 1.0, 1.0))
    labels = Labels("Loss", "How it falls.", "bytes", "nats", x_format=in_bytes)
    svg = line_plot(
        [Series("a", "payload", points, spread)], labels, identity="p", logarithmic=True
    )
    check(svg)
    shade, line = drawn(svg, "path")
    assert shade.attrib == {"class": "shade payload", "d": "M68 14 L626 236 L626 236 L68 162"}
    assert line.attrib["d"] == "M68 88 L347 162 L626 236"
    assert "a, bytes 100 B: 2" in svg
    assert ">1 kB<" in svg

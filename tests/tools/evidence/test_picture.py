from __future__ import annotations

from xml.etree import ElementTree as ET

from tools.evidence.picture import picture_name, picture_of
from tools.evidence.sheets import Figure
from tools.report.plot import Labels, Series

SVG = "{http://www.w3.org/2000/svg}"
FIGURE = Figure(
    Labels("Loss against uplink: med", "What falls.", "bytes", "nats"),
    tuple(
        Series(f"method <{at}>", f"curve-{at}", ((1.0, 4.0), (100.0, 3.0 + at / 10)))
        for at in range(1, 4)
    ),
    "A caption.",
)


def test_a_picture_stands_alone_with_its_legend_and_style() -> None:
    root = ET.fromstring(picture_of(FIGURE))
    assert root.tag == f"{SVG}svg"
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert [text for text in texts if text and text.startswith("method")] == [
        "method <1>",
        "method <2>",
        "method <3>",
    ]
    (style,) = root.iter(f"{SVG}style")
    assert "--curve-1" in (style.text or "")
    (plot,) = root.findall(f"{SVG}svg")
    assert int(plot.get("y", "0")) + int(plot.get("height", "0")) == int(root.get("height", "0"))


def test_its_name_is_its_title() -> None:
    assert picture_name(FIGURE) == "loss-against-uplink-med.svg"

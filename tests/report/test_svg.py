import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from rlaif_dpo.report.svg import Series, bar, dot_plot, histogram, line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.35, 2.2, [0, 0.5, 1, 1.5, 2, 2.5]),
        (-33, -14, [-40, -35, -30, -25, -20, -15, -10]),
        (0, 80, [0, 20, 40, 60, 80]),
    ],
)
def test_ticks_are_round_and_span_the_data(low: float, high: float, ticks: list[float]) -> None:
    found = nice_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1
    assert float(f"{steps.pop():e}".split("e")[0]) in (1, 2, 5)


def test_ticks_of_a_constant_still_span() -> None:
    assert len(nice_ticks(0, 0)) >= 2
    assert nice_ticks(3, 3)[0] <= 3 < nice_ticks(3, 3)[-1] or nice_ticks(3, 3)[-1] == 3


def test_percentages_keep_their_axis() -> None:
    """A flat line at 100 stands at the top of 0 to 100, not at the foot of 100 to 150."""
    flat = [Series("a", "dpo", [(0, 100.0), (1, 100.0)])]
    axis = [text.text for text in ElementTree.fromstring(line_chart(flat, "x", whole=(0, 100))).iter("text")]
    assert axis[:3] == ["0", "50", "100"]
    assert "150" in line_chart(flat, "x")


def test_line_chart_leaves_out_what_is_not_finite() -> None:
    svg = ElementTree.fromstring(line_chart([Series("a", "dpo", [(1, 1.0), (2, math.nan), (3, 2.0), (4, math.inf)])], "a & <b>"))
    assert svg.get("aria-label") == "a & <b>"
    assert svg.get("role") == "img"
    assert len(svg.find("polyline").get("points").split()) == 2
    assert line_chart([Series("a", "dpo", [(1, math.nan)])], "nothing") == ""
    assert "circle" in line_chart([Series("a", "dpo", [(1, 5.0)])], "one point")


def test_histogram_heights_are_in_proportion() -> None:
    svg = ElementTree.fromstring(histogram([0.5, 0.75, 1], [10, 20], "h"))
    low, high = (float(rect.get("height")) for rect in svg.findall("rect"))
    assert high == pytest.approx(2 * low, rel=0.01)
    assert histogram([0, 1], [0], "h") == ""


def test_dot_plot_shows_value_and_interval_and_bears_none() -> None:
    had = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 9}
    none = {"value": None, "low": None, "high": None, "n": 0}
    svg = ElementTree.fromstring(dot_plot([("base", "base", had), ("<SFT>", "sft", none)], "d"))
    assert len(svg.findall("circle")) == 1
    whisker = next(line for line in svg.findall("line") if "whisker" in line.get("class"))
    circle = svg.find("circle")
    assert float(whisker.get("x1")) < float(circle.get("cx")) < float(whisker.get("x2"))


def test_bar_stays_within_its_track() -> None:
    assert 'width="100.0"' in bar(1.7)
    assert 'width="0.0"' in bar(-1)

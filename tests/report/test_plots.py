"""Drawings of a study hold its numbers, and its colours can be told apart."""

import itertools
import re

import numpy as np
import pytest

from attnconv.report.page import svg_file
from attnconv.report.plots import COLOURS, DARK, Curves, Line, Point, cost_figure, curves_figure, lines_figure, styles

ARMS = ["plain", "aa", "late"]
CURVES = [
    Curves("plain", [{1: 50.0, 2: 60.0}, {1: 52.0, 2: 64.0}], [None, None]),
    Curves("aa", [{1: 58.0, 2: 70.0}, {1: 30.0, 2: 30.0}], [None, 1]),
]
POINTS = [
    Point("plain", 100.0, 62.0, (60.0, 65.0), (60.0, 64.0)),
    Point("aa", 300.0, 50.0, None, (50.0,)),
]


def test_curves_are_means_with_bands_from_smallest_to_largest():
    (axes,) = curves_figure(CURVES, arms=ARMS, label="top-1 (%)").axes
    plain, aa = (line for line in axes.lines if line.get_linewidth() > 1.5)
    assert list(plain.get_ydata()) == [51.0, 62.0]
    assert list(aa.get_ydata()) == [44.0, 50.0]
    bands = [sorted({y for _, y in band.get_paths()[0].vertices}) for band in axes.collections]
    assert bands == [[50.0, 52.0, 60.0, 64.0], [30.0, 58.0, 70.0]]
    assert axes.get_ylabel() == "top-1 (%)"


def test_a_run_that_diverged_is_drawn_by_itself_with_a_cross_where_it_did():
    (axes,) = curves_figure(CURVES, arms=ARMS, label="").axes
    (thin,) = [line for line in axes.lines if line.get_linewidth() == 0.8]
    assert list(thin.get_ydata()) == [30.0, 30.0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([1], [30.0])
    assert cross.get_color() == styles(ARMS)["aa"]["color"]


def test_one_run_has_no_band():
    (axes,) = curves_figure([Curves("plain", [{1: 50.0}], [None])], arms=ARMS, label="").axes
    assert not axes.collections


def test_costs_hold_means_intervals_and_runs():
    (axes,) = cost_figure(POINTS, arms=ARMS, cost="training time (s)", label="top-1 (%)").axes
    dots = [line for line in axes.lines if line.get_marker() == "_" and line.get_linestyle() == "None"]
    assert [list(line.get_ydata()) for line in dots] == [[60.0, 64.0], [50.0]]
    (bars,) = [bar for bar in axes.containers if bar.has_yerr]
    (segment,) = bars[2][0].get_segments()
    assert segment.tolist() == [[100.0, 60.0], [100.0, 65.0]]
    assert axes.get_xlabel() == "training time (s)"
    assert axes.get_ylim()[0] < 50.0
    assert axes.get_ylim()[1] > 65.0


@pytest.mark.parametrize("arms", [["_hidden", "cost $x^2$ $", "a" * 120], [f"arm {i}" for i in range(24)]])
def test_every_arm_is_in_the_legend_as_it_is_written(arms):
    figure = curves_figure([Curves(arm, [{1: 1.0}], [None]) for arm in arms], arms=arms, label="")
    shown = [text.get_text().replace("\n", "") for text in figure.legends[0].get_texts()]
    assert shown == arms
    assert "<svg" in svg_file(figure)  # $ begins no formula


def test_no_arm_looks_like_another():
    found = styles([str(i) for i in range(24)]).values()
    assert len({(s["color"], s["linestyle"], s["marker"]) for s in found}) == 24
    assert styles(["a", "b"])["b"] == styles(["a", "b", "c"])["b"]


def test_a_drawing_asks_for_nothing():
    text = svg_file(curves_figure(CURVES, arms=ARMS, label=""))
    assert not re.findall(r'(?:src|href)="(?!#)|url\((?!#)|<script|@import', text)


# Machado, Oliveira and Fernandes 2009, severity 1: what people without red, green or blue cones see, in linear RGB.
SEEN = {
    "all colours": np.eye(3),
    "no red cones": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no green cones": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no blue cones": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1805], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def linear(colour: str) -> np.ndarray:
    part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    white = TO_XYZ @ np.ones(3)
    part = TO_XYZ @ np.clip(rgb, 0, 1) / white
    x, y, z = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours, seen) -> float:
    points = [lab(np.array(seen) @ linear(colour)) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))


@pytest.mark.parametrize("seen", SEEN)
def test_colours_differ_for_everybody(seen):
    assert nearest(COLOURS, SEEN[seen]) > 40


def test_red_and_green_would_not_do():
    assert nearest(("#d62728", "#7f7f00"), SEEN["no green cones"]) < 40 < nearest(("#d62728", "#7f7f00"), np.eye(3))


@pytest.mark.parametrize("seen", SEEN)
def test_colours_differ_on_a_dark_screen_too(seen):
    assert nearest(DARK, SEEN[seen]) > 35


@pytest.mark.parametrize(("colours", "back"), [(COLOURS, "#ffffff"), (DARK, "#16181c")])
def test_colours_stand_out_from_the_background(colours, back):
    behind = float(TO_XYZ[1] @ linear(back)) + 0.05
    for colour in colours:
        before = float(TO_XYZ[1] @ linear(colour)) + 0.05
        assert max(before, behind) / min(before, behind) >= 3


def test_a_line_has_its_value_its_interval_and_a_published_mark():
    lines = [Line("aa", "+2.0", 2.0, COLOURS[0], (1.0, 3.0), published=2.9), Line("b" * 60, "", -1.0, COLOURS[1])]
    (axes,) = lines_figure(lines, label="points", zero=True).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 0], [1.0, 3.0], [], [2.0], [2.9], [], [-1.0]]
    low, high = axes.get_xlim()
    assert low < -1.0 < 3.0 < high
    assert "\n" in axes.texts[2].get_text()  # a long name is folded


def test_a_drawing_has_a_dark_counterpart_for_each_colour():
    text = svg_file(curves_figure(CURVES, arms=ARMS, label=""))
    style = re.search(r"<style>@media \(prefers-color-scheme: dark\) \{(.*)\}</style>", text)[1]
    for light, dark in zip(COLOURS, DARK, strict=True):
        assert f'[style*="stroke: {light}"] {{ stroke: {dark} !important }}' in style

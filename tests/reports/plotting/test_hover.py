"""Values under the pointer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cad.reports.plotting import Hover, drawing_style, new_figure, render
from cad.reports.plotting.hover import MOST_POINTS

Series = list[dict[str, Any]]


def test_points_keep_their_values_and_lie_where_they_are_drawn() -> None:
    figure, hover = new_figure(4.0, 8.0), Hover()
    ax = figure.add_axes((0.25, 0.25, 0.5, 0.5))
    ax.set_xlim(0, 10)
    ax.set_ylim(1, 1000)
    ax.set_yscale("log")
    notes = ["(low)", "(middle)", "(high)", "(outside)"]
    x, y = [0, 5, 10, 20], [1, 31.6227766, 1000, 5]
    hover.points(ax, x, y, name="model <a>", x_name="step", y_name="loss,\nnats", notes=notes)
    hover.points(ax, [1, 2, 3], [float("nan"), 10, 0], x_name="step", y_name="", x_words=["a", "b", "c"])
    hover.points(ax, [11], [10], x_name="outside", y_name="")
    with drawing_style():
        series = list(render(figure, "x", hover)[0].points)
    assert [(entry["name"], entry["x"], entry["y"]) for entry in series] == [
        ("model <a>", "step", "loss, nats"), ("", "step", ""),
    ]  # fmt: skip
    # 8 x 4 inches are 576 x 288 points; the axes take the middle half of both
    assert series[0]["points"] == [
        [144.0, 216.0, "0", "1 (low)"],
        [288.0, 144.0, "5", "31.62 (middle)"],
        [432.0, 72.0, "10", "1,000 (high)"],
    ]
    assert [point[2:] for point in series[1]["points"]] == [["b", "10"]]


def test_points_follow_the_layout() -> None:
    with drawing_style():
        figure, hover = new_figure(2.0), Hover()
        ax = figure.subplots()
        ax.set_ylabel("a label\nof two lines")
        (line,) = ax.plot([0, 1], [2, 3])
        hover.points(ax, [0, 1], [2, 3], x_name="", y_name="")
        render(figure, "x", hover)
    (series,) = hover.series(figure)
    for point, pixels in zip(
        series["points"], line.get_transform().transform(line.get_xydata()), strict=True
    ):
        x, y = pixels * 72 / figure.dpi
        assert point[:2] == pytest.approx([x, 144 - y], abs=0.06)


def test_boxes_have_a_middle_and_a_size() -> None:
    figure, hover = new_figure(4.0, 8.0), Hover()
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 8)
    ax.set_ylim(4, 0)  # downwards, as in heat maps
    hover.boxes(ax, [(1, 1, 1, 2)], [("a tile\nreturn: 0.5", "")])
    assert hover.series(figure) == [
        {"name": "", "x": "", "y": "", "points": [[108.0, 144.0, "a tile\nreturn: 0.5", "", 72.0, 144.0]]}
    ]


def test_of_very_many_points_some_are_kept() -> None:
    figure, hover = new_figure(3.0), Hover()
    ax = figure.subplots()
    ax.set_xlim(-1, MOST_POINTS)
    for _ in range(3):
        hover.points(ax, np.arange(MOST_POINTS), np.zeros(MOST_POINTS), x_name="", y_name="")
    points = [entry["points"] for entry in hover.series(figure)]
    assert sum(map(len, points)) <= MOST_POINTS + 3
    assert [point[2] for point in points[0][:2]] == ["0", "3"]

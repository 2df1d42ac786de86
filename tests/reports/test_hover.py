"""Values under the pointer, and the sizes of printed figures."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from cad.reports import hover, paper
from cad.reports.style import drawing_style, new_figure, render


def told(figure: Figure) -> list[tuple[str, str, str, list[list[Any]]]]:
    with drawing_style():
        screen, _ = render(figure, "x")
    return [(entry["name"], entry["x"], entry["y"], entry["points"]) for entry in screen.points]


def test_lines_say_their_values_and_lie_where_they_are_drawn() -> None:
    figure = new_figure(4.0, 8.0)
    ax = figure.add_axes((0.25, 0.25, 0.5, 0.5))
    ax.set_xlim(0, 10)
    ax.set_ylim(1, 1000)
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("loss,\nnats")
    (line,) = ax.plot([0, 5, 10, 20], [1, 31.6227766, 1000, 5], label="model <a>")
    hover.tell(line, ["(low)", "(middle)", "(high)", "(outside)"])
    ax.plot([1, 2], [float("nan"), 10])
    ax.plot(5, 5, "x")  # an ornament
    ax.axhline(3)
    ((name, x, y, points), (_, _, _, second)) = told(figure)
    assert (name, x, y) == ("model <a>", "step", "loss, nats")
    # 8 x 4 inches are 576 x 288 points; the axes take the middle half of both
    assert points == [
        [144.0, 216.0, "0", "1 (low)"],
        [288.0, 144.0, "5", "31.62 (middle)"],
        [432.0, 72.0, "10", "1,000 (high)"],
    ]
    assert [point[2:] for point in second] == [["2", "10"]]


def test_other_marks() -> None:
    figure = new_figure(4.0)
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_ylabel("return")
    right.set_title("panel")
    right.scatter([1, 2], [3, 4], label="dots")
    right.errorbar([1, 2], [3, 4], yerr=0.5, capsize=3, label="means")
    right.bar([1, 2], [3, 0], label="bars")
    right.vlines([1, 2], 0, [5, 6], label="spikes")
    tile = right.add_patch(Rectangle((0, 0), 1, 1))
    hover.tell(tile, ["a tile", "0.5"])
    right.add_patch(Rectangle((1, 1), 1, 1))
    found = {name: [point[2:4] for point in points] for name, _, _, points in told(figure)}
    assert found == {
        "panel, means": [["1", "3"], ["2", "4"]],
        "panel, dots": [["1", "3"], ["2", "4"]],
        "panel, spikes": [["1", "5"], ["2", "6"]],
        "panel, bars": [["1", "3"]],
        "panel": [["a tile\n0.5", ""]],
    }
    entries = {name: (y, points) for name, _, y, points in told(figure)}
    assert entries["panel, dots"][0] == "return"  # of the axes that share the scale
    assert entries["panel"][0] == "" and len(entries["panel"][1][0]) == 6


def test_names_from_the_legend() -> None:
    figure = new_figure(3.0)
    ax = figure.subplots()
    for colour, marker in (("red", "o"), ("red", "s"), ("blue", "o"), ("green", "o")):
        ax.plot([0, 1], [0, 1], color=colour, marker=marker)
    ax.plot(0.5, 0.5, color="blue", marker="o", linestyle="none")
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="none")
        for colour, marker in (("red", "o"), ("red", "s"), ("blue", "o"))
    ]
    figure.legend(handles, ["first", "second", "third"])
    assert [name for name, *_ in told(figure)] == ["first", "second", "third", "", "third"]


def test_of_very_many_points_some_are_told() -> None:
    figure = new_figure(3.0)
    ax = figure.subplots()
    for _ in range(3):
        ax.plot(np.arange(hover.MOST_POINTS), np.zeros(hover.MOST_POINTS))
    points = [entry[3] for entry in told(figure)]
    assert sum(map(len, points)) <= hover.MOST_POINTS + 3
    assert [point[2] for point in points[0][:2]] == ["0", "3"]


def test_paper_size() -> None:
    figure = new_figure(4.5)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1])
    figure.text(0.99, 0.97, "corner", ha="right")
    with drawing_style(), matplotlib.rc_context({"pdf.compression": 0}):
        made = paper.prints(figure)
    png = Image.open(io.BytesIO(made.png))
    assert png.size == (2100, 1050)
    assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    box = re.search(rb"/MediaBox \[ ?([\d. ]+) ?\]", made.pdf)
    assert box is not None and [float(part) for part in box[1].split()] == [0, 0, 504, 252]
    assert b"/Type3" not in made.pdf and b"/FontFile2" in made.pdf
    # The drawing is scaled as a whole, nothing cut off: it reaches 9 x 4.5 inches in its own measure.
    assert re.search(rb"\n0\.7+8 0 0 0\.7+8 0 0 cm\n", made.pdf)
    ends = [(float(x), float(y)) for x, y in re.findall(rb"\n([\d.]+) ([\d.]+) l\b", made.pdf)]
    assert max(x for x, _ in ends) > 0.9 * 648 and max(y for _, y in ends) > 0.9 * 324

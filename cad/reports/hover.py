"""The values of a figure's marks, for the page to tell under the pointer or at the arrow keys.

Found in the finished figure: the points of lines, scatters and error bars, the ends of spikes, bars.
Names are the artists' labels, or what the legend says of marks that look like them, and the axes'
titles, so that a figure says nothing of this; tiles and other patches speak when they were given
words with :func:`tell`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

MOST_POINTS = 5000  # of one figure; of more, every other or third ... is told: the CSV files have all

_words: WeakKeyDictionary[Artist, Sequence[str]] = WeakKeyDictionary()


def tell(artist: Artist, words: Sequence[str]) -> None:
    """Give a patch its words, or the points of a line a word each that is added to their values."""
    _words[artist] = words


def hover_points(figure: Figure) -> list[dict[str, Any]]:
    """Series of points: ``name``, ``x`` and ``y`` (what is on the axes) and ``points``.

    A point is ``[x, y, x value, y value]``, a box has its width and height behind them: first the
    place (a box's middle) in points from the top left.  A tile with words has them as its x value,
    and axes without names.  The figure must have been drawn.
    """
    legend = _Legend(figure)
    series = [found for ax in figure.axes if ax.get_visible() for found in _of_axes(figure, ax, legend)]
    series = [found for found in series if found["points"]]
    every = math.ceil(sum(len(found["points"]) for found in series) / MOST_POINTS)
    return [found | {"points": found["points"][:: every or 1]} for found in series]


class _Legend:
    """Names of lines by how they look."""

    def __init__(self, figure: Figure) -> None:
        legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
        self._names = [
            (_looks(handle), text.get_text())
            for legend in legends
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
            if isinstance(handle, Line2D)
        ]

    def name(self, line: Line2D) -> str:
        """The one entry that looks like the line: in all, else by colour and mark, else by colour."""
        for parts in (3, 2, 1):
            found = {text for looks, text in self._names if looks[:parts] == _looks(line)[:parts]}
            if found:
                return found.pop() if len(found) == 1 else ""
        return ""


def _looks(line: Line2D) -> tuple[str, str, str]:
    return to_hex(line.get_color()), str(line.get_marker()), str(line.get_linestyle())


def _of_axes(figure: Figure, ax: Axes, legend: _Legend) -> Iterator[dict[str, Any]]:
    title = ax.get_title(loc="left") or ax.get_title()
    x_name = ax.get_xlabel() or _shared(ax.get_shared_x_axes(), ax, "get_xlabel") or figure.get_supxlabel()
    y_name = ax.get_ylabel() or _shared(ax.get_shared_y_axes(), ax, "get_ylabel") or figure.get_supylabel()
    if not y_name:
        y_name, title = title, ""

    def named(label: str, points: list[list[Any]], axes: bool = True) -> dict[str, Any]:
        parts = [_line(part) for part in (title, label) if part]
        x, y = (_line(x_name), _line(y_name)) if axes else ("", "")
        return {"name": ", ".join(parts), "x": x, "y": y, "points": points}

    names, ornaments = _container_names(ax)
    for line in ax.lines:
        label = names.get(line) or _label(line) or legend.name(line)
        own = line.get_transform().contains_branch_seperately(ax.transData) == (True, True)
        data = np.asarray(line.get_xydata(), dtype=float)
        # An unnamed mark, such as the cross at a start, is no value.
        if own and line not in ornaments and line.get_visible() and (label or len(data) > 1):
            yield named(label, _points(figure, ax, data, _words.get(line)))
    for collection in ax.collections:
        if isinstance(collection, PathCollection):
            data = np.asarray(collection.get_offsets(), dtype=float)
            yield named(_label(collection), _points(figure, ax, data, _words.get(collection)))
        elif isinstance(collection, LineCollection) and _label(collection):
            ends = np.array([path[-1] for path in collection.get_segments() if len(path)], dtype=float)
            yield named(_label(collection), _points(figure, ax, ends, _words.get(collection)))
    for container in ax.containers:
        if isinstance(container, BarContainer):
            bars = [bar for bar in container.patches if bar.get_height()]
            boxes = [
                _box(figure, bar, _value(bar.get_x() + bar.get_width() / 2), _value(bar.get_height()))
                for bar in bars
            ]
            yield named(_label(container), boxes)
    told = [patch for patch in ax.patches if patch in _words]
    yield named("", [_box(figure, patch, "\n".join(_words[patch]), "") for patch in told], axes=False)


def _container_names(ax: Axes) -> tuple[dict[Artist, str], set[Artist]]:
    """Names of lines that belong to error bars, and the caps, which are no points."""
    names: dict[Artist, str] = {}
    caps: set[Artist] = set()
    for container in ax.containers:
        if isinstance(container, ErrorbarContainer):
            line, ends, _ = container.lines
            caps.update(ends)
            if line is not None:
                names[line] = _label(container)
    return names, caps


def _shared(grouper: Any, ax: Axes, what: str) -> str:
    """The label of axes that share this one's scale."""
    return next(filter(None, (getattr(other, what)() for other in grouper.get_siblings(ax))), "")


def _label(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def _line(text: str) -> str:
    return " ".join(text.split())


def _points(
    figure: Figure, ax: Axes, data: np.ndarray[Any, Any], words: Sequence[str] | None
) -> list[list[Any]]:
    """Points within the axes' limits."""
    if not len(data):
        return []
    inside = np.isfinite(data).all(axis=1)
    for column, limits in enumerate((ax.get_xlim(), ax.get_ylim())):
        inside &= (data[:, column] >= min(limits)) & (data[:, column] <= max(limits))
    places = _places(figure, ax.transData.transform(np.where(inside[:, None], data, 1.0)))
    return [
        [x, y, _value(data[i, 0]), _value(data[i, 1]) + (f" {words[i]}" if words else "")]
        for i, (x, y) in enumerate(places)
        if inside[i]
    ]


def _box(figure: Figure, patch: Patch, x_words: str, y_words: str) -> list[Any]:
    corners = _places(figure, patch.get_window_extent().get_points())
    (left, bottom), (right, top) = corners
    return [
        round((left + right) / 2, 1), round((bottom + top) / 2, 1), x_words, y_words,
        round(abs(right - left), 1), round(abs(bottom - top), 1),
    ]  # fmt: skip


def _places(figure: Figure, pixels: np.ndarray[Any, Any]) -> list[list[float]]:
    """From the canvas's pixels to points from the top left, as the SVG counts."""
    height = figure.get_figheight() * 72
    scaled = np.asarray(pixels, dtype=float) * 72 / figure.dpi
    return [[round(float(x), 1), round(float(height - y), 1)] for x, y in scaled]


def _value(value: float) -> str:
    """Four digits, or all of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

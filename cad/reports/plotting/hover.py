"""Values of a figure's marks, which the page shows under the pointer and at the arrow keys.

A figure adds the rows that it draws.  Only the places on the page come from matplotlib, after layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MOST_POINTS = 5000  # of one figure; of more, every second or third is kept: the CSV files have all


@dataclass(frozen=True)
class _Series:
    ax: Axes
    name: str
    x_name: str
    y_name: str
    places: npt.NDArray[np.float64]  # (n, 2), middles in data coordinates
    sizes: npt.NDArray[np.float64]  # (n, 2), width and height of boxes; 0 for points
    words: list[tuple[str, str]]  # values on the x and on the y axis


class Hover:
    """Collects the values of one figure."""

    def __init__(self) -> None:
        self._series: list[_Series] = []

    def points(
        self,
        ax: Axes,
        x: Iterable[float],
        y: Iterable[float],
        *,
        name: str = "",
        x_name: str,
        y_name: str,
        x_words: Sequence[str] | None = None,
        y_words: Sequence[str] | None = None,
        notes: Sequence[str] | None = None,
    ) -> None:
        """Add points; ``x_words`` and ``y_words`` replace the values, ``notes`` follow those of y."""
        places = np.array([*zip(x, y, strict=True)], dtype=np.float64).reshape(-1, 2)
        words = [
            (
                x_words[i] if x_words else value_text(place[0]),
                (y_words[i] if y_words else value_text(place[1])) + (f" {notes[i]}" if notes else ""),
            )
            for i, place in enumerate(places.tolist())
        ]
        names = (_line(name), _line(x_name), _line(y_name))
        self._series.append(_Series(ax, *names, places, np.zeros_like(places), words))

    def boxes(
        self,
        ax: Axes,
        boxes: Iterable[tuple[float, float, float, float]],
        words: Iterable[tuple[str, str]],
        *,
        name: str = "",
        x_name: str = "",
        y_name: str = "",
    ) -> None:
        """Add boxes (left, bottom, width, height in data coordinates) and their x and y values as text."""
        corners = np.array([*boxes], dtype=np.float64).reshape(-1, 4)
        names = (_line(name), _line(x_name), _line(y_name))
        places = corners[:, :2] + corners[:, 2:] / 2
        self._series.append(_Series(ax, *names, places, corners[:, 2:], [*words]))

    def series(self, figure: Figure) -> list[dict[str, Any]]:
        """All series: ``name``, ``x`` and ``y`` (names of the axes) and ``points``.

        A point is ``[x, y, x value, y value]``, the place in points (1/72 inch) from the top left; a box
        has its width and height after these.  ``figure`` must have been laid out.
        """
        series = [
            {"name": entry.name, "x": entry.x_name, "y": entry.y_name, "points": points}
            for entry in self._series
            if (points := _points(figure, entry))
        ]
        every = math.ceil(sum(len(entry["points"]) for entry in series) / MOST_POINTS)
        return [entry | {"points": entry["points"][:: every or 1]} for entry in series]


def _points(figure: Figure, series: _Series) -> list[list[Any]]:
    """Those within the limits of their axes."""
    ax, places = series.ax, series.places
    inside = np.logical_and.reduce(np.isfinite(places), axis=1)
    for column, limits in enumerate((ax.get_xlim(), ax.get_ylim())):
        inside &= (places[:, column] >= min(limits)) & (places[:, column] <= max(limits))
    half = series.sizes / 2
    # A logarithmic axis has no place for 0: what is outside is moved to a harmless value.
    middle = np.where(inside[:, None], places, 1.0)
    centres = _on_page(figure, ax, middle)
    extents = (
        np.abs(_on_page(figure, ax, middle + half) - _on_page(figure, ax, middle - half))
        if half.any()
        else None
    )
    return [
        [*_rounded(centres[i]), *series.words[i], *([] if extents is None else _rounded(extents[i]))]
        for i in np.flatnonzero(inside)
    ]


def _on_page(figure: Figure, ax: Axes, places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From data coordinates to points from the top left, as the SVG counts."""
    pixels = np.asarray(ax.transData.transform(places), dtype=np.float64) * 72 / figure.dpi
    on_page: npt.NDArray[np.float64] = np.array([0, figure.get_figheight() * 72]) + pixels * [1, -1]
    return on_page


def _rounded(pair: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(value), 1) for value in pair]


def _line(text: str) -> str:
    return " ".join(text.split())


def value_text(value: float) -> str:
    """Four digits, or all digits of a large whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

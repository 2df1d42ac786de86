"""Tiles of heat maps: one square a value, with its number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from cad.reports.plotting.hover import Hover
from cad.reports.plotting.style import INK, MUTED, SURFACE

HEAT_COLOURS = colormaps["cividis"]
_LEAST = 0.4  # of the whole: values that are closer get colours that are closer


def close_scale(values: Sequence[float], *, shares: bool) -> Normalize:
    """Colours from about the lowest to about the highest of ``values``, which alike values do not stretch.

    Its range is 0.4 at least: of ``shares`` of the optimum, else of the value that is largest in size.
    """
    low, high = min(values), max(values)
    whole = 1.0 if shares else max(abs(low), abs(high)) or 1.0
    step = 10.0 ** math.floor(math.log10(whole)) / 10  # its ends are round numbers
    low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    missing = max(0.0, _LEAST * whole - (high - low))
    below = step * math.ceil(missing / 2 / step - 1e-9)
    if min(values) >= 0:
        below = min(below, low)
    low -= below
    high = max(high, low + _LEAST * whole)
    if shares and max(values) <= 1 < high:  # no colours for what nobody can reach
        low, high = max(0.0, low - (high - 1)), 1.0
    return Normalize(low, high)


def whole_scale(values: Sequence[float], *, shares: bool) -> Normalize:
    """Colours from 0 to 1 for ``shares`` of the optimum, further where one of ``values`` lies outside."""
    if not shares:
        return close_scale(values, shares=False)
    return Normalize(min(0.0, *values), max(1.0, *values))


def bare_axes(ax: Axes, columns: int, rows: int) -> None:
    """Axes of ``columns`` x ``rows`` unit squares, row 0 on top, without grid, ticks and frame."""
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    ax.grid(False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def tile(
    ax: Axes, hover: Hover, at: tuple[float, float], value: float | None, text: str, norm: Normalize, *,
    size: float, name: str = "", measure: str = "",
) -> None:  # fmt: skip
    """One square at (column, row) with its number; hatched where there is no result.

    ``name`` and ``measure``, what the value is called, are shown at the pointer.
    """
    column, row = at
    if value is None:
        ax.add_patch(
            Rectangle((column, row), 1, 1, facecolor="none", edgecolor=MUTED, hatch="///", linewidth=0.45)
        )
        ax.text(
            column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=INK,
            bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip
        return
    colour = HEAT_COLOURS(norm(value))
    ax.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor=SURFACE, linewidth=0.9))
    hover.boxes(ax, [(column, row, 1, 1)], [(f"{name}\n{measure}: {value:.4f}", "")])
    luminance = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    ax.text(
        column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size,
        color="#101010" if luminance > 0.45 else "#f8f8f8",
    )  # fmt: skip

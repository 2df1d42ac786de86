"""How figures look: type, colours and sizes, readable on light and dark and for the colour-blind.

Data colours are those of Okabe and Ito, and two of Tol's, that stand out on white (contrast of 3 or more).
"""

from __future__ import annotations

import contextlib
import functools
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
import matplotlib.font_manager
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#1f2328"
MUTED = "#69727d"
GRID = "#dfe3e7"
SURFACE = "#fefefe"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#332288")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
DOTTED = (0, (1, 2))  # for the optimum and other levels
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 7.0  # inches: the text width of an A4 or letter page
# Sizes of type, in points.
TEXT, SMALL, FINE = 7.4, 6.6, 6.2

_FONT = "DejaVu Sans"  # comes with matplotlib: the same everywhere
# For characters that it lacks, where they are installed: those of Chinese, Japanese and Korean.
_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAexGothic", "Droid Sans Fallback", "Arial Unicode MS",
    "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic",
)  # fmt: skip

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelpad": 3.1,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.7,
    "axes.titlesize": 8.2,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.033,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,  # inches: type is not equally wide in all of a figure's formats
    "font.size": TEXT,
    "grid.color": GRID,
    "grid.linewidth": 0.55,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.45,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markeredgewidth": 0.8,
    "lines.markersize": 4.7,
    "patch.linewidth": 0.8,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default, and editors can edit it
    "svg.fonttype": "path",
    "svg.hashsalt": "cad",  # otherwise element ids are random
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    **{
        f"{axis}tick.{key}": value
        for axis in "xy"
        for key, value in {
            "color": MUTED, "labelcolor": INK, "major.pad": 2.7, "major.size": 2.7, "major.width": 0.6,
            "minor.pad": 2.6, "minor.size": 1.6, "minor.width": 0.45,
        }.items()
    },
}  # fmt: skip


@functools.cache
def _fonts() -> tuple[str, ...]:
    installed = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
    return (_FONT, *(name for name in _FALLBACKS if name in installed))


@functools.cache
def _characters() -> frozenset[int]:
    """What the fonts of figures can draw."""
    paths = [matplotlib.font_manager.findfont(name) for name in _fonts()]
    return frozenset().union(*(matplotlib.font_manager.get_font(path).get_charmap() for path in paths))


def not_drawn(text: str) -> str:
    """The characters of ``text`` that figures show as boxes, each once, for want of a font."""
    odd = {character for character in text if not character.isascii()}
    return "".join(sorted(c for c in odd if ord(c) not in _characters())) if odd else ""


@contextlib.contextmanager
def drawing_style() -> Iterator[None]:
    """Context in which figures must be made and rendered, whatever a user's matplotlibrc says."""
    style = matplotlib.style.context(["default", {**_RC, "font.family": list(_fonts())}])
    with warnings.catch_warnings(), style:
        # The report says it once; see `not_drawn`.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def whole_ticks(ax: Axes) -> None:
    """Ticks of the x axis at whole numbers alone: there is no episode 2.5."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def wrap(text: str, width: int) -> str:
    """Text in at most three lines, broken after commas where possible, without control characters."""
    lines: list[str] = []
    for part in " ".join(text.split()).replace(", ", ",\0").split("\0"):
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += " " + part
        else:
            lines += textwrap.wrap(part, width) or [""]
    shown = "\n".join([*lines[:2], textwrap.shorten(" ".join(lines[2:]), width, placeholder=" …")]).strip()
    # matplotlib leaves labels that begin with "_" out of legends; a hair space is not seen.
    return f"\u200a{shown}" if shown.startswith("_") else shown


def spread(positions: list[float], gap: float) -> list[float]:
    """Move label positions apart until neighbours are at least ``gap`` from each other."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    blocks: list[tuple[float, list[int]]] = []  # centre, members
    for i in order:
        blocks.append((positions[i], [i]))
        while len(blocks) > 1:
            (low, first), (high, second) = blocks[-2:]
            if high - low >= gap * (len(first) + len(second)) / 2:
                break
            centre = (low * len(first) + high * len(second)) / (len(first) + len(second))
            blocks[-2:] = [(centre, first + second)]
    placed = list(positions)
    for centre, members in blocks:
        for rank, i in enumerate(members):
            placed[i] = centre + gap * (rank - (len(members) - 1) / 2)
    return placed

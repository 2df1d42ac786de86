"""How figures look, and how a drawing becomes bytes: deterministic, readable on light and dark.

Inks and line colours of the SVG are replaced by the page's own, so that one drawing serves both colour
schemes; the PNG keeps them on white.  Data colours are those of Okabe and Ito, and two of Tol's, that
stand out on white (contrast of 3 or more): colour-blind readers can tell them apart, too.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cad.reports.aggregate import Study
from cad.reports.hover import hover_points
from cad.reports.paper import DRAWN_WIDTH, Prints, prints

INK = "#1f2328"
MUTED = "#69727d"
GRID = "#dfe3e7"
SURFACE = "#fefefe"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#882255", "#332288")
_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--line-{i})" for i, colour in enumerate(PALETTE)},  # lighter on dark
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = DRAWN_WIDTH  # inches; the page shows figures at about this width

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,  # inches: type is not equally wide in all of a figure's formats
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default, and editors can edit it
    "svg.fonttype": "path",
    "svg.hashsalt": "cad",  # else element ids are random
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Screen:
    """A figure for the page."""

    svg: str
    points: Sequence[dict[str, Any]]  # the values under the pointer, see :mod:`cad.reports.hover`


@dataclass(frozen=True)
class Drawing:
    """A finished figure; wherever it stands in a section, all of the report's formats show it."""

    name: str  # file stem and anchor
    title: str
    caption: str  # what is drawn and how to read it
    alt: str  # what it shows, for who cannot see it
    tables: tuple[str, ...]  # names of the CSV files with its data
    screen: Screen
    prints: Prints


def drawing_style() -> Any:
    """Context in which figures must be made and rendered; a user's matplotlibrc has no say."""
    return matplotlib.style.context(["default", _RC])


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, name: str) -> tuple[Screen, Prints]:
    """The two forms of a figure, for the page and for paper: equal figures give equal bytes."""
    svg = io.StringIO()
    figure.savefig(svg, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    # Paper gets the layout that was just drawn, which would cost as much as the drawing to find again.
    figure.set_layout_engine("none")
    points = hover_points(figure)
    return Screen(_for_page(svg.getvalue(), name, figure.get_figwidth()), points), prints(figure)


def _for_page(svg: str, name: str, inches: float) -> str:
    """SVG to stand in an HTML page: no prologue, own ids, the page's colours, shrinking with it."""
    attributes = f'style="max-width: {100 * inches:.0f}px" aria-hidden="true" focusable="false"'
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)  # repeats every text in the clear
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', rf"\1 {attributes}", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for ink, colour in _PAGE_COLOURS.items():
        svg = svg.replace(ink, colour)
    return svg.strip()


@dataclass(frozen=True)
class LineStyle:
    """How one group looks in every figure."""

    colour: str
    dash: Any
    marker: str
    legend: str


def is_crowded(study: Study) -> bool:
    """Whether there are more compressed groups than colours that can be told apart."""
    return sum(not group.is_ad for group in study.groups) > len(PALETTE)


def line_styles(study: Study) -> dict[str, LineStyle]:
    """A style for each group's label: AD in ink, dashed; the others by colour.

    Up to six compressed groups have a colour of their own; more share one by compression depth,
    with a marker by latents.
    """
    references = [group for group in study.groups if group.is_ad]
    others = [group for group in study.groups if not group.is_ad]
    styles = {
        group.label: LineStyle(INK, DASHES[1 + i % 3], MARKERS[-1 - i % len(MARKERS)], group.label)
        for i, group in enumerate(references)
    }
    crowded = is_crowded(study)
    kinds = sorted({(group.arm, group.depth or 0) for group in others})
    latents = sorted({group.n_latent or 0 for group in others})
    for i, group in enumerate(others):
        kind = kinds.index((group.arm, group.depth or 0)) if crowded else i
        marker = latents.index(group.n_latent or 0) if crowded else i
        styles[group.label] = LineStyle(
            PALETTE[kind % len(PALETTE)],
            "-",
            MARKERS[marker % len(MARKERS)],
            f"{group.arm}, depth {group.depth}" if crowded else group.label,
        )
    return styles


def wrap(text: str, width: int) -> str:
    """Text broken into lines, after commas where that does; control characters gone, three lines at most."""
    lines: list[str] = []
    for part in " ".join(text.split()).replace(", ", ",\0").split("\0"):
        if lines and len(lines[-1]) + 1 + len(part) <= width:
            lines[-1] += " " + part
        else:
            lines += textwrap.wrap(part, width) or [""]
    return "\n".join([*lines[:2], textwrap.shorten(" ".join(lines[2:]), width, placeholder=" …")]).strip()


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

"""A finished figure in its forms: SVG for the page, PNG and PDF for papers.

Inks and line colours of the SVG are replaced by the page's own, so that one drawing serves both colour
schemes; the PNG keeps them on white.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cad.reports.plotting.hover import Hover
from cad.reports.plotting.print_export import Prints, prints, prints_wanted
from cad.reports.plotting.style import GRID, INK, MUTED, PALETTE, SURFACE, WIDTH

_PAGE_COLOURS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    SURFACE: "var(--surface)",
    **{colour: f"var(--line-{i})" for i, colour in enumerate(PALETTE)},  # lighter on dark
}
_PIXELS_PER_INCH = 900 / WIDTH  # a figure of full width has 900 pixels on the page


@dataclass(frozen=True)
class Screen:
    """A figure for the page."""

    svg: str
    points: Sequence[dict[str, Any]]  # the values under the pointer, see :class:`Hover`


@dataclass(frozen=True)
class Drawing:
    """A finished figure, for all of the report's formats."""

    name: str  # file stem and anchor
    title: str
    caption: str  # what is drawn and how to read it
    alt: str  # what it shows, for those who cannot see it
    tables: tuple[str, ...]  # names of the CSV files with its data
    screen: Screen
    prints: Prints | None  # None where only the page is wanted


_kept: ContextVar[dict[str, Figure] | None] = ContextVar("kept_figures", default=None)


@contextlib.contextmanager
def keeping_figures() -> Iterator[dict[str, Figure]]:
    """Within the block, figures are not rendered but kept, by name, for who wants to change them."""
    figures: dict[str, Figure] = {}
    token = _kept.set(figures)
    try:
        yield figures
    finally:
        _kept.reset(token)


def render(figure: Figure, name: str, hover: Hover) -> tuple[Screen, Prints | None]:
    """The two forms of a figure, for the page and, if wanted, for paper: equal figures give equal bytes."""
    if (kept := _kept.get()) is not None:
        kept[name] = figure
        return Screen("", ()), None
    svg = io.StringIO()
    # Canvases themselves: `savefig` draws everything once more beforehand, for the same bytes.
    figure.set_facecolor("none")
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    # Paper gets the layout that was just drawn: to find it again would cost as much as the drawing.
    figure.set_layout_engine("none")
    screen = Screen(_for_page(svg.getvalue(), name, figure.get_figwidth()), hover.series(figure))
    return screen, prints(figure) if prints_wanted() else None


def _for_page(svg: str, name: str, inches: float) -> str:
    """SVG that can be part of an HTML page: no prologue, own ids, the page's colours, its width as drawn."""
    attributes = f'style="--drawn: {_PIXELS_PER_INCH * inches:.0f}px" aria-hidden="true" focusable="false"'
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)  # comments repeat every text unescaped
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

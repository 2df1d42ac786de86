"""Figures for papers: PNG and PDF of the size at which they are printed."""

from __future__ import annotations

import functools
import io
import logging
import string
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib.backends import _backend_pdf_ps as font_tools
from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font

DRAWN_WIDTH = 9.0  # inches; figures are drawn at this width, in type of about 9 points
PAPER_WIDTH = 7.0  # inches: the text width of an A4 or letter page, where type is then about 7 points
DOTS_AN_INCH = 300
_SCALE = PAPER_WIDTH / DRAWN_WIDTH
# They come without types.
_pdf_file: Any = PdfFile
_pdf_renderer: Any = RendererPdf
_font_tools: Any = font_tools
_cut_font = _font_tools.get_glyphs_subset
# ASCII and what the reports set beside it.
_USUAL = string.printable.strip() + "\u2013\u2014\u2026\u00b7\u00d7\u2212\u2192\u2264\u2265\u00b1\u00b0"


@dataclass(frozen=True)
class Prints:
    """A figure as files: equal figures give equal bytes."""

    png: bytes
    pdf: bytes


def prints(figure: Figure) -> Prints:
    """PNG (300 dots an inch, on white) and PDF (fonts embedded), both scaled to a page's text width."""
    png = io.BytesIO()
    figure.savefig(
        png,
        format="png",
        dpi=DOTS_AN_INCH * _SCALE,
        facecolor="white",
        metadata={"Software": None},
        pil_kwargs={"dpi": (DOTS_AN_INCH, DOTS_AN_INCH)},  # what the file says of itself
    )
    return Prints(png.getvalue(), _pdf(figure))


def _pdf(figure: Figure) -> bytes:
    """As matplotlib writes it, but with everything, type too, scaled: its own PDFs are as large as drawn."""
    width, height = figure.get_size_inches()
    dpi = figure.dpi
    out = io.BytesIO()
    file = _pdf_file(out, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    # Embedding a font, it tells of every glyph.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    try:
        figure.dpi = 72  # a point of PDF
        file.newPage(width * _SCALE, height * _SCALE)
        # What lies beyond the page is not written: the page as the drawing sees it is the larger one.
        file.width, file.height = width, height
        file.output(_SCALE, 0, 0, _SCALE, 0, 0, Op.concat_matrix)
        renderer = _pdf_renderer(file, 72, height, width)
        figure.draw(renderer)
        renderer.finalize()
        # matplotlib cuts its fonts down anew for every figure, which takes longer than drawing it.
        _font_tools.get_glyphs_subset = _embedded
        file.finalize()
    finally:
        _font_tools.get_glyphs_subset = _cut_font
        figure.dpi = dpi
        file.close()
    return out.getvalue()


@dataclass(frozen=True)
class _EmbeddedFont:
    """What matplotlib asks of a font that was cut down: that it saves itself, and where glyphs are in it."""

    data: bytes
    glyph_index_map: dict[int, int]

    @property
    def font(self) -> _EmbeddedFont:
        return self

    def save(self, file: io.BytesIO, **_options: object) -> None:
        file.write(self.data)


@contextmanager
def _embedded(file: Any, glyphs: Collection[int]) -> Iterator[_EmbeddedFont]:
    """A font with the usual characters and whatever else a figure needs, so that most figures share one."""
    usual = frozenset(map(get_font(file).get_char_index, map(ord, _USUAL)))
    yield _embedded_font(file, usual.union(glyphs))


@functools.lru_cache(maxsize=16)
def _embedded_font(file: Any, glyphs: frozenset[int]) -> _EmbeddedFont:
    with _cut_font(file, glyphs) as cut:
        return _EmbeddedFont(_font_tools.font_as_file(cut.font).getvalue(), cut.glyph_index_map)

"""Figures for papers: PNG and PDF of the size at which they are printed."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_pdf import Op, PdfFile, RendererPdf
from matplotlib.figure import Figure

DRAWN_WIDTH = 9.0  # inches; figures are drawn at this width, in type of about 9 points
PAPER_WIDTH = 7.0  # inches: the text width of an A4 or letter page, where type is then about 7 points
DOTS_AN_INCH = 300
_SCALE = PAPER_WIDTH / DRAWN_WIDTH
# They come without types.
_pdf_file: Any = PdfFile
_pdf_renderer: Any = RendererPdf


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
        file.finalize()
    finally:
        figure.dpi = dpi
        file.close()
    return out.getvalue()

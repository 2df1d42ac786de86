"""Figures for papers: PNG and PDF of the size at which they are printed."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

DOTS_PER_INCH = 300


@dataclass(frozen=True)
class Prints:
    """A figure as files: equal figures give equal bytes."""

    png: bytes
    pdf: bytes


def prints(figure: Figure) -> Prints:
    """PNG (300 dots an inch, on white) and PDF (fonts embedded)."""
    # It logs every glyph of a font that it embeds.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.set_facecolor("white")
    figure.set_dpi(DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    FigureCanvasPdf(figure).print_pdf(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return Prints(png.getvalue(), pdf.getvalue())

"""Figures for papers: PNG and PDF of the size at which they are printed."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from contextvars import ContextVar
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


_wanted: ContextVar[bool] = ContextVar("prints_wanted", default=True)


@contextlib.contextmanager
def drawing_prints(wanted: bool) -> Iterator[None]:
    """Within the block, figures are drawn for paper too, or, in half of the time, for the page alone."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def prints_wanted() -> bool:
    """Whether figures are drawn for paper: everywhere but within :func:`drawing_prints` of False."""
    return _wanted.get()


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

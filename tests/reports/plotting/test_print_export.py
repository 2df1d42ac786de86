"""Printed figures have the size of a page's text and embedded fonts."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from cad.reports.plotting import drawing_style, new_figure
from cad.reports.plotting.print_export import prints


def test_size_and_fonts() -> None:
    with drawing_style():
        figure = new_figure(3.5)
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1])
        ax.set_xlabel("a label")
        made = prints(figure)
        again = prints(figure)
    assert made == again
    png = Image.open(io.BytesIO(made.png))
    assert png.size == (2100, 1050)
    assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    box = re.search(rb"/MediaBox \[ ?([\d. ]+) ?\]", made.pdf)
    assert box is not None and [float(part) for part in box[1].split()] == [0, 0, 504, 252]
    # Journals refuse Type 3 fonts.
    assert b"/Type3" not in made.pdf and b"/FontFile2" in made.pdf

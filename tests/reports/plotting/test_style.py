"""Labels and line breaks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from cad.reports import (
    CellResult,
)
from cad.reports.plotting import drawing_style, not_drawn, spread, style, wrap

Make = Callable[..., CellResult]


def test_labels_are_moved_apart_and_wrapped() -> None:
    placed = spread([0.5, 0.51, 0.9, 0.5], 0.1)
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.1 - 1e-9
    assert placed[2] == pytest.approx(0.9)
    assert wrap("CompressedAD, depth 3, 16 latents", 28) == "CompressedAD, depth 3,\n16 latents"
    assert len(wrap("x" * 500, 20).splitlines()) <= 3


def test_names_that_begin_with_an_underscore_are_in_legends() -> None:
    with drawing_style():
        figure = style.new_figure(2)
        axes = figure.subplots()
        axes.plot([0, 1], label=wrap("_baseline", 30))
        axes.plot([1, 0], label=wrap("__", 30))
        texts = [text.get_text().strip() for text in figure.legend().get_texts()]
    assert texts == ["_baseline", "__"]


def test_characters_without_a_font_are_told_once_not_warned_of(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(style, "_fonts", lambda: ("DejaVu Sans",))
    style._characters.cache_clear()
    assert not_drawn("AD, 深さ 3 é, 深") == "さ深"
    assert not_drawn("Größe é → ≤ …") == ""
    with drawing_style():
        figure = style.new_figure(2)
        figure.text(0, 0, "深さ")
        figure.canvas.draw()
    style._characters.cache_clear()
    assert [str(warning.message) for warning in recwarn] == []

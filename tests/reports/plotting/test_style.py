"""Labels and line breaks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from cad.reports import (
    CellResult,
)
from cad.reports.plotting import spread, wrap

Make = Callable[..., CellResult]


def test_labels_are_moved_apart_and_wrapped() -> None:
    placed = spread([0.5, 0.51, 0.9, 0.5], 0.1)
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.1 - 1e-9
    assert placed[2] == pytest.approx(0.9)
    assert wrap("CompressedAD, depth 3, 16 latents", 28) == "CompressedAD, depth 3,\n16 latents"
    assert len(wrap("x" * 500, 20).splitlines()) <= 3

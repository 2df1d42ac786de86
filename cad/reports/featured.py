"""Styles for figures that show few of many models: each gets a colour of its own."""

from __future__ import annotations

from collections.abc import Sequence

from cad.reports.aggregate import Group, Study
from cad.reports.style import DASHES, MARKERS, PALETTE, LineStyle, is_crowded, line_styles

LEGEND_WIDTH = 30  # characters: three such columns fit below a figure


def featured_styles(study: Study, groups: Sequence[Group]) -> dict[str, LineStyle]:
    """Those of :func:`line_styles`, but where models share colours there, own ones among ``groups``."""
    styles = line_styles(study)
    if not is_crowded(study):
        return styles
    others = [group for group in groups if not group.is_ad]
    own = {
        group.label: LineStyle(
            PALETTE[i % len(PALETTE)],
            DASHES[i // len(PALETTE) % len(DASHES)],
            MARKERS[i % len(MARKERS)],
            group.label,
        )
        for i, group in enumerate(others)
    }
    return styles | own

"""How the report draws: style, hover values, print export, heat maps, roll-outs."""

from __future__ import annotations

from cad.reports.plotting.drawing import Drawing, keeping_figures, render
from cad.reports.plotting.grid_map import draw_grid_map
from cad.reports.plotting.heat_map import bare_axes, tile, whole_scale
from cad.reports.plotting.hover import Hover
from cad.reports.plotting.line_styles import (
    LEGEND_WIDTH,
    LineStyle,
    featured_styles,
    is_crowded,
    line_styles,
)
from cad.reports.plotting.print_export import drawing_prints
from cad.reports.plotting.rollout_drawing import animation_gif, draw_strips, strip_png
from cad.reports.plotting.style import (
    DASHES,
    DOTTED,
    FINE,
    GRID,
    INK,
    MARKERS,
    MUTED,
    PALETTE,
    SMALL,
    SURFACE,
    TEXT,
    drawing_style,
    new_figure,
    not_drawn,
    spread,
    whole_ticks,
    wrap,
)

__all__ = [
    "DASHES",
    "DOTTED",
    "FINE",
    "GRID",
    "INK",
    "LEGEND_WIDTH",
    "MARKERS",
    "MUTED",
    "PALETTE",
    "SMALL",
    "SURFACE",
    "TEXT",
    "Drawing",
    "Hover",
    "LineStyle",
    "animation_gif",
    "bare_axes",
    "draw_grid_map",
    "draw_strips",
    "drawing_prints",
    "drawing_style",
    "featured_styles",
    "is_crowded",
    "keeping_figures",
    "line_styles",
    "new_figure",
    "not_drawn",
    "render",
    "spread",
    "strip_png",
    "tile",
    "whole_scale",
    "whole_ticks",
    "wrap",
]

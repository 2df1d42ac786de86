"""How a model looks in every figure: its colour, dash and marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cad.reports.data import ModelResult, Study
from cad.reports.plotting.style import DASHES, INK, MARKERS, PALETTE

LEGEND_WIDTH = 30  # characters: three such columns fit below a figure


@dataclass(frozen=True)
class LineStyle:
    """How one model looks."""

    colour: str
    dash: Any
    marker: str
    legend: str


def is_crowded(study: Study) -> bool:
    """Whether there are more compressed models than colours that can be told apart."""
    return sum(not model.facts.is_ad for model in study.intact) > len(PALETTE)


def line_styles(study: Study) -> dict[str, LineStyle]:
    """A style for each model's label: AD in ink, dashed; the others by colour.

    Up to six compressed models have a colour of their own; more share one by compression depth,
    with a marker by latents.
    """
    references = [model for model in study.intact if model.facts.is_ad]
    others = [model for model in study.intact if not model.facts.is_ad]
    styles = {
        model.label: LineStyle(INK, DASHES[1 + i % 3], MARKERS[-1 - i % len(MARKERS)], model.label)
        for i, model in enumerate(references)
    }
    crowded = is_crowded(study)
    colours = sorted({(model.arm, model.facts.depth or 0) for model in others})
    latents = sorted({model.facts.n_latent or 0 for model in others})
    for i, model in enumerate(others):
        colour = colours.index((model.arm, model.facts.depth or 0)) if crowded else i
        marker = latents.index(model.facts.n_latent or 0) if crowded else i
        styles[model.label] = LineStyle(
            PALETTE[colour % len(PALETTE)],
            "-",
            MARKERS[marker % len(MARKERS)],
            f"{model.arm}, depth {model.facts.depth}" if crowded else model.label,
        )
    return styles


def featured_styles(study: Study, models: Sequence[ModelResult]) -> dict[str, LineStyle]:
    """Those of :func:`line_styles`; where models share colours there, ``models`` get their own."""
    styles = line_styles(study)
    if not is_crowded(study):
        return styles
    others = [model for model in models if not model.facts.is_ad]
    own = {
        model.label: LineStyle(
            PALETTE[i % len(PALETTE)],
            DASHES[i // len(PALETTE) % len(DASHES)],
            MARKERS[i % len(MARKERS)],
            model.label,
        )
        for i, model in enumerate(others)
    }
    return styles | own

"""The deepest and widest model of a grid, against its neighbours at the other end of each axis.

Which models are compared follows from the experiment, not from their returns: the choice flatters none.
"""

from __future__ import annotations

from dataclasses import dataclass

from cad.reports.data.differences import Difference, differences_from
from cad.reports.data.grid import grid_panels
from cad.reports.data.model_result import ModelResult
from cad.reports.data.study import Study


@dataclass(frozen=True)
class Corner:
    """``model`` minus the model with the lowest depth, and minus that with the fewest latents.

    None where an axis has one value, or where the two models share no seed.
    """

    model: ModelResult
    from_shallow: Difference | None
    from_narrow: Difference | None


def corner(study: Study) -> Corner | None:
    """That of the first grid of more than one model; None without one whose corner is done."""
    if not study.comparable:
        return None
    for panel in grid_panels(study):
        model = panel.spots.get((panel.depths[-1], panel.latents[-1]))
        if len(panel.spots) < 2 or model is None or not model.done:
            continue
        shallow = panel.spots.get((panel.depths[0], panel.latents[-1]))
        narrow = panel.spots.get((panel.depths[-1], panel.latents[0]))
        return Corner(model, _minus(model, shallow), _minus(model, narrow))
    return None


def _minus(model: ModelResult, other: ModelResult | None) -> Difference | None:
    """``model`` minus ``other``, paired."""
    if other is None or other is model:
        return None
    return next(iter(differences_from([model], other)), None)

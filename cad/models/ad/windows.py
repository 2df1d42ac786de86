"""AD's training windows: ``n_transit`` steps, from wherever a roll-out's window may begin."""

from __future__ import annotations

import numpy as np

from cad.histories.windows import EpisodeStarts, WindowShape, WindowStarts
from cad.models.ad.config import ADConfig


class ADWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`."""

    shows_previous = True  # a roll-out's window mostly begins after steps that were dropped

    def __init__(self, config: ADConfig, steps: int, horizon: int, max_gap: int) -> None:
        self._shape = WindowShape(config.n_transit, config.n_transit)
        # A window begins in mid-episode wherever roll-outs will drop part of an episode.
        starts = range(0, horizon * config.steps_dropped, config.steps_dropped)
        longest = steps - config.n_transit
        offsets = sorted({start % horizon for start in starts if start % horizon <= longest})
        self._starts = EpisodeStarts(steps, horizon, max_gap, offsets)

    def draw_shape(self, rng: np.random.Generator) -> WindowShape:  # noqa: ARG002
        """Always the whole window."""
        return self._shape

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """See :class:`~cad.histories.windows.EpisodeStarts`."""
        return self._starts.draw(rng, n, shape.length)

"""Training windows of a recurrent model: ``n_unroll`` steps from the beginning of any episode.

The state begins with zeros there, as at the beginning of a roll-out, and is carried through the whole
window: as many episodes as fit into it.
"""

from __future__ import annotations

import numpy as np

from cad.envs.arrays import BoolArray
from cad.histories.windows import EpisodeStarts, WindowShape, WindowStarts


class RecurrentWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`."""

    shows_previous = False  # a state of zeros is that of a roll-out's beginning

    def __init__(self, length: int, steps: int, horizon: int, max_gap: int) -> None:
        self._shape = WindowShape(length, length)
        self._starts = EpisodeStarts(steps, horizon, max_gap)

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:  # noqa: ARG002
        """Always the whole window."""
        return self._shape

    def widest_shape(self, update: int) -> WindowShape:  # noqa: ARG002
        """The same."""
        return self._shape

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """See :class:`~cad.histories.windows.EpisodeStarts`."""
        return self._starts.draw(rng, n, shape.length)

    def begins(self, first: BoolArray) -> BoolArray:
        """Where an episode does."""
        return first

"""Training windows of a recurrent model: ``n_unroll`` steps from the beginning of any episode.

The state begins with zeros there, as at the beginning of a roll-out, and is carried through the whole
window: as many episodes as fit into it.  With a burn-in it begins earlier, and is carried without gradient
through as many steps again, or several times as many (Kapturowski et al., Recurrent Experience Replay in
Distributed Reinforcement Learning, ICLR 2019, section 3).
"""

from __future__ import annotations

import numpy as np

from cad.envs.arrays import BoolArray
from cad.histories.windows import EpisodeStarts, WindowShape, WindowStarts


class RecurrentWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`.

    Args:
        length: steps that carry loss, one segment.
        burn_in: most earlier segments that only feed the state; histories have room for them.
        steps: steps of a history.
        horizon: steps of an episode.
        max_gap: largest gap between episodes.
    """

    shows_previous = False  # a state of zeros is that of a roll-out's beginning

    def __init__(self, length: int, burn_in: int, steps: int, horizon: int, max_gap: int) -> None:
        self._length = length
        self._burn_in = burn_in
        self._starts = EpisodeStarts(steps, horizon, max_gap)

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:  # noqa: ARG002
        """The whole window, after as much burn-in as is drawn."""
        return self._shape(int(rng.integers(0, self._burn_in + 1)) if self._burn_in else 0)

    def widest_shape(self, update: int) -> WindowShape:  # noqa: ARG002
        """The whole window after the longest burn-in."""
        return self._shape(self._burn_in)

    def _shape(self, burn_in: int) -> WindowShape:
        return WindowShape((1 + burn_in) * self._length, self._length, burn_in)

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """See :class:`~cad.histories.windows.EpisodeStarts`."""
        return self._starts.draw(rng, n, shape.length)

    def begins(self, first: BoolArray) -> BoolArray:
        """Where an episode does."""
        return first

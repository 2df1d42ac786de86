"""RegionAD's training windows: whole regions, cut where PPO updated its policy."""

from __future__ import annotations

import numpy as np

from cad.envs.arrays import BoolArray
from cad.histories.windows import WindowShape, WindowStarts
from cad.models.region_ad.config import RegionADConfig


class RegionWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`.

    Windows begin at PPO updates from which whole regions fit into the history.  With an episode gap
    of 1 every cut between two regions is then such an update.
    """

    def __init__(self, config: RegionADConfig, steps: int, horizon: int, max_gap: int) -> None:
        self.shows_previous = not config.compresses_regions
        length = config.training_regions * config.compress_interval
        self._shape = WindowShape(length, config.compress_interval)
        self._horizon = horizon
        self._max_gap = max_gap
        begin = np.arange(0, steps - length + 1, config.compress_interval)
        episode, offset = np.divmod(begin, horizon)
        skipped = -(-(offset + length) // horizon) - 1  # times that the gap is jumped
        self._begin = begin
        # The widest gap that leaves the window within the history.
        self._widest = (steps // horizon - 1 - episode) // np.maximum(skipped, 1)

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:  # noqa: ARG002
        """Always the same."""
        return self._shape

    def widest_shape(self, update: int) -> WindowShape:  # noqa: ARG002
        """The same."""
        return self._shape

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:  # noqa: ARG002
        """Gaps from 1 up to what some start fits, then a start that fits its gap."""
        gap = rng.integers(1, max(1, min(self._max_gap, int(self._widest.max()))) + 1, n)
        # Gaps from 1 up fit the first start; later starts fit narrower gaps.
        fits = (self._widest >= gap[:, None]) | (gap[:, None] == 1)
        nth = (rng.random(n) * fits.sum(axis=1)).astype(np.int64)
        which = (np.cumsum(fits, axis=1) > nth[:, None]).argmax(axis=1)
        episode, offset = np.divmod(self._begin[which], self._horizon)
        return WindowStarts(episode, offset, gap)

    def begins(self, first: BoolArray) -> BoolArray:
        """At PPO updates."""
        at_updates: BoolArray = np.arange(len(first)) % self._shape.segment_length == 0
        return at_updates

"""AD's training windows: ``n_transit`` steps, from wherever a roll-out's window may begin.

With attention sinks a window is the first ``n_sink`` steps of its history, then the others.
"""

from __future__ import annotations

import numpy as np

from cad.envs.arrays import BoolArray
from cad.histories.windows import EpisodeStarts, WindowShape, WindowStarts
from cad.models.ad.config import ADConfig


class ADWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`."""

    shows_previous = True  # a roll-out's window mostly begins after steps that were dropped

    def __init__(self, config: ADConfig, steps: int, horizon: int, max_gap: int) -> None:
        self._sinks, self._horizon = config.n_sink, horizon
        self._shape = WindowShape(config.n_transit, config.n_transit, kept=config.n_sink)
        sliding = config.n_transit - config.n_sink
        # A window begins in mid-episode wherever roll-outs will drop part of an episode.
        first, dropped = config.n_sink, config.steps_dropped
        starts = range(first, first + horizon * dropped, dropped)
        offsets = sorted({start % horizon for start in starts if start % horizon <= steps - sliding})
        self._starts = EpisodeStarts(steps, horizon, max_gap, offsets)

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:  # noqa: ARG002
        """Always the whole window."""
        return self._shape

    def widest_shape(self, update: int) -> WindowShape:  # noqa: ARG002
        """The same."""
        return self._shape

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """See :class:`~cad.histories.windows.EpisodeStarts`; none begins among the sinks."""
        starts = self._starts.draw(rng, n, shape.length - shape.kept)
        if not self._sinks:
            return starts
        # These are windows of which nothing was dropped yet.
        early = starts.episode * self._horizon + starts.offset < self._sinks
        episode, offset = divmod(self._sinks, self._horizon)
        return WindowStarts(
            np.where(early, episode, starts.episode),
            np.where(early, offset, starts.offset),
            np.where(early, 1, starts.gap),
        )

    def begins(self, first: BoolArray) -> BoolArray:
        """Anywhere after the sinks: roll-outs drop steps wherever an episode may be."""
        return np.arange(len(first)) >= self._sinks

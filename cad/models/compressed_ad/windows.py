"""CompressedAD's training windows: segments of one random length, the last of which may have its own."""

from __future__ import annotations

import numpy as np

from cad.envs.arrays import BoolArray
from cad.histories.windows import EpisodeStarts, WindowShape, WindowStarts
from cad.models.compressed_ad.config import CompressedADConfig
from cad.models.compressed_ad.curriculum import DepthCurriculum


class SegmentWindows:
    """See :class:`~cad.histories.windows.TrainingWindows`.

    Args:
        config: segment lengths.
        curriculum: segments of a window, the burn-in not counted.
        burn_in: most earlier segments that only feed the encoder.
        last: shortest and longest last segment; None: as long as the others.
        steps: steps of a history.
        horizon: steps of an episode.
        max_gap: largest gap between episodes.
    """

    shows_previous = False  # a training that unrolls compressions begins with the roll-out

    def __init__(
        self,
        config: CompressedADConfig,
        *,
        curriculum: DepthCurriculum,
        burn_in: int,
        last: tuple[int, int] | None,
        steps: int,
        horizon: int,
        max_gap: int,
    ) -> None:
        self._lengths = config.compress_lengths
        self._curriculum = curriculum
        self._burn_in = burn_in
        self._last = last
        self._steps = steps
        self._starts = EpisodeStarts(steps, horizon, max_gap)

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:
        """One length for all segments, and as much burn-in as histories have room for."""
        before_last = self._curriculum.segments(update) - 1
        low, high = self._lengths
        length = int(rng.integers(low, high + 1))
        last = int(rng.integers(self._last[0], self._last[1] + 1)) if self._last else None
        room = (self._steps - (last or length)) // length - before_last
        burn_in = int(rng.integers(0, min(self._burn_in, room) + 1))
        total = (before_last + burn_in) * length + (last or length)
        return WindowShape(total, length, burn_in, last)

    def widest_shape(self, update: int) -> WindowShape | None:
        """All segments as long as any, and as much burn-in as the shortest ones leave room for."""
        if self._last:
            return None
        shortest, longest = self._lengths
        segments = self._curriculum.segments(update)
        burn_in = min(self._burn_in, self._steps // shortest - segments)
        return WindowShape((segments + burn_in) * longest, longest, burn_in)

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """See :class:`~cad.histories.windows.EpisodeStarts`."""
        return self._starts.draw(rng, n, shape.length)

    def begins(self, first: BoolArray) -> BoolArray:
        """Where an episode does."""
        return first

"""What a kind of model sees of histories: lengths of its training windows, and where they begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cad.envs.arrays import BoolArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WindowShape:
    """Lengths of the windows of one batch, in steps: all of it, and of its segments.

    The first ``burn_in`` segments only feed an encoder, or a recurrent state.  ``last_length`` is that of
    the last segment where it differs from the others'.  ``kept`` steps of ``length`` are the first ones of
    the history; the others follow on from where the window begins.
    """

    length: int
    segment_length: int
    burn_in: int = 0
    last_length: int | None = None
    kept: int = 0

    @property
    def without_burn_in(self) -> WindowShape:
        """The part that carries loss."""
        return replace(self, length=self.length - self.burn_in * self.segment_length, burn_in=0)


class WindowStarts(NamedTuple):
    """Where B windows begin, each (B,): an episode, a step in it, and the gap between its episodes."""

    episode: IntArray
    offset: IntArray
    gap: IntArray


class TrainingWindows(Protocol):
    """Draws what the windows of a batch look like.  One generator draws all, in a fixed order."""

    shows_previous: bool
    """Whether a window's first step tells the action and the reward before it, as in mid-roll-out."""

    def draw_shape(self, rng: np.random.Generator, update: int) -> WindowShape:
        """The lengths that all windows of the batch of an update (counted from 0) have."""

    def widest_shape(self, update: int) -> WindowShape | None:
        """What the windows of every draw of an update fit into, their segments padded at their ends.

        None where draws differ in more than the length of all segments and the burn-in.
        """

    def draw_starts(self, rng: np.random.Generator, n: int, shape: WindowShape) -> WindowStarts:
        """The beginnings of ``n`` windows, such that they end within their histories.

        For histories whose episodes all have one length.
        """

    def begins(self, first: BoolArray) -> BoolArray:
        """At which steps windows may begin (steps,) in a history whose episodes have lengths of their own.

        ``first`` (steps,) says which steps begin an episode; step 0 does, and a window may begin there (after
        the steps that a window keeps).
        """


class EpisodeStarts:
    """Windows that take every g-th episode from any episode on, g drawn from 1 to ``max_gap``.

    Within a few consecutive episodes hardly any improvement is visible; skipping shows the model
    histories that improve (arXiv:2210.14215, section 4).

    Args:
        steps: steps of a history.
        horizon: steps of an episode.
        max_gap: largest gap, as far as histories have the episodes for it.
        offsets: steps into an episode at which a window may begin.
    """

    def __init__(self, steps: int, horizon: int, max_gap: int, offsets: Sequence[int] = (0,)) -> None:
        self._episodes = steps // horizon
        self._horizon = horizon
        self._max_gap = max_gap
        self._offsets = np.array(offsets)

    def draw(self, rng: np.random.Generator, n: int, length: int) -> WindowStarts:
        """Beginnings of ``n`` windows of ``length`` steps."""
        offset = rng.choice(self._offsets, n)
        needed = -(-(int(offset.max()) + length) // self._horizon)  # episodes, rounded up
        widest = min(self._max_gap, (self._episodes - 1) // max(needed - 1, 1))
        gap = rng.integers(1, max(widest, 1) + 1, n)
        return WindowStarts(rng.integers(0, self._episodes - (needed - 1) * gap), offset, gap)

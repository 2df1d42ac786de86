"""Statistics of one model's normalised returns over its seeds.

Roll-outs are averaged first, then tasks, then seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cad.reports.data.cells import LAST_EPISODES, last_episodes
from cad.reports.data.results import FloatArray
from cad.reports.data.statistics import iqm, iqm_interval, mean_interval

FEW_SEEDS = 3  # up to here single seeds are drawn: no test on three pairs can go below p = 0.25


@dataclass(frozen=True, eq=False)
class ModelReturns:
    """Returns of one model's finished cells, and what is computed from them."""

    normalised: FloatArray  # (seeds, tasks, rollouts, episodes), return / optimum of the task
    history: int  # episodes of a source history; training saw no later ones
    bounded: bool = True  # see Measure
    demonstrated: int = 0  # of the first episodes: no returns of the model's own

    @property
    def n_episodes(self) -> int:
        """Episodes of a roll-out."""
        return int(self.normalised.shape[3])

    @property
    def many_seeds(self) -> bool:
        """Whether there are enough seeds to say how training varies."""
        return len(self.normalised) > FEW_SEEDS

    @cached_property
    def seed_curves(self) -> FloatArray:
        """(seeds, episodes): mean over roll-outs, then tasks."""
        curves: FloatArray = self.normalised.mean(axis=2).mean(axis=1)
        return curves

    @cached_property
    def curve(self) -> FloatArray:
        """(episodes,): mean over roll-outs, tasks, seeds."""
        curve: FloatArray = self.seed_curves.mean(axis=0)
        return curve

    @property
    def first_episode(self) -> float | None:
        """Mean return of the first episode; None where it was demonstrated."""
        return None if self.demonstrated else float(self.curve[0])

    @cached_property
    def units(self) -> FloatArray:
        """(seeds, tasks, episodes): mean over roll-outs."""
        units: FloatArray = self.normalised.mean(axis=2)
        return units

    @cached_property
    def scores(self) -> FloatArray:
        """(seeds, tasks): mean of :attr:`units` over the last episodes of the model's own."""
        last = last_episodes(self.n_episodes - self.demonstrated)
        scores: FloatArray = self.units[:, :, -last:].mean(axis=2)
        return scores

    @cached_property
    def history_scores(self) -> FloatArray | None:
        """Like :attr:`scores`, at the end of as many episodes as a history has; None without such."""
        first = max(0, self.history - LAST_EPISODES)
        if self.n_episodes < self.history or first < self.demonstrated:
            return None
        scores: FloatArray = self.units[:, :, first : self.history].mean(axis=2)
        return scores

    def interval(self, values: FloatArray, bounded: bool) -> tuple[FloatArray, FloatArray]:
        """95% interval of the mean of (seeds, tasks, n) values: two (n,), within 0 and 1 if ``bounded``."""
        low, high = mean_interval(values, self.many_seeds)
        if not bounded:
            return low, high
        # A stretched interval may leave the range of possible returns.
        return np.maximum(low, min(0.0, values.min())), np.minimum(high, max(1.0, values.max()))

    @cached_property
    def band(self) -> tuple[FloatArray, FloatArray]:
        """95% interval of :attr:`curve`."""
        return self.interval(self.units, self.bounded)

    @cached_property
    def score_interval(self) -> tuple[float, float]:
        """95% interval of the mean of :attr:`scores`."""
        low, high = self.interval(self.scores[..., None], self.bounded)
        return float(low[0]), float(high[0])

    @cached_property
    def iqm(self) -> float:
        """Interquartile mean of :attr:`scores`."""
        return iqm(self.scores)

    @cached_property
    def iqm_interval(self) -> tuple[float, float]:
        """95% interval of :attr:`iqm`."""
        low, high = iqm_interval(self.scores, self.many_seeds)
        if not self.bounded:
            return low, high
        return max(low, min(0.0, self.scores.min())), min(high, max(1.0, self.scores.max()))

"""Episodes of different length in histories: where they begin, what they return, and windows over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cad.envs.arrays import BoolArray
from cad.histories.windows import IntArray

if TYPE_CHECKING:
    from cad.envs.family import AnyFamily
    from cad.histories.file import Histories


def first_steps(ends: npt.NDArray[np.uint8]) -> BoolArray:
    """Whether each step (..., steps) begins an episode, from whether each ends one."""
    first = np.ones(ends.shape, dtype=bool)
    first[..., 1:] = ends[..., :-1] > 0
    return first


def whole_episodes(rewards: npt.NDArray[np.generic], ends: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Returns (streams, episodes) of the first whole episodes, of as many as every stream has.

    ``rewards`` and ``ends`` are (streams, steps).
    """
    last = [np.flatnonzero(ended) for ended in ends]
    n = min(map(len, last))
    total = np.cumsum(rewards, axis=1, dtype=np.float64)
    sums = np.array([row[at[:n]] for row, at in zip(total, last, strict=True)])
    return np.diff(sums, axis=1, prepend=0.0)


def source_returns(file: Histories, family: AnyFamily, tasks: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns (tasks, streams, episodes) of the source agents, as many episodes as every stream has.

    Of rewards as they were given, not of the numbers that models take of them.
    """
    found = []
    for task in tasks:
        rewards = file.dataset(task, "rewards")
        if family.ends_early:
            found.append(whole_episodes(rewards, file.dataset(task, "episode_ends")))
        else:
            found.append(rewards.reshape(len(rewards), -1, family.horizon).sum(axis=2, dtype=np.float64))
    n = min(each.shape[1] for each in found)
    return np.array([each[:, :n] for each in found])


class EpisodeIndex:
    """Windows over histories whose episodes have lengths of their own.

    A window begins at a step of some episode and goes on to its end, then with the g-th episode after it,
    and so on; the last one may be cut off.

    Args:
        ends: (histories, steps), 1 at the last step of an episode.
        max_gap: largest gap between episodes.
    """

    def __init__(self, ends: npt.NDArray[np.uint8], max_gap: int) -> None:
        self._ends, self._max_gap = ends, max_gap

    def starts(self, history: int) -> IntArray:
        """First steps of a history's episodes, the one that its end cuts off too, and its length."""
        steps = self._ends.shape[1]
        last = np.flatnonzero(self._ends[history, :-1])
        return np.concatenate([[0], last + 1, [steps]]).astype(np.int64)

    def window(
        self, history: int, begins: BoolArray, length: int, drawn: npt.NDArray[np.float64]
    ) -> tuple[IntArray, int]:
        """The steps (length,) of a window, and the step that goes before it (-1: none).

        ``begins`` (steps,) says where it may begin (:meth:`~cad.histories.windows.TrainingWindows.begins`).
        ``drawn`` are two numbers in [0, 1): they choose the gap and the beginning, each uniformly from
        what fits into the history; the gap 1 always does.
        """
        starts = self.starts(history)
        lengths = np.diff(starts)
        places = np.flatnonzero(begins)
        episode = np.searchsorted(starts, places, side="right") - 1
        gap = 1 + int(drawn[0] * self._max_gap)
        while True:
            left = starts[episode + 1] - places + _after(lengths, gap)[episode]
            fits = np.flatnonzero(left >= length)
            if len(fits) or gap == 1:
                break
            gap -= 1
        chosen = fits[int(drawn[1] * len(fits))]
        place, first = int(places[chosen]), int(episode[chosen])
        taken = np.arange(first, len(lengths), gap)
        froms, tos = starts[taken], starts[taken + 1]
        froms[0] = place
        whole = np.cumsum(tos - froms)
        taken_steps = [np.arange(a, b) for a, b in zip(froms, tos, strict=True)][
            : int(np.searchsorted(whole, length)) + 1
        ]
        if place > starts[first]:
            before = place - 1
        else:
            before = int(starts[first - gap + 1]) - 1 if first >= gap else -1
        return np.concatenate(taken_steps)[:length], before


def _after(lengths: IntArray, gap: int) -> IntArray:
    """Steps of the episodes that follow each one at a distance of ``gap``, 2 ``gap``, ..., together."""
    n = len(lengths)
    padded = np.zeros(-(-n // gap) * gap, dtype=np.int64)
    padded[:n] = lengths
    by_gap = padded.reshape(-1, gap)
    total: IntArray = (by_gap[::-1].cumsum(axis=0)[::-1] - by_gap).ravel()[:n]
    return total

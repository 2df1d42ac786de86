"""Windows of learning histories for training.

The sampler has no state: the batch of update ``i`` is a pure function of the seed and of ``i``.  A
resumed run needs only its step number to go on with exactly the samples it would have seen, and
several ranks can each take their share of one global batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cad.config.schema import N_ACTIONS, Config, ModelConfig
from cad.histories.batch import Batch, Steps
from cad.histories.file import Histories
from cad.storage import atomic_dir

# Separates the sampler's random numbers from other uses of the same seed.
_STREAM = 0x5A


@dataclass(frozen=True)
class HistoryArrays:
    """Histories of several tasks: (tasks, streams, steps) uint8, ``observations`` (..., 2)."""

    observations: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.uint8]
    horizon: int


def read_arrays(file: Histories, task_ids: Sequence[int], horizon: int) -> HistoryArrays:
    """The histories of ``task_ids``, in that order; nothing else of the file is read."""

    def stack(name: str) -> npt.NDArray[np.uint8]:
        return np.stack([file.dataset(task, name) for task in task_ids])

    return HistoryArrays(stack("states"), stack("actions"), stack("rewards"), horizon)


def stream_arrays(file: Histories, task_ids: Sequence[int], horizon: int, folder: Path) -> HistoryArrays:
    """As :func:`read_arrays`, for histories larger than memory: an uncompressed copy in ``folder``.

    The copy is made a task at a time where it is not there yet, and mapped into memory: only what
    windows take is read, and the system keeps what memory there is filled with it.
    """
    if not folder.exists():
        with atomic_dir(folder) as temporary:
            for name in _COPIED:
                _copy(file, task_ids, name, temporary / f"{name}.npy")
    observations, actions, rewards = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COPIED)
    return HistoryArrays(observations, actions, rewards, horizon)


_COPIED = ("states", "actions", "rewards")


def _copy(file: Histories, task_ids: Sequence[int], name: str, target: Path) -> None:
    first = file.dataset(task_ids[0], name)
    shape = (len(task_ids), *first.shape)
    copy = np.lib.format.open_memmap(target, mode="w+", dtype=first.dtype, shape=shape)
    for index, task in enumerate(task_ids):
        copy[index] = file.dataset(task, name)
    copy.flush()


class RegionStarts:
    """Where RegionAD's windows may begin: where PPO updated its policy, as whole regions fit behind it.

    With an episode gap of 1 every cut between two regions is then such an update.
    """

    def __init__(self, model: ModelConfig, steps: int, horizon: int) -> None:
        self.window = model.training_regions * model.compress_interval
        self._horizon = horizon
        begin = np.arange(0, steps - self.window + 1, model.compress_interval)
        episode, offset = np.divmod(begin, horizon)
        skipped = -(-(offset + self.window) // horizon) - 1  # times that the gap is jumped
        self._begin = begin
        # The widest gap that leaves the window within the history.
        self._widest = (steps // horizon - 1 - episode) // np.maximum(skipped, 1)

    def draw(
        self, rng: np.random.Generator, n: int, widest: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """First episodes, steps into them, and gaps up to ``widest``, each (n,)."""
        gap = rng.integers(1, max(1, min(widest, int(self._widest.max()))) + 1, n)
        # Gaps from 1 up fit the first start; later starts fit narrower gaps.
        fits = (self._widest >= gap[:, None]) | (gap[:, None] == 1)
        nth = (rng.random(n) * fits.sum(axis=1)).astype(np.int64)
        which = (np.cumsum(fits, axis=1) > nth[:, None]).argmax(axis=1)
        episode, offset = np.divmod(self._begin[which], self._horizon)
        return episode, offset, gap


class WindowSampler:
    """Draws windows that take every g-th episode of one history, g from 1 to ``max_episode_gap``.

    Within a few consecutive episodes hardly any improvement is visible; skipping shows the model
    histories that improve (arXiv:2210.14215, section 4; DESIGN.md, decision 4).  A window never
    mixes two histories.
    """

    def __init__(self, config: Config, arrays: HistoryArrays, segments: int | None = None) -> None:
        """``segments`` of a window; default: those that action training unrolls."""
        self._segments = config.model.max_compression_depth + 1 if segments is None else segments
        # Pre-training, which says how many segments it wants, compresses all of them.
        self._last = config.model.uncompressed_lengths if segments is None else None
        self._seed = config.seed
        self._arrays = arrays
        self._batch = config.train.batch_size
        self._gap = config.train.max_episode_gap
        self._model = config.model
        self._burn_in = config.train.burn_in
        self._tasks, self._streams, self._steps = arrays.actions.shape
        self._episodes = self._steps // arrays.horizon
        # In a roll-out, a window mostly begins behind steps that were dropped; a training that unrolls
        # compressions begins with the roll-out.
        self._shows_before = self._model.kind == "ad" or (
            self._model.kind == "region_ad" and not self._model.folds_regions
        )
        if self._model.kind == "region_ad":
            self._regions = RegionStarts(self._model, self._steps, arrays.horizon)
        # AD's window begins in mid-episode wherever roll-outs will drop part of an episode.
        horizon, drop = arrays.horizon, self._model.steps_dropped
        starts = range(0, horizon * drop, drop) if self._model.kind == "ad" else (0,)
        longest = self._steps - self._model.n_transit
        self._offsets = np.array(sorted({s % horizon for s in starts if s % horizon <= longest}))
        # Flat views: a window is one gather with computed indices.
        self._observations = np.ascontiguousarray(arrays.observations).reshape(-1, 2)
        self._actions = np.ascontiguousarray(arrays.actions).reshape(-1)
        self._rewards = np.ascontiguousarray(arrays.rewards).reshape(-1)

    def batch(self, update: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of an update (counted from 0), or the ``part``-th of its ``parts`` equal parts.

        All parts are of one draw: put together in their order they are the whole batch.
        """
        rng = np.random.default_rng([self._seed, _STREAM, update])
        size = self._batch // parts
        share = slice(part * size, (part + 1) * size)
        if self._model.kind == "ad":
            return self._gather(rng, share, self._model.n_transit, self._model.n_transit, 0)
        if self._model.kind == "region_ad":
            return self._gather(rng, share, self._regions.window, self._model.compress_interval, 0)
        low, high = self._model.compress_lengths
        length = int(rng.integers(low, high + 1))
        last = int(rng.integers(self._last[0], self._last[1] + 1)) if self._last else None
        room = (self._steps - (last or length)) // length - (self._segments - 1)
        burn_in = int(rng.integers(0, min(self._burn_in, room) + 1))
        window = (self._segments - 1 + burn_in) * length + (last or length)
        return self._gather(rng, share, window, length, burn_in, last)

    def _gather(
        self,
        rng: np.random.Generator,
        share: slice,
        window: int,
        segment_length: int,
        burn_in: int,
        last_length: int | None = None,
    ) -> Batch:
        B, horizon = self._batch, self._arrays.horizon
        history = rng.integers(0, self._tasks * self._streams, B)
        if self._model.kind == "region_ad":
            start, offset, gap = self._regions.draw(rng, B, self._gap)
        else:
            offset = rng.choice(self._offsets, B)
            needed = -(-(int(offset.max()) + window) // horizon)  # episodes, rounded up
            widest = min(self._gap, (self._episodes - 1) // max(needed - 1, 1))
            gap = rng.integers(1, max(widest, 1) + 1, B)
            start = rng.integers(0, self._episodes - (needed - 1) * gap)
        history, start, offset, gap = history[share], start[share], offset[share], gap[share]
        # (B, window): step numbers within a history.
        position = offset[:, None] + np.arange(window)
        step = (start[:, None] + position // horizon * gap[:, None]) * horizon + position % horizon
        flat = history[:, None] * self._steps + step

        actions = self._actions[flat].astype(np.int64)
        rewards = self._rewards[flat].astype(np.int64)
        previous_action = np.full_like(actions, N_ACTIONS)
        previous_action[:, 1:] = actions[:, :-1]
        previous_reward = np.zeros_like(rewards)
        previous_reward[:, 1:] = rewards[:, :-1]
        if self._shows_before:
            # The first step tells of the one before it: show that one where the history
            # has it (at the end of the g-th episode before, or one step before).
            before = np.where(offset > 0, step[:, 0] - 1, ((start - gap + 1) * horizon - 1))
            known = before >= 0
            there = (history * self._steps + before)[known]
            previous_action[known, 0] = self._actions[there]
            previous_reward[known, 0] = self._rewards[there]
        steps = Steps(
            observation=torch.from_numpy(self._observations[flat].astype(np.int64)),
            previous_action=torch.from_numpy(previous_action),
            previous_reward=torch.from_numpy(previous_reward),
            first=torch.from_numpy((position % horizon == 0).astype(np.int64)),
        )
        return Batch(steps, torch.from_numpy(actions), segment_length, burn_in, last_length)

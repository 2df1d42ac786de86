"""Windows of learning histories for training.

The sampler has no state: the batch of update ``i`` is a pure function of the seed and of ``i``.  A
resumed run needs only its step number to go on with exactly the samples it would have seen, and
several ranks can each take their share of one global batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cad.checksums import DamagedFileError, file_checksum, is_missing, read_sealed, write_sealed
from cad.envs.arrays import BoolArray
from cad.envs.family import AnyFamily
from cad.histories.batch import Batch, Steps
from cad.histories.episodes import EpisodeIndex, first_steps
from cad.histories.file import Histories
from cad.histories.windows import IntArray, TrainingWindows, WindowShape, WindowStarts
from cad.storage import atomic_dir, sha256_file

# Separates the sampler's random numbers from other uses of the same seed.
_STREAM = 0x5A
CPU = torch.device("cpu")


@dataclass(frozen=True)
class HistoryArrays:
    """Histories of several tasks: (tasks, streams, steps), ``observations`` (..., fields).

    Types are uint8, or larger as the family's spaces need; rewards are as models take them
    (:meth:`~cad.envs.family.Spaces.reward_codes`).

    All episodes last ``horizon`` steps; where ``ends`` is not None, which is 1 at the last step of an
    episode, they last at most as many.  Actions are below ``n_actions``.
    """

    observations: npt.NDArray[Any]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[Any]
    horizon: int
    n_actions: int
    ends: npt.NDArray[np.uint8] | None = None
    in_memory: bool = True
    """Whether they are held in memory; else they are mapped from a file, and stay where they are."""
    _placed: dict[torch.device, _Flat] = field(default_factory=dict, init=False, repr=False, compare=False)

    def on(self, device: torch.device) -> _Flat:
        """All steps in a row, on a device: put there once, for all who draw from them."""
        if not self.in_memory:
            device = CPU
        if device not in self._placed:
            flat = [
                torch.from_numpy(np.ascontiguousarray(part)).to(device)
                for part in (
                    self.observations.reshape(-1, self.observations.shape[-1]),
                    self.actions.reshape(-1),
                    self.rewards.reshape(-1),
                )
            ]
            self._placed[device] = _Flat(*flat)
        return self._placed[device]


class _Flat(NamedTuple):
    """Observations (steps, fields), actions (steps,) and rewards (steps,), history after history."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.actions.device


def read_arrays(file: Histories, family: AnyFamily, task_ids: Sequence[int]) -> HistoryArrays:
    """The histories of ``task_ids``, in that order; nothing else of the file is read."""

    def stack(name: str) -> npt.NDArray[Any]:
        return np.stack([file.dataset(task, name) for task in task_ids])

    arrays = {name: stack(name) for name in _copied(family)}
    return _arrays(arrays, family)


def stream_arrays(
    file: Histories, family: AnyFamily, task_ids: Sequence[int], folder: Path, *, check: bool = True
) -> HistoryArrays:
    """As :func:`read_arrays`, for histories larger than memory: an uncompressed copy in ``folder``.

    The copy is made a task at a time where it is not there yet, and mapped into memory: only what
    windows take is read, and the system keeps what memory there is filled with it.  With ``check`` a copy
    that an earlier attempt left is compared with its checksums, and made again where it differs.
    """
    if check and not _is_copy(folder, _copied(family)):
        with atomic_dir(folder) as temporary:
            for name in _copied(family):
                _copy(file, task_ids, name, temporary / f"{name}.npy")
            sums = {name: sha256_file(temporary / f"{name}.npy") for name in _copied(family)}
            write_sealed(temporary / _NOTE, sums)
    # Copy on write: torch wants arrays that it might write to.
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in _copied(family)}
    return _arrays(mapped, family, in_memory=False)


def _copied(family: AnyFamily) -> tuple[str, ...]:
    """The datasets that are needed for training."""
    return ("states", "actions", "rewards", *(["episode_ends"] if family.ends_early else []))


def _arrays(
    arrays: Mapping[str, npt.NDArray[Any]], family: AnyFamily, *, in_memory: bool = True
) -> HistoryArrays:
    rewards, spaces = arrays["rewards"], family.spaces
    return HistoryArrays(
        arrays["states"],
        arrays["actions"],
        rewards if spaces.reward_values is None else spaces.reward_codes(rewards),
        family.horizon,
        family.spaces.n_actions,
        arrays.get("episode_ends"),
        in_memory,
    )


_NOTE = "checksums.json"


def _is_copy(folder: Path, names: Sequence[str]) -> bool:
    """Whether a copy of datasets of these names is there and is what was written."""
    files = {name: folder / f"{name}.npy" for name in names}
    if any(map(is_missing, (folder / _NOTE, *files.values()))):
        return False
    try:
        note = read_sealed(folder / _NOTE, "")
        return all(note.get(name) == file_checksum(file) for name, file in files.items())
    except DamagedFileError:
        return False


def _copy(file: Histories, task_ids: Sequence[int], name: str, target: Path) -> None:
    first = file.dataset(task_ids[0], name)
    shape = (len(task_ids), *first.shape)
    copy = np.lib.format.open_memmap(target, mode="w+", dtype=first.dtype, shape=shape)
    for index, task in enumerate(task_ids):
        copy[index] = file.dataset(task, name)
    copy.flush()


def as_input(values: Tensor) -> Tensor:
    """Whole numbers as int64; floats as they are."""
    return values if values.dtype == torch.float32 else values.long()


def _send(values: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy to a device, without waiting for the copy."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Draw(NamedTuple):
    """The windows of a batch: each one's history (B,), where it begins in it, and the lengths of all."""

    history: IntArray
    starts: WindowStarts
    shape: WindowShape


class WindowSampler:
    """Draws batches of windows, each of one history.

    Args:
        arrays: the histories.
        windows: what the windows look like; see :mod:`cad.histories.windows`.
        seed: all batches follow from it.
        batch_size: windows of a batch.
        max_gap: largest gap between a window's episodes, where they have lengths of their own.
    """

    def __init__(
        self, arrays: HistoryArrays, windows: TrainingWindows, *, seed: int, batch_size: int, max_gap: int = 1
    ) -> None:
        self.arrays = arrays
        self.windows = windows
        self._seed = seed
        self.batch_size = batch_size
        self._tasks, self._streams, self._steps = arrays.actions.shape
        self._index = None
        if arrays.ends is not None:
            ends = np.ascontiguousarray(arrays.ends).reshape(-1, self._steps)
            self._first, self._index = first_steps(ends), EpisodeIndex(ends, max_gap)

    def _draw_shape(self, update: int) -> tuple[np.random.Generator, WindowShape, IntArray]:
        """What draws the rest of an update's batch, the windows' lengths and their histories (B,)."""
        rng = np.random.default_rng([self._seed, _STREAM, update])
        shape = self.windows.draw_shape(rng, update)
        return rng, shape, rng.integers(0, self._tasks * self._streams, self.batch_size)

    def draw(self, update: int) -> Draw:
        """Which windows the batch of an update has, where all episodes have one length."""
        rng, shape, history = self._draw_shape(update)
        return Draw(history, self.windows.draw_starts(rng, self.batch_size, shape), shape)

    def batch(self, update: int, part: int = 0, parts: int = 1, device: torch.device = CPU) -> Batch:
        """The batch of an update (counted from 0), or the ``part``-th of its ``parts`` equal parts.

        All parts are of one draw: put together in their order they are the whole batch.  Which steps are in
        it is drawn on the CPU, the same for every ``device``; they are gathered where the histories are.
        """
        flat = self.arrays.on(device)
        size = self.batch_size // parts
        share = slice(part * size, (part + 1) * size)
        if self._index is not None:
            rng, shape, history = self._draw_shape(update)
            drawn = self._varying(history, rng, shape, share)
            return self._gather(flat, history[share], *drawn, shape).to(device)
        history, starts, shape = self.draw(update)
        starts = WindowStarts(*(drawn[share] for drawn in starts))
        return self._gather(flat, history[share], *self._regular(starts, shape), shape).to(device)

    def _regular(self, starts: WindowStarts, shape: WindowShape) -> tuple[IntArray, BoolArray, IntArray]:
        """Steps (B, window) within histories whose episodes have one length, which of them begin an episode,
        and the steps before the first ones (B,) after those kept; -1 where there is none."""
        horizon, kept = self.arrays.horizon, shape.kept
        start, offset, gap = starts
        position = offset[:, None] + np.arange(shape.length - kept)
        step = (start[:, None] + position // horizon * gap[:, None]) * horizon + position % horizon
        step = np.concatenate([np.broadcast_to(np.arange(kept), (len(step), kept)), step], axis=1)
        # One step earlier, or at the end of the g-th episode before.
        before = np.where(offset > 0, step[:, kept] - 1, ((start - gap + 1) * horizon - 1))
        return step, step % horizon == 0, before

    def _varying(
        self, history: IntArray, rng: np.random.Generator, shape: WindowShape, share: slice
    ) -> tuple[IntArray, BoolArray, IntArray]:
        """As :meth:`_regular`, of ``share`` of the windows, where episodes have lengths of their own."""
        assert self._index is not None
        drawn, kept = rng.random((len(history), 2))[share], shape.kept
        step = np.empty((len(drawn), shape.length), dtype=np.int64)
        step[:, :kept] = np.arange(kept)
        before = np.empty(len(drawn), dtype=np.int64)
        for row, number in enumerate(history[share]):
            begins = self.windows.begins(self._first[number])
            step[row, kept:], before[row] = self._index.window(
                number, begins, shape.length - kept, drawn[row]
            )
        return step, self._first[history[share][:, None], step], before

    def _gather(
        self,
        flat: _Flat,
        history: IntArray,
        step: IntArray,
        first: BoolArray,
        before: IntArray,
        shape: WindowShape,
    ) -> Batch:
        """One gather with computed indices, on the device of ``flat``."""
        none, kept, device = self.arrays.n_actions, shape.kept, flat.device
        there = _send(history[:, None] * self._steps + step, device)
        actions = flat.actions[there].long()
        rewards = as_input(flat.rewards[there])
        previous_action = torch.full_like(actions, none)
        previous_action[:, 1:] = actions[:, :-1]
        previous_reward = torch.zeros_like(rewards)
        previous_reward[:, 1:] = rewards[:, :-1]
        if self.windows.shows_previous:
            # The step before the first one after those kept, where the history has it (else what is kept goes
            # before).
            known = before >= 0
            rows = _send(np.flatnonzero(known), device)
            earlier = _send((history * self._steps + before)[known], device)
            previous_action[rows, kept] = flat.actions[earlier].long()
            previous_reward[rows, kept] = as_input(flat.rewards[earlier])
        steps = Steps(
            observation=as_input(flat.observations[there]),
            previous_action=previous_action,
            previous_reward=previous_reward,
            first=_send(first.astype(np.int64), device),
        )
        return Batch(steps, actions, shape.segment_length, shape.burn_in, shape.last_length)

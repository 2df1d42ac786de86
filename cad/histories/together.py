"""Windows of several trainings' histories, gathered on their device by one computation.

Only what is drawn is sent: a few numbers a window.  Which steps they stand for is computed where the
histories are, so that a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cad.histories.batch import Batch, Steps
from cad.histories.sampler import HistoryArrays, WindowSampler, as_input
from cad.histories.windows import IntArray, WindowShape


@dataclass(frozen=True)
class Draws:
    """The windows of one update of all trainings.

    ``numbers`` (4, models, B) are each window's history, episode, step in it and gap; ``lengths`` (models,)
    the steps of each training's segments, ``absent`` (models,) how many segments its burn-in has less than
    that of ``widest``, which has room for all.
    """

    numbers: IntArray
    lengths: IntArray
    absent: IntArray
    widest: WindowShape

    @property
    def padded(self) -> bool:
        """Whether any segment is shorter than the widest ones."""
        return bool((self.lengths < self.widest.segment_length).any())


class WindowsTogether:
    """Draws the windows of several samplers, and gathers them."""

    def __init__(self, samplers: Sequence[WindowSampler], device: torch.device) -> None:
        """The samplers are such that :meth:`fits`."""
        self._samplers = samplers
        distinct: dict[int, HistoryArrays] = {id(sampler.arrays): sampler.arrays for sampler in samplers}
        sizes = [arrays.actions.size for arrays in distinct.values()]
        begins = dict(zip(distinct, np.cumsum([0, *sizes]).tolist(), strict=False))
        own = torch.tensor([begins[id(sampler.arrays)] for sampler in samplers], device=device)
        self._base = own[:, None, None]
        parts = [arrays.on(device) for arrays in distinct.values()]
        self._observations, self._actions, self._rewards = (
            same[0] if len(same) == 1 else torch.cat(same) for same in zip(*parts, strict=True)
        )
        first = samplers[0]
        self._steps, self._horizon = first.arrays.actions.shape[-1], first.arrays.horizon
        self._none, self._shows_previous = first.arrays.n_actions, first.windows.shows_previous

    @staticmethod
    def fits(samplers: Sequence[WindowSampler]) -> bool:
        """Whether the samplers' windows can be gathered together.

        Episodes have one length, and histories are of one kind, in memory, and equally long.
        """
        kinds = {
            (
                sampler.arrays.actions.shape[-1],
                sampler.arrays.horizon,
                sampler.arrays.n_actions,
                sampler.batch_size,
                sampler.windows.shows_previous,
            )
            for sampler in samplers
        }
        return len(kinds) == 1 and all(s.arrays.in_memory and s.arrays.ends is None for s in samplers)

    def draw(self, updates: Sequence[int]) -> Draws | None:
        """What each training draws for its own update; None where the windows do not fit into one shape."""
        shapes = [s.windows.widest_shape(update) for s, update in zip(self._samplers, updates, strict=True)]
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes) or len({shape.without_burn_in for shape in known}) > 1:
            return None
        widest = max(known, key=lambda shape: shape.burn_in)
        drawn = [sampler.draw(update) for sampler, update in zip(self._samplers, updates, strict=True)]
        numbers = np.stack([(draw.history, *draw.starts) for draw in drawn], axis=1)
        lengths = np.array([draw.shape.segment_length for draw in drawn])
        absent = np.array([widest.burn_in - draw.shape.burn_in for draw in drawn])
        return Draws(numbers, lengths, absent, widest)

    def gather(
        self, numbers: Tensor, lengths: Tensor, absent: Tensor, widest: WindowShape, padded: bool
    ) -> Batch:
        """Batches (models, B, T) of :class:`Draws`, whose arrays are on the device.

        What is ``padded`` repeats the last step of its segment, a segment that is not there the window's
        first step; ``valid`` is (models, segment_length).
        """
        history, episode, offset, gap = numbers[..., None]
        place, kept, valid = torch.arange(widest.length, device=numbers.device), widest.kept, None
        if padded or widest.burn_in:
            within, segment = place % widest.segment_length, place // widest.segment_length
            own = lengths[:, None]
            place = (segment - absent[:, None]) * own + torch.minimum(within, own - 1)
            place = place.clamp(min=0)[:, None]
            valid = within[: widest.segment_length] < own if padded else None
        begin = self._base + history * self._steps

        def step_at(place: Tensor) -> Tensor:
            """Steps within histories of places in windows."""
            after = offset + place - kept
            step = (episode + after // self._horizon * gap) * self._horizon + after % self._horizon
            return torch.where(place < kept, place, step) if kept else step

        step, before, known = step_at(place), step_at(place - 1), place > 0
        if self._shows_previous:
            # One step earlier, or at the end of the g-th episode before.
            jump = torch.where(offset > 0, step_at(place) - 1, (episode - gap + 1) * self._horizon - 1)
            there = (place == kept) & (jump >= 0)
            before, known = torch.where(there, jump, before), known | there
        index, earlier = begin + step, begin + before.clamp(min=0)
        rewards = as_input(self._rewards[earlier])
        steps = Steps(
            observation=as_input(self._observations[index]),
            previous_action=torch.where(known, self._actions[earlier].long(), self._none),
            previous_reward=torch.where(known, rewards, torch.zeros_like(rewards)),
            first=(step % self._horizon == 0).long(),
        )
        return Batch(
            steps, self._actions[index].long(), widest.segment_length, widest.burn_in,
            valid=valid, absent=absent if widest.burn_in else None,
        )  # fmt: skip

"""Made-up histories: of the shape and range of real ones, for trials in which nothing is to be learned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cad.envs.family import AnyFamily
from cad.histories.sampler import HistoryArrays

_TASKS, _STREAMS = 2, 4


def made_up_histories(family: AnyFamily, steps: int) -> HistoryArrays:
    """Random histories (2 tasks, 4 streams, ``steps`` steps) in the spaces of a family."""
    rng, shape, spaces = np.random.default_rng(0), (_TASKS, _STREAMS, steps), family.spaces
    fields = [rng.integers(0, size, shape).astype(spaces.observation_type) for size in spaces.field_sizes]
    floats = [rng.standard_normal(shape).astype(np.float32) for _ in spaces.real_names]
    rewards = rng.integers(0, spaces.n_rewards or 2, shape)
    return HistoryArrays(
        np.stack([*fields, *floats], axis=-1),
        rng.integers(0, spaces.n_actions, shape).astype(spaces.action_type),
        rewards.astype(np.uint8 if spaces.n_rewards else np.float32),
        family.horizon,
        spaces.n_actions,
        _ends(shape, family.horizon) if family.ends_early else None,
    )


def _ends(shape: tuple[int, ...], horizon: int) -> npt.NDArray[np.uint8]:
    """Episodes as long as they may be."""
    ends = np.arange(1, shape[-1] + 1) % horizon == 0
    return np.broadcast_to(ends, shape).astype(np.uint8)

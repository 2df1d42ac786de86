"""What happened in histories, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SmallArray = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Transitions:
    """Every step of several histories (streams), in order.

    uint8 throughout, but for families whose :class:`~cad.envs.family.Spaces` need more.
    """

    states: Array
    """(streams, steps, fields) observation before the step."""

    actions: Array
    """(streams, steps)."""

    rewards: Array
    """(streams, steps) whole numbers."""

    next_states: Array
    """(streams, steps, fields) true observation after the step, at episode ends too."""

    episode_ends: SmallArray
    """(streams, steps), 1 at the last step of an episode."""

    terminations: SmallArray | None = None
    """(streams, steps), 1 where the task ended the episode, not the time limit; None where no task does."""

"""What happened in histories, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SmallArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Transitions:
    """Every step of several histories (streams), in order; uint8 throughout."""

    states: SmallArray
    """(streams, steps, fields) observation before the step."""

    actions: SmallArray
    """(streams, steps)."""

    rewards: SmallArray
    """(streams, steps) whole numbers."""

    next_states: SmallArray
    """(streams, steps, fields) true observation after the step, at episode ends too."""

    episode_ends: SmallArray
    """(streams, steps), 1 at the last step of an episode."""

    terminations: SmallArray | None = None
    """(streams, steps), 1 where the task ended the episode, not the time limit; None where no task does."""

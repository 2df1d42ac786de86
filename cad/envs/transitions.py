"""What streams live through, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SmallArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Transitions:
    """What every stream lived through, in order; uint8 throughout (a grid has at most 100 rows)."""

    states: SmallArray
    """(streams, steps, 2) row and column before the step."""

    actions: SmallArray
    """(streams, steps)."""

    rewards: SmallArray
    """(streams, steps), 0 or 1."""

    next_states: SmallArray
    """(streams, steps, 2) true state after the step, at episode ends too."""

    episode_ends: SmallArray
    """(streams, steps), 1 at the last step of an episode."""

"""What happened in histories, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
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

    def split(self, n_tasks: int) -> list[Transitions]:
        """Those of each of ``n_tasks`` tasks with equally many streams, one task's after the other's."""
        parts: list[dict[str, Any]] = [{} for _ in range(n_tasks)]
        for field in fields(self):
            array = getattr(self, field.name)
            pieces = [None] * n_tasks if array is None else np.split(array, n_tasks)
            for part, piece in zip(parts, pieces, strict=True):
                part[field.name] = piece
        return [Transitions(**part) for part in parts]

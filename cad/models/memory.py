"""What a roll-out keeps between steps: the protocol that each kind's memory follows.

Memory is constant: buffers are allocated once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cad.histories.batch import Steps

Counts = int | npt.NDArray[np.int64]
"""A number a roll-out (B,), or one for all where they are in lock step."""


class Memory(Protocol):
    """In-context state of a batch of roll-outs.

    ``compressions`` counts those so far; ``chosen``, those among them that the model asked for
    itself, where others came about because its window was full.
    """

    compressions: Counts
    chosen: Counts

    @property
    def compressed(self) -> Tensor | None:
        """What it knows of steps that it no longer keeps, (B, ...); None where that is nothing."""

    @compressed.setter
    def compressed(self, value: Tensor) -> None:
        """Replace it; the steps that are kept stay."""

    def observe(self, step: Steps) -> Tensor:
        """Take in one step (fields (B, 1)); return the logits (B, actions) of its action."""

    @property
    def state_bytes(self) -> int:
        """Bytes kept for one roll-out."""

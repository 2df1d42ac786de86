"""Steps and windows of histories as tensors: what the sampler gives and the models take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Consecutive steps of B histories; every field is (B, T) int64, ``observation`` (B, T, fields).

    Where observations have floats, ``observation`` is (B, T, fields + floats) float32; where rewards are
    floats, so is ``previous_reward``.

    Where nothing came before, ``previous_action`` is the number of actions (one more than the last
    action) and ``previous_reward`` 0.
    """

    observation: Tensor
    previous_action: Tensor
    previous_reward: Tensor
    first: Tensor

    def to(self, device: torch.device) -> Steps:
        """Copy to a device, without waiting for the copy."""
        return Steps(
            self.observation.to(device, non_blocking=True),
            self.previous_action.to(device, non_blocking=True),
            self.previous_reward.to(device, non_blocking=True),
            self.first.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Batch:
    """Windows to learn from: ``steps`` and the actions (B, T) int64 that were taken in them.

    The first ``burn_in`` of the window's segments of ``segment_length`` steps only feed the encoder,
    or the state of a recurrent model, which has one more segment; for models without segments
    ``segment_length`` is T and ``burn_in`` 0.  The last segment has ``last_length`` steps.

    Where windows of several lengths go through one call, segments are padded at their ends:
    ``valid`` (segment_length,) bool, equal for all segments, is False where there is no step.  Where
    windows of several burn-ins do, ``absent`` () int64 of the first ``burn_in`` segments are not there.
    """

    steps: Steps
    actions: Tensor
    segment_length: int
    burn_in: int = 0
    uncompressed_length: int | None = None
    valid: Tensor | None = None
    absent: Tensor | None = None

    @property
    def last_length(self) -> int:
        """Steps of the last segment; as many as the others have unless it is said."""
        return self.uncompressed_length or self.segment_length

    def to(self, device: torch.device) -> Batch:
        """Copy to a device, without waiting for the copy."""
        return Batch(
            self.steps.to(device),
            self.actions.to(device, non_blocking=True),
            self.segment_length,
            self.burn_in,
            self.uncompressed_length,
            None if self.valid is None else self.valid.to(device, non_blocking=True),
            None if self.absent is None else self.absent.to(device, non_blocking=True),
        )
